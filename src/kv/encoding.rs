//! Commands and replies as bytes: in the log, and between nodes.
//!
//! ```text
//! entry    1 │ time │ command          in the log: what `stamp` makes of a command
//! command  1 │ tag │ fields            between nodes: a follower passes a client's command on
//! reply    1 │ tag │ fields            between nodes: the leader's answer
//! ```
//!
//! The 1 is the version of that form, one byte; the time is in milliseconds since 1970-01-01 UTC. Numbers are
//! varints (signed ones zigzag), byte strings and lists come after their length, choices are tags of one
//! byte. The command within an entry is the command as it was passed on: the leader puts the time in front of
//! bytes that it need not encode again.
//!
//! Bytes have one meaning and each value one encoding: what decodes, encodes to the same bytes. Decoding
//! copies nothing but texts, does not panic, and takes memory in proportion to the bytes that are there.
//!
//! A log outlives the program that wrote it. Tags and fields are never reused or reordered: a command that
//! changes its meaning gets a new tag, a new layout a new version, and the golden test below stays.

use bytes::Bytes;

use super::{Command, Condition, ExpireCondition, Moment, SetAnswer, SetExpiry};

pub(super) mod fields;
mod reply;
mod step;

pub use fields::Malformed;
pub use reply::{decode_reply, encode_reply};

use fields::{Reader, put_bytes, put_number, put_signed};

const ENTRY_VERSION: u8 = 1;
const COMMAND_VERSION: u8 = 1;

const SET: u8 = 1;
const DELETE: u8 = 2;
const DELETE_IF_EQUAL: u8 = 3;
const GET_DELETE: u8 = 4;
const INCREMENT: u8 = 5;
const APPEND: u8 = 6;
const MULTI_SET: u8 = 7;
const EXPIRE: u8 = 8;
const PERSIST: u8 = 9;
const FLUSH_ALL: u8 = 10;
const EXPIRE_DUE: u8 = 11;
const BOOTSTRAP: u8 = 12;
const GET_EXPIRE: u8 = 20;
const INCREMENT_FLOAT: u8 = 21;
const MULTI_SET_IF_ABSENT: u8 = 22;
const SET_RANGE: u8 = 23;
const RENAME: u8 = 24;
const COPY: u8 = 25;
const TRANSACTION: u8 = 30;
const GRANT_LEASE: u8 = 40;
const RENEW_LEASE: u8 = 41;
const REVOKE_LEASE: u8 = 42;
const RENEW_LEASES: u8 = 43;
const ONCE: u8 = 44;
const OPEN_SESSION: u8 = 45;
const SEQ: u8 = 46;
const CLOSE_SESSION: u8 = 47;

/// A log entry's data: the command and the leader's time.
pub fn encode_entry(time_ms: u64, command: &Command) -> Bytes {
    let mut out = entry_head(time_ms, size_hint(command));
    put_command(&mut out, command);
    out.into()
}

/// A log entry's data from an encoded command, which is taken as it is: only what [`decode_command`] has
/// accepted may come to the log.
pub fn stamp(time_ms: u64, command: &[u8]) -> Bytes {
    let mut out = entry_head(time_ms, command.len());
    out.extend_from_slice(command);
    out.into()
}

/// The time and the command of a log entry; keys and values are slices of the input.
///
/// # Errors
/// For all bytes that [`encode_entry`] does not make. In a committed entry that means a newer version of this
/// program wrote it: a node must stop there, since to skip it would be to part from the others.
pub fn decode_entry(input: Bytes) -> Result<(u64, Command), Malformed> {
    let mut reader = Reader::new(input);
    reader.version(ENTRY_VERSION)?;
    let time_ms = reader.number()?;
    let command = command(&mut reader)?;
    reader.end()?;
    Ok((time_ms, command))
}

/// A command without a time, for another node to stamp.
pub fn encode_command(command: &Command) -> Bytes {
    let mut out = Vec::with_capacity(size_hint(command));
    put_command(&mut out, command);
    out.into()
}

/// The command in these bytes; keys and values are slices of them.
///
/// # Errors
/// For all bytes that [`encode_command`] does not make.
pub fn decode_command(input: Bytes) -> Result<Command, Malformed> {
    let mut reader = Reader::new(input);
    let command = command(&mut reader)?;
    reader.end()?;
    Ok(command)
}

fn entry_head(time_ms: u64, command_bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(11 + command_bytes);
    out.push(ENTRY_VERSION);
    put_number(&mut out, time_ms);
    out
}

