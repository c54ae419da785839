//! The rows among each other, and the sentences of refusals.

use proptest::prelude::*;

use super::*;
use crate::kv::{Condition, ExpireCondition, Moment, SetAnswer, SetExpiry};
use crate::node::MembershipChange;
use crate::raft::{Addresses, NodeId};

fn request(line: &str) -> Result<Action, Error> {
    let words: Vec<Bytes> = line
        .split(' ')
        .map(|w| Bytes::copy_from_slice(w.as_bytes()))
        .collect();
    parse(&words)
}

fn error(line: &str) -> String {
    request(line).unwrap_err().text.into_owned()
}

fn command(line: &str) -> Command {
    match request(line).unwrap() {
        Action::Write(command) => command,
        other => panic!("{other:?}"),
    }
}

#[test]
fn names_are_unique_capitals_and_found_in_any_case() {
    let mut names: Vec<_> = rows().map(|row| row.name).collect();
    assert!(names.iter().all(|name| *name == name.to_ascii_uppercase()));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for name in names {
        assert_eq!(find(name.as_bytes()).unwrap().name, name);
        assert_eq!(find(name.to_ascii_lowercase().as_bytes()).unwrap().name, name);
    }
    assert!(find(b"").is_none());
    assert!(find(b"GETT").is_none());
}

#[test]
fn help_fits_a_line_and_says_whether_a_command_writes() {
    for row in rows().filter(|row| row.is_built()) {
        assert!(row.help().len() < 160, "{}", row.help());
        let (writes, reads) = (row.flags.contains(&Flag::Write), row.flags.contains(&Flag::Read));
        assert!(!(writes && reads), "{}", row.name);
        assert!(row.keys.step == 0 || writes || reads, "{}", row.name);
    }
}

#[test]
fn the_number_of_words_is_checked_as_in_redis() {
    assert_eq!(error("get"), "wrong number of arguments for 'get' command");
    assert_eq!(error("GET a b"), "wrong number of arguments for 'get' command");
    assert_eq!(
        error("mset a 1 b"),
        "wrong number of arguments for 'mset' command"
    );
    assert_eq!(
        error("client setname"),
        "wrong number of arguments for 'client|setname' command"
    );
    assert_eq!(
        error("foo a b"),
        "unknown command 'foo', with args beginning with: 'a' 'b' "
    );
    assert_eq!(error("foo"), "unknown command 'foo', with args beginning with: ");
    assert_eq!(error("raft foo"), "unknown subcommand 'foo'. Try RAFT HELP.");
    assert_eq!(
        error("SET a 1 LEASE none"),
        "value is not an integer or out of range"
    );
}

#[test]
fn raft_takes_changes_of_the_membership() {
    let operation = |line: &str| match request(line).unwrap() {
        Action::Operate(operation) => operation,
        other => panic!("{other:?}"),
    };
    let add = |voter| {
        let addresses = Addresses {
            peer: "h4:7239".into(),
            client: "[::1]:7238".into(),
        };
        let id = NodeId(4);
        Operation::Change(MembershipChange::Add { id, addresses, voter })
    };
    assert_eq!(operation("RAFT ADD 4 h4:7239 [::1]:7238"), add(false));
    assert_eq!(operation("raft add 4 h4:7239 [::1]:7238 voter"), add(true));
    assert_eq!(
        operation("RAFT PROMOTE 4"),
        Operation::Change(MembershipChange::Promote(NodeId(4)))
    );
    assert_eq!(
        operation("RAFT REMOVE 4"),
        Operation::Change(MembershipChange::Remove(NodeId(4)))
    );
    assert_eq!(operation("RAFT TRANSFER 4"), Operation::Transfer(Some(NodeId(4))));
    assert_eq!(operation("RAFT VERIFY"), Operation::Verify);
    assert_eq!(operation("RAFT REBUILD"), Operation::Rebuild);
}

#[test]
fn raft_refuses_nodes_and_addresses_that_cannot_be() {
    assert_eq!(
        error("RAFT ADD 4 a:1"),
        "wrong number of arguments for 'raft|add' command"
    );
    assert!(error("RAFT ADD 4 a:1 b:2 LEARNER").starts_with("syntax error"));
    assert!(error("RAFT ADD 0 a:1 b:2").starts_with("a node's id"));
    assert!(error("RAFT ADD x a:1 b:2").starts_with("value is not an integer"));
    for line in [
        "RAFT ADD 4 a b:2",
        "RAFT ADD 4 a:1 0.0.0.0:2",
        "RAFT ADD 4 a:0 b:2",
    ] {
        assert!(
            error(line).ends_with("is not HOST:PORT where others reach the node"),
            "{line}"
        );
    }
    assert!(error("RAFT ADD 4 a:1 a:1").contains("two addresses"));
    assert_eq!(
        error("RAFT REMOVE"),
        "wrong number of arguments for 'raft|remove' command"
    );
    assert!(error("RAFT VERIFY 4").starts_with("wrong number"));
    assert!(error("RAFT PROMOTE -4").starts_with("a node's id"));
}

#[test]
fn keys_have_1_to_4096_bytes() {
    let key = |len| "k".repeat(len);
    assert!(request(&format!("GET {}", key(4096))).is_ok());
    assert_eq!(
        error(&format!("GET {}", key(4097))),
        "a key has 1 to 4096 bytes; word 2 has 4097"
    );
    assert_eq!(error("GET "), "a key has 1 to 4096 bytes; word 2 has 0");
    assert_eq!(error("MSET a 1  2"), "a key has 1 to 4096 bytes; word 4 has 0");
    assert!(request("MSET a  b ").is_ok(), "values may be empty");
    assert_eq!(error("DEL a b "), "a key has 1 to 4096 bytes; word 4 has 0");
}

