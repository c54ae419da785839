//! LEASE: keys that go together, unless somebody keeps them alive.

use crate::kv::{Command, Error, LIFE_MAX_MS, Query};

use super::{Action, Args, Flag, Keys, Row, Under, err, help_of};

pub(super) const ROWS: &[Row] = &[Row {
    name: "LEASE",
    arity: -2,
    flags: &[Flag::Write],
    keys: Keys::NONE,
    parse: lease,
    syntax: "GRANT ms|KEEPALIVE id|REVOKE id|INFO id|HELP",
    summary: "keys set with LEASE id go all at once when nobody keeps the lease alive; HELP LEASE says more",
}];

/// The commands under LEASE.
pub(super) const UNDER: &[Under] = &[
    Under(
        "GRANT",
        "ms",
        "a new lease that lives so long; its id, a number that only grows: hand it on with what you do under a lock, \
         and refuse there what comes with a smaller one",
    ),
    Under(
        "KEEPALIVE",
        "id",
        "starts the lease's life anew; the milliseconds that it lives from now on",
    ),
    Under("REVOKE", "id", "ends the lease now; how many keys went with it"),
    Under(
        "INFO",
        "id",
        "its life and what remains of it in milliseconds, and its keys",
    ),
    Under("HELP", "", "this list"),
];

fn lease(args: &Args<'_>) -> Result<Action, Error> {
    match args.bytes(1).to_ascii_uppercase().as_slice() {
        b"GRANT" => {
            args.expect_len(3)?;
            let ttl_ms = life(args, 2)?;
            Ok(Action::Write(Command::GrantLease { ttl_ms }))
        }
        b"KEEPALIVE" => Ok(Action::Write(Command::RenewLease { id: only_id(args)? })),
        b"REVOKE" => Ok(Action::Write(Command::RevokeLease { id: only_id(args)? })),
        b"INFO" => Ok(Action::Query(Query::Lease(only_id(args)?))),
        b"HELP" => args
            .expect_len(2)
            .map(|()| Action::Answer(help_of("LEASE", UNDER))),
        _ => Err(args.unknown_under()),
    }
}

/// How long something is to live, in milliseconds.
pub(super) fn life(args: &Args<'_>, at: usize) -> Result<u64, Error> {
    match u64::try_from(args.integer(at)?) {
        Ok(ms) if (1..=LIFE_MAX_MS).contains(&ms) => Ok(ms),
        _ => Err(err(format!("a life is 1 to {LIFE_MAX_MS} milliseconds long"))),
    }
}

/// The lease's number at this word.
pub(super) fn lease_id(args: &Args<'_>, at: usize) -> Result<u64, Error> {
    match u64::try_from(args.integer(at)?) {
        Ok(id) if id > 0 => Ok(id),
        _ => Err(err("a lease's id is the number that LEASE GRANT has answered")),
    }
}

/// The number of a lease, and no word after it.
fn only_id(args: &Args<'_>) -> Result<u64, Error> {
    args.expect_len(3)?;
    lease_id(args, 2)
}