/// About how many bytes a command takes, to allocate once.
fn size_hint(command: &Command) -> usize {
    let values = match command.unwrapped() {
        Command::Transaction { watched, steps } => step::hint(watched, steps),
        Command::Set { value, condition, .. } => match condition {
            Condition::IfEqual(old) => value.len() + old.len(),
            _ => value.len(),
        },
        Command::Append { value, .. }
        | Command::SetRange { value, .. }
        | Command::IncrementFloat { by: value, .. }
        | Command::DeleteIfEqual { old: value, .. } => value.len(),
        Command::MultiSet { pairs } | Command::MultiSetIfAbsent { pairs } => {
            pairs.iter().map(|(_, value)| value.len() + 4).sum()
        }
        _ => 0,
    };
    let token = match command {
        Command::Once { token, .. } => token.len(),
        _ => 0,
    };
    token + values + command.keys().map(|key| key.len() + 2).sum::<usize>() + 24
}

fn put_command(out: &mut Vec<u8>, command: &Command) {
    out.push(COMMAND_VERSION);
    match command {
        Command::Set {
            key,
            value,
            condition,
            expiry,
            answer,
        } => {
            put_tag_and_bytes(out, SET, &[key, value]);
            put_condition(out, condition);
            put_set_expiry(out, *expiry);
            out.push(set_answer_tag(*answer));
        }
        Command::Delete { keys } => put_list(out, DELETE, keys),
        Command::DeleteIfEqual { key, old } => put_tag_and_bytes(out, DELETE_IF_EQUAL, &[key, old]),
        Command::GetDelete { key } => put_tag_and_bytes(out, GET_DELETE, &[key]),
        Command::Increment { key, by } => {
            put_tag_and_bytes(out, INCREMENT, &[key]);
            put_signed(out, *by);
        }
        Command::Append { key, value } => put_tag_and_bytes(out, APPEND, &[key, value]),
        Command::MultiSet { pairs } => put_pairs(out, MULTI_SET, pairs),
        Command::Expire { key, at, condition } => {
            put_tag_and_bytes(out, EXPIRE, &[key]);
            put_moment(out, *at);
            out.push(expire_condition_tag(*condition));
        }
        Command::Persist { key } => put_tag_and_bytes(out, PERSIST, &[key]),
        Command::FlushAll => out.push(FLUSH_ALL),
        Command::ExpireDue { limit } => put_tag_and_number(out, EXPIRE_DUE, (*limit).into()),
        Command::Bootstrap { cluster_id } => {
            out.push(BOOTSTRAP);
            out.extend_from_slice(cluster_id);
        }
        Command::GetExpire { key, at } => put_get_expire(out, key, *at),
        Command::IncrementFloat { key, by } => put_tag_and_bytes(out, INCREMENT_FLOAT, &[key, by]),
        Command::MultiSetIfAbsent { pairs } => put_pairs(out, MULTI_SET_IF_ABSENT, pairs),
        Command::SetRange { key, offset, value } => {
            put_tag_and_bytes(out, SET_RANGE, &[key, value]);
            put_number(out, *offset);
        }
        Command::Transaction { watched, steps } => step::put_transaction(out, watched, steps),
        Command::Rename { from, to, if_absent } => put_two_keys(out, RENAME, from, to, *if_absent),
        Command::Copy { from, to, replace } => put_two_keys(out, COPY, from, to, *replace),
        Command::GrantLease { ttl_ms } => put_tag_and_number(out, GRANT_LEASE, *ttl_ms),
        Command::RenewLease { id } => put_tag_and_number(out, RENEW_LEASE, *id),
        Command::RevokeLease { id } => put_tag_and_number(out, REVOKE_LEASE, *id),
        Command::RenewLeases => out.push(RENEW_LEASES),
        Command::Once {
            token,
            window_ms,
            command,
        } => put_once(out, token, *window_ms, command),
        Command::OpenSession { life_ms } => put_tag_and_number(out, OPEN_SESSION, *life_ms),
        Command::Seq { session, n, command } => put_seq(out, *session, *n, command),
        Command::CloseSession { id } => put_tag_and_number(out, CLOSE_SESSION, *id),
    }
}

fn command(reader: &mut Reader) -> Result<Command, Malformed> {
    reader.version(COMMAND_VERSION)?;
    let tag = reader.byte()?;
    fields_of(reader, tag)
}

