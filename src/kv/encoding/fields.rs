//! Numbers and byte strings, written in one way only and read without trust.

use bytes::Bytes;

/// Bytes that are no encoding: cut short, unknown, or not the one way to write what they mean.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed at byte {offset}: {reason}")]
pub struct Malformed {
    /// Where in the bytes.
    pub offset: usize,
    /// What is wrong there.
    pub reason: &'static str,
}

/// Seven bits a byte, lowest first; the top bit says that more follow.
pub(in crate::kv) fn put_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Zigzag: 0, -1, 1, -2, … as 0, 1, 2, 3, …
pub(in crate::kv) fn put_signed(out: &mut Vec<u8>, number: i64) {
    put_number(out, ((number << 1) ^ (number >> 63)) as u64);
}

pub(in crate::kv) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_number(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes fields off the front; byte strings are slices of the input.
pub(in crate::kv) struct Reader {
    rest: Bytes,
    length: usize,
}

impl Reader {
    pub(in crate::kv) fn new(input: Bytes) -> Reader {
        let length = input.len();
        Reader { rest: input, length }
    }

    pub(in crate::kv) fn malformed(&self, reason: &'static str) -> Malformed {
        Malformed {
            offset: self.length - self.rest.len(),
            reason,
        }
    }

    pub(in crate::kv) fn version(&mut self, version: u8) -> Result<(), Malformed> {
        if self.rest.first() != Some(&version) {
            return Err(self.malformed("unknown version"));
        }
        self.byte().map(drop)
    }

    pub(in crate::kv) fn byte(&mut self) -> Result<u8, Malformed> {
        let byte = self.rest.first().copied();
        let byte = byte.ok_or_else(|| self.malformed("cut short"))?;
        drop(self.rest.split_to(1));
        Ok(byte)
    }

    /// 0 or 1.
    pub(in crate::kv) fn flag(&mut self) -> Result<bool, Malformed> {
        match self.byte()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(self.malformed("neither yes nor no")),
        }
    }

    /// The byte so far ahead, which stays.
    pub(in crate::kv) fn peek(&self, ahead: usize) -> Option<u8> {
        self.rest.get(ahead).copied()
    }

    pub(in crate::kv) fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for (at, &byte) in self.rest.iter().take(10).enumerate() {
            // The tenth byte holds the one bit that is left of 64.
            if at == 9 && byte > 1 {
                return Err(self.malformed("a number of more than 64 bits"));
            }
            number |= u64::from(byte & 0x7f) << (7 * at);
            if byte & 0x80 == 0 {
                if byte == 0 && at > 0 {
                    return Err(self.malformed("a number longer than it need be"));
                }
                drop(self.rest.split_to(at + 1));
                return Ok(number);
            }
        }
        Err(self.malformed("cut short"))
    }

    pub(in crate::kv) fn signed(&mut self) -> Result<i64, Malformed> {
        let number = self.number()?;
        Ok((number >> 1) as i64 ^ -((number & 1) as i64))
    }

    pub(in crate::kv) fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = self.number()?;
        match usize::try_from(length) {
            Ok(length) if length <= self.rest.len() => Ok(self.rest.split_to(length)),
            _ => Err(self.malformed("cut short")),
        }
    }

    pub(in crate::kv) fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let Some(array) = self.rest.first_chunk::<N>().copied() else {
            return Err(self.malformed("cut short"));
        };
        drop(self.rest.split_to(N));
        Ok(array)
    }

    /// A count and as many items. Memory grows with what is read, not with the count: each item takes at
    /// least one byte.
    pub(in crate::kv) fn list<T>(
        &mut self,
        mut item: impl FnMut(&mut Reader) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, Malformed> {
        let count = self.number()?;
        if count > self.rest.len() as u64 {
            return Err(self.malformed("cut short"));
        }
        (0..count).map(|_| item(self)).collect()
    }

    /// As many bytes as are there, at most so many.
    pub(in crate::kv) fn up_to(&mut self, length: usize) -> Bytes {
        self.rest.split_to(length.min(self.rest.len()))
    }

    pub(in crate::kv) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(in crate::kv) fn end(&self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(self.malformed("bytes behind the end"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        for shift in 0..64 {
            for number in [1u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
                let mut out = Vec::new();
                put_number(&mut out, number);
                put_signed(&mut out, number as i64);
                put_signed(&mut out, (number as i64).wrapping_neg());
                let mut reader = Reader::new(out.into());
                assert_eq!(reader.number(), Ok(number));
                assert_eq!(reader.signed(), Ok(number as i64));
                assert_eq!(reader.signed(), Ok((number as i64).wrapping_neg()));
                assert_eq!(reader.end(), Ok(()));
            }
        }
    }

    #[test]
    fn only_one_way_to_write_a_number() {
        for bytes in [
            &b""[..],
            b"\x80",
            b"\x80\x00",
            b"\xff\x80\x00",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x81\x00",
        ] {
            assert!(
                Reader::new(Bytes::from_static(bytes)).number().is_err(),
                "{bytes:?}"
            );
        }
    }
}
