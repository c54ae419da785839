//! What the commands do, from the server's own table (`COMMAND`), and so how each is to be sent.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::attempts::Safety;
use super::session::{Session, name};
use crate::cmd::link::Words;
use crate::cmd::resp::Reply;

/// What a command does to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Writes,
    /// Is for operators: it may do something to one node, or take its time.
    Administers,
    /// Reads, or concerns the connection.
    Harmless,
}

/// The server's commands.
#[derive(Debug)]
pub(super) struct Commands {
    effects: BTreeMap<Vec<u8>, Effect>,
}

/// How a command is sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// What goes out: the command, perhaps under a token.
    pub(super) request: Words,
    /// Whether it may be sent again.
    pub(super) safety: Safety,
    /// Whether it may change something.
    pub(super) writes: bool,
    /// Whether an answer may take as long as it likes.
    pub(super) is_slow: bool,
    /// Whether the request is the command under a token of ours.
    pub(super) has_token: bool,
    /// What is to be said before it when it is sent again, on a connection where it was not said.
    pub(super) before: Vec<Words>,
}

impl Plan {
    /// How to send a command that the server said is no write after all: some of a family that writes only
    /// read (LEASE INFO), and a token is not for them.
    pub(super) fn of_no_write(words: &[Bytes]) -> Plan {
        Plan {
            request: words.to_vec(),
            safety: Safety::Repeatable,
            writes: false,
            is_slow: false,
            has_token: false,
            before: Vec::new(),
        }
    }

    /// Whether the reply says that the command cannot stand under a token; nothing was done then.
    pub(super) fn is_no_write(&self, reply: &Reply) -> bool {
        self.has_token && matches!(reply, Reply::Error(text) if text.starts_with(b"ERR ONCE is for writes"))
    }
}

impl Commands {
    /// Reads the reply to `COMMAND`; what it does not understand of it is left out, and so sent once only.
    pub(super) fn read(reply: &Reply) -> Commands {
        let Reply::List(rows) = reply else {
            return Commands {
                effects: BTreeMap::new(),
            };
        };
        Commands {
            effects: rows.iter().filter_map(effect).collect(),
        }
    }

    /// How to send a command in this session. `token` is asked for a token when one is needed.
    pub(super) fn plan(&self, words: &[Bytes], session: &Session, token: impl FnOnce() -> Bytes) -> Plan {
        let name = name(words);
        let effect = self.effects.get(&name).copied();
        let plan = |safety, writes, is_slow| Plan {
            request: words.to_vec(),
            safety,
            writes,
            is_slow,
            has_token: false,
            before: Vec::new(),
        };
        let has_once = self.effects.contains_key(b"ONCE".as_slice());
        match (name.as_slice(), effect) {
            (b"EXEC", _) => match session.transaction_to_repeat() {
                Some(transaction) if has_once => Plan {
                    // The user's own token is as good.
                    request: if words.len() > 1 {
                        words.to_vec()
                    } else {
                        under(token(), words)
                    },
                    before: transaction.to_vec(),
                    ..plan(Safety::Repeatable, true, false)
                },
                _ => plan(Safety::Bound, true, false),
            },
            (_, Some(Effect::Administers)) => plan(Safety::Bound, true, true),
            _ if session.is_bound() => plan(Safety::Bound, effect != Some(Effect::Harmless), false),
            // The user's own token.
            (b"ONCE" | b"SEQ", Some(_)) => plan(Safety::Repeatable, true, false),
            (_, Some(Effect::Harmless)) => plan(Safety::Repeatable, false, false),
            (_, Some(Effect::Writes)) if has_once => Plan {
                request: under(token(), words),
                has_token: true,
                ..plan(Safety::Repeatable, true, false)
            },
            _ => plan(Safety::Once, true, false),
        }
    }
}

/// A command under a token.
fn under(token: Bytes, words: &[Bytes]) -> Words {
    [&[Bytes::from_static(b"ONCE"), token], words].concat()
}