/// The rest of a command with this tag.
fn fields_of(reader: &mut Reader, tag: u8) -> Result<Command, Malformed> {
    Ok(match tag {
        SET => Command::Set {
            key: reader.bytes()?,
            value: reader.bytes()?,
            condition: condition(reader)?,
            expiry: set_expiry(reader)?,
            answer: set_answer(reader)?,
        },
        DELETE => Command::Delete {
            keys: reader.list(Reader::bytes)?,
        },
        DELETE_IF_EQUAL => Command::DeleteIfEqual {
            key: reader.bytes()?,
            old: reader.bytes()?,
        },
        GET_DELETE => Command::GetDelete { key: reader.bytes()? },
        INCREMENT => Command::Increment {
            key: reader.bytes()?,
            by: reader.signed()?,
        },
        APPEND => Command::Append {
            key: reader.bytes()?,
            value: reader.bytes()?,
        },
        MULTI_SET => Command::MultiSet {
            pairs: pairs(reader)?,
        },
        EXPIRE => Command::Expire {
            key: reader.bytes()?,
            at: moment(reader)?,
            condition: expire_condition(reader)?,
        },
        PERSIST => Command::Persist { key: reader.bytes()? },
        FLUSH_ALL => Command::FlushAll,
        EXPIRE_DUE => {
            let limit = reader.number()?.try_into();
            Command::ExpireDue {
                limit: limit.map_err(|_| reader.malformed("a limit of more than 32 bits"))?,
            }
        }
        BOOTSTRAP => Command::Bootstrap {
            cluster_id: reader.array()?,
        },
        _ => return younger(reader, tag),
    })
}

/// The rest of [`fields_of`]: what came after the first commands.
fn younger(reader: &mut Reader, tag: u8) -> Result<Command, Malformed> {
    Ok(match tag {
        GET_EXPIRE => Command::GetExpire {
            key: reader.bytes()?,
            at: if reader.flag()? {
                Some(moment(reader)?)
            } else {
                None
            },
        },
        INCREMENT_FLOAT => Command::IncrementFloat {
            key: reader.bytes()?,
            by: reader.bytes()?,
        },
        MULTI_SET_IF_ABSENT => Command::MultiSetIfAbsent {
            pairs: pairs(reader)?,
        },
        SET_RANGE => Command::SetRange {
            key: reader.bytes()?,
            value: reader.bytes()?,
            offset: reader.number()?,
        },
        RENAME => Command::Rename {
            from: reader.bytes()?,
            to: reader.bytes()?,
            if_absent: reader.flag()?,
        },
        TRANSACTION => step::transaction(reader)?,
        COPY => Command::Copy {
            from: reader.bytes()?,
            to: reader.bytes()?,
            replace: reader.flag()?,
        },
        GRANT_LEASE => Command::GrantLease {
            ttl_ms: reader.number()?,
        },
        RENEW_LEASE => Command::RenewLease { id: reader.number()? },
        REVOKE_LEASE => Command::RevokeLease { id: reader.number()? },
        RENEW_LEASES => Command::RenewLeases,
        ONCE => Command::Once {
            token: reader.bytes()?,
            window_ms: reader.number()?,
            command: wrapped(reader)?,
        },
        OPEN_SESSION => Command::OpenSession {
            life_ms: reader.number()?,
        },
        SEQ => Command::Seq {
            session: reader.number()?,
            n: reader.number()?,
            command: wrapped(reader)?,
        },
        CLOSE_SESSION => Command::CloseSession { id: reader.number()? },
        _ => return Err(reader.malformed("unknown command")),
    })
}

fn put_once(out: &mut Vec<u8>, token: &[u8], window_ms: u64, command: &Command) {
    put_tag_and_bytes(out, ONCE, &[token]);
    put_number(out, window_ms);
    put_command(out, command);
}

fn put_seq(out: &mut Vec<u8>, session: u64, n: u64, command: &Command) {
    put_tag_and_number(out, SEQ, session);
    put_number(out, n);
    put_command(out, command);
}

fn put_list(out: &mut Vec<u8>, tag: u8, list: &[Bytes]) {
    put_tag_and_number(out, tag, list.len() as u64);
    list.iter().for_each(|bytes| put_bytes(out, bytes));
}

