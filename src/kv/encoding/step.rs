//! Transactions and their steps.
//!
//! ```text
//! fields   watched: key │ revision, …   steps: step, …
//! step     0 │ command                  a write
//!          tag │ fields                 a read
//! ```

use bytes::Bytes;

use super::fields::{Malformed, Reader, put_bytes, put_number, put_signed};
use super::{COMMAND_VERSION, TRANSACTION, fields_of, put_command, size_hint};
use crate::kv::{Command, Query, Step};

const WRITE: u8 = 0;
const GET: u8 = 1;
const MULTI_GET: u8 = 2;
const EXISTS: u8 = 3;
const LENGTH: u8 = 4;
const TYPE: u8 = 5;
const TIME_TO_LIVE: u8 = 6;
const REVISION: u8 = 7;
const SIZE: u8 = 8;
const SLICE: u8 = 9;
const EXPIRE_TIME: u8 = 10;
const LEASE: u8 = 11;
const REVISIONS: u8 = 12;

/// About how many bytes a transaction takes.
pub(super) fn hint(watched: &[(Bytes, u64)], steps: &[Step]) -> usize {
    let step = |step: &Step| match step {
        Step::Write(command) => size_hint(command) + 24,
        Step::Read(query) => query.keys().map(|key| key.len() + 4).sum::<usize>() + 24,
    };
    let watched: usize = watched.iter().map(|(key, _)| key.len() + 12).sum();
    watched + steps.iter().map(step).sum::<usize>() + 24
}

pub(super) fn put_transaction(out: &mut Vec<u8>, watched: &[(Bytes, u64)], steps: &[Step]) {
    out.push(TRANSACTION);
    put_number(out, watched.len() as u64);
    for (key, revision) in watched {
        put_bytes(out, key);
        put_number(out, *revision);
    }
    put_number(out, steps.len() as u64);
    for step in steps {
        match step {
            Step::Write(command) => {
                out.push(WRITE);
                put_command(out, command);
            }
            Step::Read(query) => put_query(out, query),
        }
    }
}

pub(super) fn transaction(reader: &mut Reader) -> Result<Command, Malformed> {
    Ok(Command::Transaction {
        watched: reader.list(|reader| Ok((reader.bytes()?, reader.number()?)))?,
        steps: reader.list(step)?,
    })
}

fn step(reader: &mut Reader) -> Result<Step, Malformed> {
    match reader.byte()? {
        WRITE => {
            reader.version(COMMAND_VERSION)?;
            let tag = reader.byte()?;
            // Looked at before the fields are read, so that no bytes make this go deep.
            let is_plain = matches!(tag, 1..=10 | 20..=25 | 41..=42);
            if !is_plain {
                return Err(reader.malformed("a command that may not be part of a transaction"));
            }
            Ok(Step::Write(fields_of(reader, tag)?))
        }
        tag => Ok(Step::Read(query(reader, tag)?)),
    }
}

fn put_query(out: &mut Vec<u8>, query: &Query) {
    let (tag, key, flag) = match query {
        Query::MultiGet(keys) => return put_keys(out, MULTI_GET, keys),
        Query::Exists(keys) => return put_keys(out, EXISTS, keys),
        Query::Revisions(keys) => return put_keys(out, REVISIONS, keys),
        Query::Size => return out.push(SIZE),
        Query::Lease(id) => {
            out.push(LEASE);
            return put_number(out, *id);
        }
        Query::Slice { key, start, end } => {
            out.push(SLICE);
            put_bytes(out, key);
            put_signed(out, *start);
            return put_signed(out, *end);
        }
        Query::Get(key) => (GET, key, None),
        Query::Length(key) => (LENGTH, key, None),
        Query::Type(key) => (TYPE, key, None),
        Query::Revision(key) => (REVISION, key, None),
        Query::TimeToLive { key, milliseconds } => (TIME_TO_LIVE, key, Some(*milliseconds)),
        Query::ExpireTime { key, milliseconds } => (EXPIRE_TIME, key, Some(*milliseconds)),
    };
    out.push(tag);
    put_bytes(out, key);
    out.extend(flag.map(u8::from));
}

