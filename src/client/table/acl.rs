//! ACL: who may do what. There are no users yet, so that everybody is Redis's `default`, who may do everything.

use crate::client::reply::{Response, value};
use crate::kv::Error;

use super::{Action, Args, Under, command, err, help_of};

/// The commands under ACL.
pub(super) const UNDER: &[Under] = &[
    Under("WHOAMI", "", "the user of this connection"),
    Under("LIST", "", "all users and what they may do"),
    Under("USERS", "", "the names of all users"),
    Under(
        "CAT",
        "[category]",
        "the categories of commands, or the commands of one",
    ),
    Under("HELP", "", "this list"),
];

pub(super) fn acl(args: &Args<'_>) -> Result<Action, Error> {
    let under = args.bytes(1).to_ascii_uppercase();
    if !matches!(under.as_slice(), b"CAT" | b"HELP") && UNDER.iter().any(|Under(name, ..)| args.is(1, name)) {
        args.expect_len(2)?;
    }
    let response = match under.as_slice() {
        b"WHOAMI" => value("default").into(),
        b"LIST" => Response::words(["user default on nopass ~* &* +@all"]),
        b"USERS" => Response::words(["default"]),
        b"CAT" if args.len() > 3 => return Err(args.wrong_number_under()),
        b"CAT" => {
            let name = (args.len() == 3).then(|| args.shown(2).to_ascii_lowercase());
            command::category(name.as_deref())?
        }
        b"HELP" => help_of("ACL", UNDER),
        b"SETUSER" | b"DELUSER" | b"LOAD" | b"SAVE" => {
            return Err(err("users belong into the configuration file; nothing was done"));
        }
        _ => return Err(args.unknown_under()),
    };
    Ok(Action::Answer(response))
}
