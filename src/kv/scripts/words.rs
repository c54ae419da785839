//! The words of a script line as a command or query.

use bytes::Bytes;

use crate::kv::*;

pub(super) fn word(text: &str) -> Bytes {
    match text.strip_prefix('[').and_then(|t| t.split_once(']')) {
        Some((n, unit)) => Bytes::from(unit.repeat(n.parse().unwrap())),
        None => Bytes::from(text.trim_matches('"').to_owned()),
    }
}

pub(super) fn number(text: &str) -> i64 {
    text.parse()
        .unwrap_or_else(|_| panic!("{text} should be a number"))
}

/// `exec KEY REVISION … : STEP | STEP …`
fn transaction(words: &[Bytes], texts: &[&str]) -> Command {
    let colon = texts.iter().position(|text| *text == ":").expect("a colon");
    let watched = words[1..colon].chunks(2).zip(texts[1..colon].chunks(2));
    let step = |texts: &[&str]| {
        let words: Vec<Bytes> = texts.iter().map(|text| word(text)).collect();
        query(&words, texts).map_or_else(|| Step::Write(command(&words, texts)), Step::Read)
    };
    Command::Transaction {
        watched: watched
            .map(|(words, texts)| (words[0].clone(), number(texts[1]) as u64))
            .collect(),
        steps: texts[colon + 1..]
            .split(|text| *text == "|")
            .filter(|step| !step.is_empty())
            .map(step)
            .collect(),
    }
}

pub(super) fn query(words: &[Bytes], texts: &[&str]) -> Option<Query> {
    let (keys, key) = (words[1..].to_vec(), words.get(1).cloned().unwrap_or_default());
    Some(match texts[0] {
        "get" => Query::Get(key),
        "mget" => Query::MultiGet(keys),
        "exists" => Query::Exists(keys),
        "strlen" => Query::Length(key),
        "type" => Query::Type(key),
        "ttl" | "pttl" => Query::TimeToLive {
            key,
            milliseconds: texts[0] == "pttl",
        },
        "getrange" => Query::Slice {
            key,
            start: number(texts[2]),
            end: number(texts[3]),
        },
        "expiretime" | "pexpiretime" => Query::ExpireTime {
            key,
            milliseconds: texts[0] == "pexpiretime",
        },
        "rev" => Query::Revision(key),
        "revs" => Query::Revisions(keys),
        "dbsize" => Query::Size,
        "leaseinfo" => Query::Lease(number(texts[1]) as u64),
        _ => return None,
    })
}

pub(super) fn command(words: &[Bytes], texts: &[&str]) -> Command {
    let at = |n: usize| words.get(n).cloned().unwrap_or_default();
    let (key, value) = (at(1), at(2));
    match texts[0] {
        "set" => set(words, texts),
        "del" => Command::Delete {
            keys: words[1..].to_vec(),
        },
        "delifeq" => Command::DeleteIfEqual { key, old: value },
        "getdel" => Command::GetDelete { key },
        "incrby" => Command::Increment {
            key,
            by: number(texts[2]),
        },
        "append" => Command::Append { key, value },
        "mset" => Command::MultiSet { pairs: pairs(words) },
        "msetnx" => Command::MultiSetIfAbsent { pairs: pairs(words) },
        "setrange" => Command::SetRange {
            key,
            offset: number(texts[2]) as u64,
            value: at(3),
        },
        "incrbyfloat" => Command::IncrementFloat { key, by: value },
        "rename" | "renamenx" => Command::Rename {
            from: key,
            to: value,
            if_absent: texts[0] == "renamenx",
        },
        "copy" => Command::Copy {
            from: key,
            to: value,
            replace: texts.get(3) == Some(&"replace"),
        },
        "getex" => Command::GetExpire {
            key,
            at: (texts[2] != "persist").then(|| moment(texts[2], texts[3])),
        },
        "pexpire" | "pexpireat" => Command::Expire {
            key,
            at: moment(&texts[0][1..], texts[2]),
            condition: match texts.get(3) {
                None => ExpireCondition::Always,
                Some(&"nx") => ExpireCondition::IfNone,
                Some(&"xx") => ExpireCondition::IfSome,
                Some(&"gt") => ExpireCondition::IfLater,
                Some(&"lt") if texts.len() > 4 => ExpireCondition::IfSomeAndEarlier,
                Some(&"lt") => ExpireCondition::IfEarlier,
                Some(other) => panic!("{other}"),
            },
        },
        "exec" => transaction(words, texts),
        "persist" => Command::Persist { key },
        "flushall" => Command::FlushAll,
        "grant" => Command::GrantLease {
            ttl_ms: number(texts[1]) as u64,
        },
        "keepalive" => Command::RenewLease {
            id: number(texts[1]) as u64,
        },
        "revoke" => Command::RevokeLease {
            id: number(texts[1]) as u64,
        },
        "once" => Command::Once {
            token: key,
            window_ms: number(texts[2]) as u64,
            command: Box::new(command(&words[3..], &texts[3..])),
        },
        "open" => Command::OpenSession {
            life_ms: number(texts[1]) as u64,
        },
        "seq" => Command::Seq {
            session: number(texts[1]) as u64,
            n: number(texts[2]) as u64,
            command: Box::new(command(&words[3..], &texts[3..])),
        },
        "close" => Command::CloseSession {
            id: number(texts[1]) as u64,
        },
        "renewleases" => Command::RenewLeases,
        "expiredue" => Command::ExpireDue {
            limit: number(texts[1]) as u32,
        },
        "bootstrap" => Command::Bootstrap {
            cluster_id: key[..].try_into().unwrap(),
        },
        other => panic!("no command {other}"),
    }
}

fn pairs(words: &[Bytes]) -> Vec<(Bytes, Bytes)> {
    let pairs = words[1..].chunks(2);
    pairs.map(|pair| (pair[0].clone(), pair[1].clone())).collect()
}

fn moment(kind: &str, ms: &str) -> Moment {
    let ms = number(ms);
    if kind.ends_with("at") {
        Moment::At(ms)
    } else {
        Moment::In(ms)
    }
}

fn set(words: &[Bytes], texts: &[&str]) -> Command {
    let (mut condition, mut expiry, mut answer) = Default::default();
    for (n, option) in texts.iter().enumerate().skip(3) {
        match *option {
            "nx" => condition = Condition::IfAbsent,
            "xx" => condition = Condition::IfPresent,
            "ifeq" => condition = Condition::IfEqual(words[n + 1].clone()),
            "ifrev" => condition = Condition::IfRevision(number(texts[n + 1]) as u64),
            "px" | "pxat" => expiry = SetExpiry::At(moment(option, texts[n + 1])),
            "lease" => expiry = SetExpiry::Lease(number(texts[n + 1]) as u64),
            "keepttl" => expiry = SetExpiry::Keep,
            "get" => answer = SetAnswer::OldValue,
            "count" => answer = SetAnswer::Count,
            _ => {}
        }
    }
    let (key, value) = (words[1].clone(), words[2].clone());
    Command::Set {
        key,
        value,
        condition,
        expiry,
        answer,
    }
}