fn put_keys(out: &mut Vec<u8>, tag: u8, keys: &[Bytes]) {
    out.push(tag);
    put_number(out, keys.len() as u64);
    keys.iter().for_each(|key| put_bytes(out, key));
}

fn query(reader: &mut Reader, tag: u8) -> Result<Query, Malformed> {
    Ok(match tag {
        GET => Query::Get(reader.bytes()?),
        MULTI_GET => Query::MultiGet(reader.list(Reader::bytes)?),
        EXISTS => Query::Exists(reader.list(Reader::bytes)?),
        LENGTH => Query::Length(reader.bytes()?),
        TYPE => Query::Type(reader.bytes()?),
        TIME_TO_LIVE => Query::TimeToLive {
            key: reader.bytes()?,
            milliseconds: reader.flag()?,
        },
        REVISION => Query::Revision(reader.bytes()?),
        SIZE => Query::Size,
        SLICE => Query::Slice {
            key: reader.bytes()?,
            start: reader.signed()?,
            end: reader.signed()?,
        },
        EXPIRE_TIME => Query::ExpireTime {
            key: reader.bytes()?,
            milliseconds: reader.flag()?,
        },
        LEASE => Query::Lease(reader.number()?),
        REVISIONS => Query::Revisions(reader.list(Reader::bytes)?),
        _ => return Err(reader.malformed("unknown kind of step")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;
    use crate::kv::encoding::{decode_command, encode_command};
    use crate::kv::twin::any_command;

    #[test]
    fn every_command_that_may_be_a_step_can_be_read_as_one_and_no_other() {
        let mut rng = Rng::new(1);
        for _ in 0..3000 {
            let command = any_command(&mut rng, 1000);
            let may_be_step = command.may_be_step();
            let whole = Command::Transaction {
                watched: vec![],
                steps: vec![Step::Write(command)],
            };
            assert_eq!(
                decode_command(encode_command(&whole)).is_ok(),
                may_be_step,
                "{whole:?}"
            );
        }
    }

    #[test]
    fn transactions_do_not_nest_however_many_bytes_ask_for_it() {
        let head = [COMMAND_VERSION, TRANSACTION, 0, 1, WRITE];
        assert!(decode_command(head.repeat(200_000).into()).is_err());
    }

    /// If this fails, old logs are no longer readable: add a tag, and leave these.
    #[test]
    fn golden() {
        let k = || Bytes::from("k");
        let (key, milliseconds) = (k(), true);
        let reads = [
            (Query::Get(k()), &b"\x01\x01k"[..]),
            (Query::MultiGet(vec![k()]), b"\x02\x01\x01k"),
            (Query::Exists(vec![k()]), b"\x03\x01\x01k"),
            (Query::Length(k()), b"\x04\x01k"),
            (Query::Type(k()), b"\x05\x01k"),
            (
                Query::TimeToLive {
                    key: key.clone(),
                    milliseconds,
                },
                b"\x06\x01k\x01",
            ),
            (Query::Revision(k()), b"\x07\x01k"),
            (Query::Size, b"\x08"),
            (
                Query::Slice {
                    key: k(),
                    start: 1,
                    end: -1,
                },
                b"\x09\x01k\x02\x01",
            ),
            (Query::ExpireTime { key, milliseconds }, b"\x0a\x01k\x01"),
            (Query::Lease(300), b"\x0b\xac\x02"),
            (Query::Revisions(vec![k()]), b"\x0c\x01\x01k"),
        ];
        let (mut steps, mut bytes) = (vec![], b"\x01\x1e\x01\x01k\xac\x02\x0d".to_vec());
        for (query, read) in reads {
            steps.push(Step::Read(query));
            bytes.extend_from_slice(read);
        }
        steps.push(Step::Write(Command::Persist { key: k() }));
        bytes.extend_from_slice(b"\0\x01\x09\x01k");
        let watched = vec![(k(), 300)];
        let command = Command::Transaction { watched, steps };
        assert_eq!(encode_command(&command), bytes);
        assert_eq!(decode_command(bytes.into()), Ok(command));
    }
}
