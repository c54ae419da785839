//! What the fuzz targets have in common, and the tests that play what fuzzing has found.
//!
//! A target is a function in the `fuzzing` module of the layer whose decoder it tries: it takes any bytes, and it
//! panics where the decoder breaks a promise. `fuzz/` runs the targets with coverage guidance; `fuzz/cases/` keeps the
//! cases that reached something new, one a line in hexadecimal digits, and the tests play those, and what becomes of
//! them by small changes from a fixed seed.

/// The input cut into pieces: the first byte says how long they are, 0 for one piece.
pub fn pieces(data: &[u8]) -> (impl Iterator<Item = &[u8]> + Clone, &[u8]) {
    let (piece, input) = data
        .split_first()
        .map_or((0, data), |(first, rest)| (*first, rest));
    let len = match piece {
        0 => input.len().max(1),
        len => usize::from(len),
    };
    (input.chunks(len), input)
}

/// The parts of the input, each of which has its length in two bytes, big-endian, in front. The last one may be short.
pub fn parts(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (len, rest) = data.split_first_chunk::<2>()?;
        let len = usize::from(u16::from_be_bytes(*len)).min(rest.len());
        let (part, rest) = rest.split_at_checked(len)?;
        data = rest;
        Some(part)
    })
}

/// Plays the cases of a file of `fuzz/cases/`, and so many more that are made of them.
#[cfg(test)]
pub(crate) fn play(cases: &str, changed: usize, target: fn(&[u8])) {
    use crate::base::{escape::hex_digit, rng::Rng};

    let byte = |pair: &[u8]| hex_digit(pair[0]).unwrap() << 4 | hex_digit(pair[1]).unwrap();
    let bytes = |line: &str| line.as_bytes().chunks(2).map(byte).collect();
    let cases: Vec<Vec<u8>> = cases.lines().map(bytes).collect();
    assert!(!cases.is_empty());
    cases.iter().for_each(|case| target(case));
    let mut rng = Rng::new(7238);
    for _ in 0..changed {
        let mut case = pick(&cases, &mut rng).clone();
        for _ in 0..=rng.below(4) {
            change(&mut case, &cases, &mut rng);
        }
        target(&case);
    }
}

#[cfg(test)]
fn pick<'a>(cases: &'a [Vec<u8>], rng: &mut super::rng::Rng) -> &'a Vec<u8> {
    &cases[rng.below(cases.len() as u64) as usize]
}

/// One small change: a bit, a byte, an end that is missing, a part that is there twice, the end of another case.
#[cfg(test)]
fn change(case: &mut Vec<u8>, cases: &[Vec<u8>], rng: &mut super::rng::Rng) {
    let len = case.len() as u64;
    let at = rng.below(len) as usize;
    match rng.below(6) {
        0 if len > 0 => case[at] ^= 1 << rng.below(8),
        1 if len > 0 => case[at] = [0, 1, 0x7f, 0x80, 0xff][rng.below(5) as usize],
        2 => case.truncate(at),
        3 => case.insert(at, rng.next_u64() as u8),
        4 => case.extend_from_within(at..),
        _ => {
            let other = pick(cases, rng);
            case.truncate(at);
            case.extend_from_slice(&other[rng.below(other.len() as u64) as usize..]);
        }
    }
}
