//! Replies as a load generator sees them: where one ends, and whether it is an error. Nothing is copied but errors.

use anyhow::bail;

/// How one reply ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Carried out.
    Done,
    /// An error, with its line.
    Error(String),
}

/// The longest line that is no string.
const LINE_MAX_BYTES: usize = 64 << 10;

/// Takes the next whole reply off the start of `input`: what it is, and how many bytes it has. `None` if more must
/// come. Lists, which no request here is answered with, are an error.
pub(super) fn next(input: &[u8]) -> anyhow::Result<Option<(Answer, usize)>> {
    let Some(end) = input.iter().take(LINE_MAX_BYTES).position(|byte| *byte == b'\n') else {
        if input.len() >= LINE_MAX_BYTES {
            bail!("the server sent a line of more than {LINE_MAX_BYTES} bytes");
        }
        return Ok(None);
    };
    let line = input.get(..end).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.first() {
        Some(b'+' | b':' | b'_' | b'#') => Ok(Some((Answer::Done, end + 1))),
        Some(b'-') => {
            let text = String::from_utf8_lossy(line.get(1..).unwrap_or_default()).into_owned();
            Ok(Some((Answer::Error(text), end + 1)))
        }
        Some(b'$') => {
            let length = std::str::from_utf8(line.get(1..).unwrap_or_default()).ok();
            match length.and_then(|length| length.parse::<i64>().ok()) {
                Some(-1) => Ok(Some((Answer::Done, end + 1))),
                Some(length @ 0..=0x2000_0000) => {
                    let whole = end + 1 + length as usize + 2;
                    Ok((input.len() >= whole).then_some((Answer::Done, whole)))
                }
                _ => bail!("the server sent a string of an impossible length"),
            }
        }
        _ => bail!(
            "the server sent '{}', which is no reply to what was asked",
            String::from_utf8_lossy(line)
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_told_apart_and_never_taken_in_part() {
        let all = b"+OK\r\n:12\r\n$-1\r\n_\r\n$5\r\nab\r\nc\r\n-ERR no\r\n";
        for cut in 0..=all.len() {
            let (mut rest, mut found) = (&all[..cut], Vec::new());
            while let Some((answer, bytes)) = next(rest).unwrap() {
                found.push(answer);
                rest = &rest[bytes..];
            }
            let whole = [5, 10, 15, 18, 29, 38].iter().filter(|end| **end <= cut).count();
            assert_eq!(found.len(), whole, "of the first {cut} bytes");
            if cut == all.len() {
                assert_eq!(found[5], Answer::Error("ERR no".into()));
            }
        }
        for bad in ["*1\r\n", "$x\r\n", "$-2\r\n", "hello\r\n", "\r\n"] {
            assert!(next(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