/// One row: name, arity, flags, and more.
fn effect(row: &Reply) -> Option<(Vec<u8>, Effect)> {
    let Reply::List(fields) = row else { return None };
    let (name, flags) = match (fields.first(), fields.get(2)) {
        (Some(Reply::Value(name) | Reply::Text(name)), Some(Reply::List(flags) | Reply::Set(flags))) => {
            (name.to_ascii_uppercase(), flags)
        }
        _ => return None,
    };
    let has = |flag: &[u8]| {
        let is_it = |reply: &Reply| matches!(reply, Reply::Text(text) | Reply::Value(text) if text == flag);
        flags.iter().any(is_it)
    };
    let effect = if has(b"admin") {
        Effect::Administers
    } else if has(b"write") {
        Effect::Writes
    } else {
        Effect::Harmless
    };
    Some((name, effect))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Words {
        line.split(' ')
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect()
    }

    fn commands(rows: &[(&str, &str)]) -> Commands {
        let row = |(name, flag): &(&str, &str)| {
            Reply::List(vec![
                Reply::Value(Bytes::copy_from_slice(name.as_bytes())),
                Reply::Integer(-1),
                Reply::List(vec![Reply::Text(Bytes::copy_from_slice(flag.as_bytes()))]),
            ])
        };
        Commands::read(&Reply::List(rows.iter().map(row).collect()))
    }

    fn plan(commands: &Commands, line: &str, bound: bool) -> (String, Safety, bool) {
        let mut session = Session::default();
        if bound {
            session.answered(&words("WATCH k"), &Reply::Text("OK".into()));
        }
        let plan = commands.plan(&words(line), &session, || "t1".into());
        let shown: Vec<_> = plan
            .request
            .iter()
            .map(|word| String::from_utf8_lossy(word))
            .collect();
        (shown.join(" "), plan.safety, plan.writes)
    }

    const ROWS: [(&str, &str); 5] = [
        ("set", "write"),
        ("get", "readonly"),
        ("raft", "admin"),
        ("once", "fast"),
        ("ping", "fast"),
    ];

    #[test]
    fn writes_go_under_a_token() {
        let all = commands(&ROWS);
        let once = ("ONCE t1 set a 1".into(), Safety::Repeatable, true);
        assert_eq!(plan(&all, "set a 1", false), once);
        assert_eq!(
            plan(&all, "SET a 1", true),
            ("SET a 1".into(), Safety::Bound, true)
        );
        let own = ("once x SET a 1".into(), Safety::Repeatable, true);
        assert_eq!(plan(&all, "once x SET a 1", false), own);
    }

    #[test]
    fn what_is_no_write_goes_without_a_token() {
        let plan = commands(&ROWS).plan(&words("set a"), &Session::default(), || "t1".into());
        let refusal = Reply::error("ERR ONCE is for writes, and 'set' is none; nothing was done");
        assert!(plan.is_no_write(&refusal));
        assert!(!plan.is_no_write(&Reply::error("ERR value is not an integer or out of range")));
        let plain = Plan::of_no_write(&words("set a"));
        assert!(!plain.is_no_write(&refusal) && !plain.writes);
        assert_eq!(plain.request, words("set a"));
    }

    #[test]
    fn a_transaction_goes_under_a_token_and_its_commands_before_it() {
        let mut session = Session::default();
        session.answered(&words("MULTI"), &Reply::Text("OK".into()));
        session.answered(&words("SET a 1"), &Reply::Text("QUEUED".into()));
        let plan = commands(&ROWS).plan(&words("EXEC"), &session, || "t1".into());
        assert_eq!(plan.request, words("ONCE t1 EXEC"));
        assert_eq!(plan.before, [words("MULTI"), words("SET a 1")]);
        assert_eq!(plan.safety, Safety::Repeatable);
        let own = commands(&ROWS).plan(&words("SEQ 7 1 exec"), &session, || "t1".into());
        assert_eq!((own.request, own.before.len()), (words("SEQ 7 1 exec"), 2));
        let plain = commands(&ROWS[..3]).plan(&words("EXEC"), &session, || "t1".into());
        assert_eq!((plain.request, plain.safety), (words("EXEC"), Safety::Bound));
    }

    #[test]
    fn a_server_without_once_gets_writes_once() {
        let plain = commands(&ROWS[..3]);
        assert_eq!(
            plan(&plain, "SET a 1", false),
            ("SET a 1".into(), Safety::Once, true)
        );
    }

    #[test]
    fn reads_are_repeated_and_the_rest_is_sent_once() {
        let all = commands(&ROWS);
        assert_eq!(
            plan(&all, "GET a", false),
            ("GET a".into(), Safety::Repeatable, false)
        );
        assert_eq!(plan(&all, "PING", false).1, Safety::Repeatable);
        assert_eq!(plan(&all, "RAFT REMOVE 1", false).1, Safety::Bound);
        assert_eq!(plan(&all, "EXEC", true).1, Safety::Bound);
        assert_eq!(plan(&all, "NEW thing", false).1, Safety::Once);
        let nothing = Commands::read(&Reply::Nil);
        assert_eq!(plan(&nothing, "GET a", false).1, Safety::Once);
    }
}