/// The command within ONCE or SEQ. Looked at before it is read, so that no bytes make this go deep.
fn wrapped(reader: &mut Reader) -> Result<Box<Command>, Malformed> {
    if matches!(reader.peek(1), Some(ONCE | SEQ)) {
        return Err(reader.malformed("ONCE or SEQ within one of them"));
    }
    let command = command(reader)?;
    if !command.may_be_wrapped() {
        return Err(reader.malformed("a command that may not be within ONCE or SEQ"));
    }
    Ok(Box::new(command))
}

fn put_tag_and_bytes(out: &mut Vec<u8>, tag: u8, strings: &[&[u8]]) {
    out.push(tag);
    for bytes in strings {
        put_bytes(out, bytes);
    }
}

fn put_tag_and_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    out.push(tag);
    put_number(out, number);
}

fn put_get_expire(out: &mut Vec<u8>, key: &[u8], at: Option<Moment>) {
    put_tag_and_bytes(out, GET_EXPIRE, &[key]);
    out.push(at.is_some().into());
    if let Some(at) = at {
        put_moment(out, at);
    }
}

fn put_two_keys(out: &mut Vec<u8>, tag: u8, from: &[u8], to: &[u8], flag: bool) {
    put_tag_and_bytes(out, tag, &[from, to]);
    out.push(flag.into());
}

fn put_pairs(out: &mut Vec<u8>, tag: u8, pairs: &[(Bytes, Bytes)]) {
    out.push(tag);
    put_number(out, pairs.len() as u64);
    for (key, value) in pairs {
        put_bytes(out, key);
        put_bytes(out, value);
    }
}

fn pairs(reader: &mut Reader) -> Result<Vec<(Bytes, Bytes)>, Malformed> {
    reader.list(|reader| Ok((reader.bytes()?, reader.bytes()?)))
}

fn put_condition(out: &mut Vec<u8>, condition: &Condition) {
    match condition {
        Condition::Always => out.push(0),
        Condition::IfAbsent => out.push(1),
        Condition::IfPresent => out.push(2),
        Condition::IfEqual(old) => put_tag_and_bytes(out, 3, &[old]),
        Condition::IfRevision(revision) => put_tag_and_number(out, 4, *revision),
    }
}

fn condition(reader: &mut Reader) -> Result<Condition, Malformed> {
    Ok(match reader.byte()? {
        0 => Condition::Always,
        1 => Condition::IfAbsent,
        2 => Condition::IfPresent,
        3 => Condition::IfEqual(reader.bytes()?),
        4 => Condition::IfRevision(reader.number()?),
        _ => return Err(reader.malformed("unknown condition")),
    })
}

fn put_moment(out: &mut Vec<u8>, moment: Moment) {
    let (tag, ms) = match moment {
        Moment::In(ms) => (0, ms),
        Moment::At(ms) => (1, ms),
    };
    out.push(tag);
    put_signed(out, ms);
}

fn moment(reader: &mut Reader) -> Result<Moment, Malformed> {
    Ok(match reader.byte()? {
        0 => Moment::In(reader.signed()?),
        1 => Moment::At(reader.signed()?),
        _ => return Err(reader.malformed("unknown kind of moment")),
    })
}

fn put_set_expiry(out: &mut Vec<u8>, expiry: SetExpiry) {
    match expiry {
        SetExpiry::Clear => out.push(0),
        SetExpiry::Keep => out.push(1),
        SetExpiry::At(moment) => {
            out.push(2);
            put_moment(out, moment);
        }
        SetExpiry::Lease(id) => put_tag_and_number(out, 3, id),
    }
}

fn set_expiry(reader: &mut Reader) -> Result<SetExpiry, Malformed> {
    Ok(match reader.byte()? {
        0 => SetExpiry::Clear,
        1 => SetExpiry::Keep,
        2 => SetExpiry::At(moment(reader)?),
        3 => SetExpiry::Lease(reader.number()?),
        _ => return Err(reader.malformed("unknown kind of expiry")),
    })
}

fn set_answer_tag(answer: SetAnswer) -> u8 {
    match answer {
        SetAnswer::Status => 0,
        SetAnswer::OldValue => 1,
        SetAnswer::Count => 2,
    }
}

fn set_answer(reader: &mut Reader) -> Result<SetAnswer, Malformed> {
    Ok(match reader.byte()? {
        0 => SetAnswer::Status,
        1 => SetAnswer::OldValue,
        2 => SetAnswer::Count,
        _ => return Err(reader.malformed("unknown kind of answer")),
    })
}

