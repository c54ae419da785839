//! The change feed.

use bytes::Bytes;

use crate::kv::{Error, KEY_MAX_BYTES};

use super::{Action, Args, Flag, Keys, Row, err};

pub(super) const ROWS: &[Row] = &[
    Row {
        name: "FEED",
        arity: -1,
        flags: &[Flag::Read],
        keys: Keys::NONE,
        parse: feed,
        syntax: "[PREFIX p] [FROM revision]",
        summary: "+OK, then events: revision, set|del|expire|mark, key, value; resumes FROM a revision",
    },
    Row {
        name: "UNFEED",
        arity: 1,
        flags: &[Flag::Connection],
        keys: Keys::NONE,
        parse: |_| Ok(Action::Unfeed),
        syntax: "",
        summary: "ends the feed of this connection",
    },
];

fn feed(args: &Args<'_>) -> Result<Action, Error> {
    let (mut prefix, mut from) = (None, None);
    let mut at = 1;
    while at < args.len() {
        if args.is(at, "PREFIX") && prefix.is_none() {
            prefix = Some(prefix_at(args, at + 1)?);
        } else if args.is(at, "FROM") && from.is_none() {
            from = Some(revision_at(args, at + 1)?);
        } else {
            return Err(args.syntax(at));
        }
        at += 2;
    }
    Ok(Action::Feed {
        prefix: prefix.unwrap_or_default(),
        from,
    })
}

fn prefix_at(args: &Args<'_>, at: usize) -> Result<Bytes, Error> {
    match args.bytes(at).len() {
        _ if at >= args.len() => Err(args.syntax(at)),
        // It stays as long as the feed, and is not to keep the request alive.
        0..=KEY_MAX_BYTES => Ok(Bytes::copy_from_slice(args.bytes(at))),
        len => Err(err(format!(
            "a key has at most {KEY_MAX_BYTES} bytes; the prefix has {len}"
        ))),
    }
}

fn revision_at(args: &Args<'_>, at: usize) -> Result<u64, Error> {
    if at >= args.len() {
        return Err(args.syntax(at));
    }
    let revision = args
        .integer(at)
        .ok()
        .and_then(|number| u64::try_from(number).ok());
    revision.ok_or_else(|| err("a revision is a number from 0 on"))
}
