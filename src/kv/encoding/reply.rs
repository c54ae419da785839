//! Replies, as the leader hands them back to the follower that passed a command on.

use bytes::Bytes;

use super::fields::{Malformed, Reader, put_bytes, put_number, put_signed};
use crate::kv::{Code, Error, Reply};

const VERSION: u8 = 1;

/// A list of lists of lists … at most so deep. No command answers with more than two.
const DEPTH_MAX: u32 = 8;

const OK: u8 = 1;
const TEXT: u8 = 2;
const INTEGER: u8 = 3;
const VALUE: u8 = 4;
const NIL: u8 = 5;
const LIST: u8 = 6;
const ERROR: u8 = 7;

/// The bytes of a reply. Lists more than eight deep become errors, which no command makes necessary.
pub fn encode_reply(reply: &Reply) -> Bytes {
    let mut out = vec![VERSION];
    put_reply(&mut out, reply, 0);
    out.into()
}

/// The reply in these bytes, whose values are slices of them.
///
/// # Errors
/// For all bytes that [`encode_reply`] does not make.
pub fn decode_reply(input: Bytes) -> Result<Reply, Malformed> {
    let mut reader = Reader::new(input);
    reader.version(VERSION)?;
    let reply = reply(&mut reader, 0)?;
    reader.end()?;
    Ok(reply)
}

fn put_reply(out: &mut Vec<u8>, reply: &Reply, depth: u32) {
    match reply {
        Reply::Ok => out.push(OK),
        Reply::Text(text) => {
            out.push(TEXT);
            put_bytes(out, text.as_bytes());
        }
        Reply::Integer(number) => {
            out.push(INTEGER);
            put_signed(out, *number);
        }
        Reply::Value(value) => {
            out.push(VALUE);
            put_bytes(out, value);
        }
        Reply::Nil => out.push(NIL),
        Reply::List(_) if depth == DEPTH_MAX => {
            put_error(out, Code::Err, "this part of the reply is nested too deeply");
        }
        Reply::List(replies) => {
            out.push(LIST);
            put_number(out, replies.len() as u64);
            for reply in replies {
                put_reply(out, reply, depth + 1);
            }
        }
        Reply::Error(error) => put_error(out, error.code, &error.text),
    }
}

fn put_error(out: &mut Vec<u8>, code: Code, text: &str) {
    let number = Code::ALL.iter().position(|other| *other == code);
    out.push(ERROR);
    // All codes are in ALL, a test says; the code that promises nothing stands in for one that were not.
    let number = number.unwrap_or(UNKNOWN_RESULT_NUMBER);
    put_number(out, number as u64);
    put_bytes(out, text.as_bytes());
}

/// The place of `UnknownResult` in [`Code::ALL`].
const UNKNOWN_RESULT_NUMBER: usize = 13;

fn reply(reader: &mut Reader, depth: u32) -> Result<Reply, Malformed> {
    Ok(match reader.byte()? {
        OK => Reply::Ok,
        TEXT => Reply::Text(text(reader)?.into()),
        INTEGER => Reply::Integer(reader.signed()?),
        VALUE => Reply::Value(reader.bytes()?),
        NIL => Reply::Nil,
        LIST if depth == DEPTH_MAX => return Err(reader.malformed("lists nested too deeply")),
        LIST => Reply::List(reader.list(|reader| reply(reader, depth + 1))?),
        ERROR => {
            let number = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
            let code = Code::ALL.get(number).copied();
            Reply::Error(Error {
                code: code.ok_or_else(|| reader.malformed("unknown error code"))?,
                text: text(reader)?.into(),
            })
        }
        _ => return Err(reader.malformed("unknown reply")),
    })
}

fn text(reader: &mut Reader) -> Result<String, Malformed> {
    let bytes = reader.bytes()?;
    String::from_utf8(bytes.into()).map_err(|_| reader.malformed("text that is no UTF-8"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::rng::Rng;

    fn any_reply(rng: &mut Rng, depth: u64) -> Reply {
        let word = |rng: &mut Rng| "añ\n".repeat(rng.below(4) as usize);
        match rng.below(if depth == 0 { 6 } else { 8 }) {
            0 => Reply::Ok,
            1 => Reply::Text(word(rng).into()),
            2 => Reply::Integer(rng.next_u64() as i64 >> rng.below(64)),
            3 => Reply::Value(Bytes::from(word(rng))),
            4 => Reply::Nil,
            5 => Reply::error(Code::ALL[rng.below(16) as usize], word(rng)),
            _ => Reply::List((0..rng.below(4)).map(|_| any_reply(rng, depth - 1)).collect()),
        }
    }

    fn nested(depth: u32) -> Reply {
        (0..depth).fold(Reply::Nil, |inner, _| Reply::List(vec![inner]))
    }

    proptest! {
        #[test]
        fn replies_come_back(seed: u64) {
            let reply = any_reply(&mut Rng::new(seed), 7);
            prop_assert_eq!(decode_reply(encode_reply(&reply)), Ok(reply));
        }

        #[test]
        fn what_is_read_is_what_would_be_written(seed: u64, at: u64, byte: u8) {
            let mut bytes = encode_reply(&any_reply(&mut Rng::new(seed), 3)).to_vec();
            let at = (at % bytes.len() as u64) as usize;
            bytes[at] = byte;
            if let Ok(reply) = decode_reply(bytes.clone().into()) {
                prop_assert_eq!(encode_reply(&reply), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
            bytes.insert(0, VERSION);
            let _ = decode_reply(bytes.into());
        }
    }

    #[test]
    fn golden() {
        let reply = Reply::List(vec![
            Reply::Ok,
            Reply::Text("hé".into()),
            Reply::Integer(-2),
            Reply::Value(Bytes::from("v")),
            Reply::Nil,
            Reply::error(Code::Oom, "no"),
        ]);
        let bytes = b"\x01\x06\x06\x01\x02\x03h\xc3\xa9\x03\x03\x04\x01v\x05\x07\x08\x02no";
        assert_eq!(encode_reply(&reply), &bytes[..]);
        assert_eq!(decode_reply(Bytes::from_static(bytes)), Ok(reply));
        for code in Code::ALL {
            let reply = Reply::error(code, "");
            assert_eq!(decode_reply(encode_reply(&reply)), Ok(reply));
        }
        assert_eq!(Code::ALL[UNKNOWN_RESULT_NUMBER], Code::UnknownResult);
    }

    #[test]
    fn depth_is_bounded() {
        assert_eq!(decode_reply(encode_reply(&nested(8))), Ok(nested(8)));
        let cut = format!("{:?}", decode_reply(encode_reply(&nested(9))));
        assert!(cut.contains("too deeply"), "{cut}");
        let deep = [&[VERSION][..], &[LIST, 1].repeat(100_000)].concat();
        assert!(decode_reply(deep.into()).is_err());
        assert!(decode_reply(Bytes::from_static(b"\x01\x06\xff\xff\xff\xff\x7f")).is_err());
    }
}