fn expire_condition_tag(condition: ExpireCondition) -> u8 {
    match condition {
        ExpireCondition::Always => 0,
        ExpireCondition::IfNone => 1,
        ExpireCondition::IfSome => 2,
        ExpireCondition::IfLater => 3,
        ExpireCondition::IfEarlier => 4,
        ExpireCondition::IfSomeAndEarlier => 5,
    }
}

fn expire_condition(reader: &mut Reader) -> Result<ExpireCondition, Malformed> {
    Ok(match reader.byte()? {
        0 => ExpireCondition::Always,
        1 => ExpireCondition::IfNone,
        2 => ExpireCondition::IfSome,
        3 => ExpireCondition::IfLater,
        4 => ExpireCondition::IfEarlier,
        5 => ExpireCondition::IfSomeAndEarlier,
        _ => return Err(reader.malformed("unknown condition")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::rng::Rng;
    use crate::kv::twin::any_command;

    proptest! {
        #[test]
        fn commands_come_back(seed: u64, time_ms: u64) {
            let command = any_command(&mut Rng::new(seed), time_ms);
            let passed_on = encode_command(&command);
            prop_assert!(passed_on.len() <= size_hint(&command) + 24);
            let entry = encode_entry(time_ms, &command);
            prop_assert_eq!(&stamp(time_ms, &passed_on), &entry);
            prop_assert_eq!(decode_command(passed_on), Ok(command.clone()));
            prop_assert_eq!(decode_entry(entry), Ok((time_ms, command)));
        }

        #[test]
        fn what_is_read_is_what_would_be_written(seed: u64, at: u64, byte: u8) {
            let mut bytes = encode_entry(seed >> 30, &any_command(&mut Rng::new(seed), 1000)).to_vec();
            let at = (at % bytes.len() as u64) as usize;
            bytes[at] = byte;
            if let Ok((time_ms, command)) = decode_entry(bytes.clone().into()) {
                prop_assert_eq!(encode_entry(time_ms, &command), bytes);
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(mut bytes: Vec<u8>) {
            bytes.splice(0..0, [ENTRY_VERSION, 5, COMMAND_VERSION]);
            let _ = decode_entry(bytes.into());
        }
    }

    #[test]
    fn an_entry_cut_anywhere_is_refused() {
        let mut rng = Rng::new(3);
        for _ in 0..200 {
            let entry = encode_entry(1 << 40, &any_command(&mut rng, 1000));
            for length in 0..entry.len() {
                assert!(decode_entry(entry.slice(..length)).is_err());
            }
            assert!(decode_entry([&entry[..], b"\0"].concat().into()).is_err());
        }
    }

    #[test]
    fn values_are_slices_of_the_entry() {
        let command = Command::Append {
            key: Bytes::from("k"),
            value: Bytes::from(vec![1; 1000]),
        };
        let entry = encode_entry(7, &command);
        let range = entry.as_ptr_range();
        let Ok((7, Command::Append { value, .. })) = decode_entry(entry) else {
            panic!("an APPEND at 7");
        };
        assert!(range.contains(&value.as_ptr()));
    }

    #[test]
    fn nothing_is_wrapped_twice() {
        let once = [COMMAND_VERSION, ONCE, 1, b't', 0];
        for inner in [&once[..], &[COMMAND_VERSION, SEQ, 1, 1]] {
            let twice = [&once[..], inner, &[COMMAND_VERSION, FLUSH_ALL]].concat();
            assert!(decode_command(twice.into()).is_err());
        }
        let deep = [once.repeat(1_000_000), vec![COMMAND_VERSION, FLUSH_ALL]].concat();
        assert!(decode_command(deep.into()).is_err());
        let own = [&once[..], &[COMMAND_VERSION, RENEW_LEASES]].concat();
        assert!(decode_command(own.into()).is_err());
    }

    /// If this fails, old logs are no longer readable: add a version or a tag, and leave these.
    #[test]
    fn golden() {
        for (command, bytes) in golden_rows() {
            assert_eq!(encode_command(&command), bytes, "{command:?}");
            assert_eq!(decode_command(Bytes::from_static(bytes)), Ok(command.clone()));
            let entry = [&b"\x01\x80\xd0\x95\xff\xbc1"[..], bytes].concat();
            assert_eq!(encode_entry(1_700_000_000_000, &command), entry);
        }
    }

    fn golden_rows() -> Vec<(Command, &'static [u8])> {
        let (k, v) = (|| Bytes::from("k"), || Bytes::from("val"));
        let set = |condition, expiry, answer| Command::Set {
            key: k(),
            value: v(),
            condition,
            expiry,
            answer,
        };
        vec![
            (
                set(Condition::Always, SetExpiry::Clear, SetAnswer::Status),
                b"\x01\x01\x01k\x03val\0\0\0",
            ),
            (
                set(Condition::IfEqual(k()), SetExpiry::Keep, SetAnswer::OldValue),
                b"\x01\x01\x01k\x03val\x03\x01k\x01\x01",
            ),
            (
                set(
                    Condition::IfRevision(300),
                    SetExpiry::At(Moment::In(-1)),
                    SetAnswer::Count,
                ),
                b"\x01\x01\x01k\x03val\x04\xac\x02\x02\0\x01\x02",
            ),
            (
                Command::Delete { keys: vec![k(), v()] },
                b"\x01\x02\x02\x01k\x03val",
            ),
            (
                Command::DeleteIfEqual { key: k(), old: v() },
                b"\x01\x03\x01k\x03val",
            ),
            (Command::GetDelete { key: k() }, b"\x01\x04\x01k"),
            (Command::Increment { key: k(), by: 64 }, b"\x01\x05\x01k\x80\x01"),
            (Command::Append { key: k(), value: v() }, b"\x01\x06\x01k\x03val"),
            (
                Command::MultiSet {
                    pairs: vec![(k(), v())],
                },
                b"\x01\x07\x01\x01k\x03val",
            ),
            (
                Command::Expire {
                    key: k(),
                    at: Moment::At(5),
                    condition: ExpireCondition::IfEarlier,
                },
                b"\x01\x08\x01k\x01\x0a\x04",
            ),
            (Command::Persist { key: k() }, b"\x01\x09\x01k"),
            (Command::FlushAll, b"\x01\x0a"),
            (Command::ExpireDue { limit: 1000 }, b"\x01\x0b\xe8\x07"),
            (
                Command::Bootstrap {
                    cluster_id: *b"0123456789abcdef",
                },
                b"\x01\x0c0123456789abcdef",
            ),
            (
                Command::GetExpire {
                    key: k(),
                    at: Some(Moment::At(5)),
                },
                b"\x01\x14\x01k\x01\x01\x0a",
            ),
            (Command::GetExpire { key: k(), at: None }, b"\x01\x14\x01k\0"),
            (
                Command::IncrementFloat { key: k(), by: v() },
                b"\x01\x15\x01k\x03val",
            ),
            (
                Command::MultiSetIfAbsent {
                    pairs: vec![(k(), v())],
                },
                b"\x01\x16\x01\x01k\x03val",
            ),
            (
                Command::SetRange {
                    key: k(),
                    offset: 300,
                    value: v(),
                },
                b"\x01\x17\x01k\x03val\xac\x02",
            ),
            (
                Command::Rename {
                    from: k(),
                    to: v(),
                    if_absent: true,
                },
                b"\x01\x18\x01k\x03val\x01",
            ),
            (
                Command::Copy {
                    from: k(),
                    to: v(),
                    replace: false,
                },
                b"\x01\x19\x01k\x03val\0",
            ),
            (
                Command::Expire {
                    key: k(),
                    at: Moment::In(5),
                    condition: ExpireCondition::IfSomeAndEarlier,
                },
                b"\x01\x08\x01k\0\x0a\x05",
            ),
            (
                set(Condition::Always, SetExpiry::Lease(300), SetAnswer::Status),
                b"\x01\x01\x01k\x03val\0\x03\xac\x02\0",
            ),
            (Command::GrantLease { ttl_ms: 30_000 }, b"\x01\x28\xb0\xea\x01"),
            (Command::RenewLease { id: 300 }, b"\x01\x29\xac\x02"),
            (Command::RevokeLease { id: 300 }, b"\x01\x2a\xac\x02"),
            (Command::RenewLeases, b"\x01\x2b"),
            (
                Command::Once {
                    token: v(),
                    window_ms: 300,
                    command: Box::new(Command::FlushAll),
                },
                b"\x01\x2c\x03val\xac\x02\x01\x0a",
            ),
            (Command::OpenSession { life_ms: 300 }, b"\x01\x2d\xac\x02"),
            (
                Command::Seq {
                    session: 300,
                    n: 7,
                    command: Box::new(Command::GetDelete { key: k() }),
                },
                b"\x01\x2e\xac\x02\x07\x01\x04\x01k",
            ),
            (Command::CloseSession { id: 300 }, b"\x01\x2f\xac\x02"),
        ]
    }
}
