//! ONCE, SESSION and SEQ: writes that may be sent again and are done once.

use crate::kv::{Command, Error, TOKEN_MAX_BYTES};

use super::leases::life;
use super::{Action, Args, Flag, Keys, Repeat, Row, TransactionAction, Under, err, help_of, parse};

/// The life of a session without ms.
const DEFAULT_LIFE_MS: u64 = 3600 * 1000;

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "ONCE",
        arity: -3,
        flags: &[Flag::Write],
        keys: Keys::NONE,
        parse: once,
        syntax: "token command …",
        summary: "does a write, or EXEC, once; the same answer when it comes again with this token, on any node",
    },
    Row {
        name: "SESSION",
        arity: -2,
        flags: &[Flag::Write],
        keys: Keys::NONE,
        parse: session,
        syntax: "OPEN [ms]|CLOSE id|HELP",
        summary: "a session for SEQ, which ends when it is not used; HELP SESSION says more",
    },
    Row {
        name: "SEQ",
        arity: -4,
        flags: &[Flag::Write],
        keys: Keys::NONE,
        parse: seq,
        syntax: "session n command …",
        summary: "does a write, or EXEC, once; the same answer when it comes again with this number, from 1 on",
    },
];

/// The commands under SESSION.
pub(super) const UNDER: &[Under] = &[
    Under(
        "OPEN",
        "[ms]",
        "a new session; its id. It ends when SEQ has not used it for so long, an hour without ms. Its newest 128 \
         numbers may come in any order",
    ),
    Under("CLOSE", "id", "ends the session now"),
    Under("HELP", "", "this list"),
];

fn once(args: &Args<'_>) -> Result<Action, Error> {
    let token = args.word(1);
    if !(1..=TOKEN_MAX_BYTES).contains(&token.len()) {
        let text = format!(
            "a token has 1 to {TOKEN_MAX_BYTES} bytes; this one has {}",
            token.len()
        );
        return Err(err(text));
    }
    wrapped(args, 2, Repeat::Once(token))
}

fn session(args: &Args<'_>) -> Result<Action, Error> {
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"OPEN" => {
            let life_ms = if args.len() == 2 {
                DEFAULT_LIFE_MS
            } else {
                args.expect_len(3)?;
                life(args, 2)?
            };
            Ok(Action::Write(Command::OpenSession { life_ms }))
        }
        b"CLOSE" => {
            args.expect_len(3)?;
            let id = number(
                args,
                2,
                "a session's id is the number that SESSION OPEN has answered",
            )?;
            Ok(Action::Write(Command::CloseSession { id }))
        }
        b"HELP" => args
            .expect_len(2)
            .map(|()| Action::Answer(help_of("SESSION", UNDER))),
        _ => Err(args.unknown_under()),
    }
}

fn seq(args: &Args<'_>) -> Result<Action, Error> {
    let session = number(
        args,
        1,
        "a session's id is the number that SESSION OPEN has answered",
    )?;
    let n = number(args, 2, "the numbers of a session count from 1")?;
    wrapped(args, 3, Repeat::Seq { session, n })
}

/// The write that starts at this word, EXEC among them. One in another is refused before it is read, so that no
/// request goes deep.
fn wrapped(args: &Args<'_>, at: usize, repeat: Repeat) -> Result<Action, Error> {
    let refused = || {
        err(format!(
            "{} is for writes, and '{}' is none; nothing was done",
            args.row.name,
            args.shown(at)
        ))
    };
    if args.is(at, "ONCE") || args.is(at, "SEQ") {
        return Err(refused());
    }
    match parse(&args.rest(at))? {
        Action::Write(command) if command.may_be_wrapped() => Ok(Action::Repeatable(repeat, command)),
        Action::Transaction(TransactionAction::Exec(_)) => {
            Ok(Action::Transaction(TransactionAction::Exec(repeat)))
        }
        _ => Err(refused()),
    }
}

fn number(args: &Args<'_>, at: usize, what: &'static str) -> Result<u64, Error> {
    match u64::try_from(args.integer(at)?) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(err(what)),
    }
}