#[test]
fn set_takes_its_options_in_any_order() {
    let set = |condition, expiry, answer| Command::Set {
        key: "k".into(),
        value: "v".into(),
        condition,
        expiry,
        answer,
    };
    assert_eq!(
        command("SET k v"),
        set(Condition::Always, SetExpiry::Clear, SetAnswer::Status)
    );
    assert_eq!(
        command("set k v get ex 5 nx"),
        set(
            Condition::IfAbsent,
            SetExpiry::At(Moment::In(5000)),
            SetAnswer::OldValue
        )
    );
    assert_eq!(
        command("SET k v IFREV 7 PXAT 9"),
        set(
            Condition::IfRevision(7),
            SetExpiry::At(Moment::At(9)),
            SetAnswer::Status
        )
    );
    assert_eq!(
        command("SET k v KEEPTTL IFEQ GET"),
        set(
            Condition::IfEqual("GET".into()),
            SetExpiry::Keep,
            SetAnswer::Status
        )
    );
    assert_eq!(
        command("SETNX k v"),
        set(Condition::IfAbsent, SetExpiry::Clear, SetAnswer::Count)
    );
    assert_eq!(
        command("PSETEX k 70 v"),
        set(
            Condition::Always,
            SetExpiry::At(Moment::In(70)),
            SetAnswer::Status
        )
    );
    assert_eq!(
        command("GETSET k v"),
        set(Condition::Always, SetExpiry::Clear, SetAnswer::OldValue)
    );
}

#[test]
fn set_refuses_what_contradicts_itself() {
    for line in [
        "SET k v NX XX",
        "SET k v EX 1 PX 1",
        "SET k v EX 1 KEEPTTL",
        "SET k v FOO",
        "SET k v EX",
        "SET k v IFEQ",
    ] {
        assert!(error(line).starts_with("syntax error: "), "{line}");
    }
    assert!(error("SET k v FOO").contains("'FOO' (word 4)"));
    for line in [
        "SET k v EX 0",
        "SET k v PX -1",
        "SET k v EX 9223372036854775807",
        "SET k v EXAT -5",
    ] {
        assert_eq!(error(line), "invalid expire time in 'set' command", "{line}");
    }
    assert_eq!(error("SETEX k 0 v"), "invalid expire time in 'setex' command");
    assert_eq!(error("SET k v EX 1.5"), "value is not an integer or out of range");
    assert_eq!(error("INCRBY k x"), "value is not an integer or out of range");
    assert_eq!(error("DECRBY k -9223372036854775808"), "decrement would overflow");
}

#[test]
fn expire_takes_redis_conditions() {
    let expire = |at, condition| Command::Expire {
        key: "k".into(),
        at,
        condition,
    };
    assert_eq!(
        command("EXPIRE k -1"),
        expire(Moment::In(-1000), ExpireCondition::Always)
    );
    assert_eq!(
        command("PEXPIREAT k 5 NX"),
        expire(Moment::At(5), ExpireCondition::IfNone)
    );
    assert_eq!(
        command("EXPIREAT k 5 XX GT"),
        expire(Moment::At(5000), ExpireCondition::IfLater)
    );
    assert_eq!(error("EXPIRE k 5 FOO"), "Unsupported option FOO");
    assert!(error("EXPIRE k 5 NX GT").contains("not compatible"));
    assert!(error("EXPIRE k 5 LT GT").contains("not compatible"));
    assert_eq!(
        error("EXPIRE k 9223372036854775807"),
        "invalid expire time in 'expire' command"
    );
}

#[test]
fn ranges_and_scans() {
    let Action::Walk(walk) = request("range a b keys limit 7").unwrap() else {
        panic!()
    };
    assert_eq!(
        (walk.values, walk.scan.limit, walk.scan.to),
        (false, Some(7), Some("b".into()))
    );
    let Action::Walk(walk) = request("PREFIX user:").unwrap() else {
        panic!()
    };
    assert_eq!((walk.values, walk.scan.to), (true, Some("user;".into())));
    let Action::Walk(walk) = request("KEYS user:*").unwrap() else {
        panic!()
    };
    assert_eq!(
        (walk.scan.from, walk.scan.to),
        ("user:".into(), Some("user;".into()))
    );
    assert!(error("RANGE a b LIMIT -1").starts_with("LIMIT"));
    assert!(error("RANGE a b LIMIT").starts_with("syntax error"));
    assert!(error("RANGE a b FOO").starts_with("syntax error"));
    assert_eq!(error("SCAN x"), "invalid cursor");
    assert!(error("SCAN 0 COUNT 0").starts_with("syntax error"));
}

proptest! {
    #[test]
    fn any_words_are_an_action_or_an_error(words in prop::collection::vec(any::<Vec<u8>>(), 0..6)) {
        let words: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
        let _ = parse(&words);
    }

    #[test]
    fn any_words_after_a_name_too(
        row in prop::sample::select(rows().collect::<Vec<_>>()),
        words in prop::collection::vec("[a-z]{0,3}|-?[0-9]{1,20}|GET|NX|EX|LIMIT|KEYS|MATCH|COUNT|SETNAME|ON", 0..6),
    ) {
        let mut all = vec![Bytes::from_static(row.name.as_bytes())];
        all.extend(words.into_iter().map(Bytes::from));
        let _ = parse(&all);
    }
}
