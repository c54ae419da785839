//! The command table: one row per command says how many words it takes, what it may touch, how its words
//! are read, and what help there is. Look-up, arity, key checks, `HELP` and `COMMAND` all come from the rows.
//!
//! The rows are grouped in families, one file each. A command with words of its own under it (`RAFT STATUS`,
//! `CLIENT ID`) is one row for the look-up, whose `parse` goes on; its words are listed for `HELP`.

mod absent;
mod acl;
mod client;
mod command;
mod connection;
mod expiry;
mod feeds;
mod keys;
mod leases;
mod node;
mod once;
mod scans;
mod server;
mod strings;
mod syntax;
mod transaction;

use std::sync::LazyLock;

use bytes::Bytes;

use crate::base::escape;
use crate::kv::{Code, Command, Error, KEY_MAX_BYTES, Query, Reply, Scan};
use crate::node::{Operation, ReadMode};

use super::administration::Administration;
use super::reply::Response;
use super::resp::integer;

/// One command.
#[derive(Debug)]
pub(crate) struct Row {
    /// Its name, in capitals.
    pub(crate) name: &'static str,
    /// How many words, the name included; `-n` means n or more (Redis's convention).
    pub(crate) arity: i32,
    /// What it does, for permissions and for `COMMAND`.
    pub(crate) flags: &'static [Flag],
    /// Which of its words are keys.
    pub(crate) keys: Keys,
    /// Reads the words; their number is right and the keys among them have been checked.
    pub(crate) parse: fn(&Args<'_>) -> Result<Action, Error>,
    /// The words after the name, for people.
    pub(crate) syntax: &'static str,
    /// What it does and answers, in one line. Empty for what is not built yet, which `HELP` leaves out.
    pub(crate) summary: &'static str,
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flag {
    /// Changes keys.
    Write,
    /// Reads keys.
    Read,
    /// Is for operators.
    Admin,
    /// Takes the same short time however much data there is.
    Fast,
    /// Concerns the connection alone.
    Connection,
}

/// Which words of a request are keys: the first, the last (-1: of all words), and how far they are apart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys {
    pub(crate) first: i32,
    pub(crate) last: i32,
    pub(crate) step: i32,
}

impl Keys {
    const NONE: Keys = Keys {
        first: 0,
        last: 0,
        step: 0,
    };
    const FIRST: Keys = Keys {
        first: 1,
        last: 1,
        step: 1,
    };
    const ALL: Keys = Keys {
        first: 1,
        last: -1,
        step: 1,
    };
    const PAIRS: Keys = Keys {
        first: 1,
        last: -1,
        step: 2,
    };

    /// Where the keys are among so many words.
    fn places(self, words: usize) -> impl Iterator<Item = usize> {
        let end = match usize::try_from(self.last) {
            _ if self.step <= 0 => 0,
            Ok(last) => words.min(last + 1),
            Err(_) => words,
        };
        (self.first as usize..end).step_by(self.step.max(1) as usize)
    }
}

/// What a request asks for, once its words are understood.
#[derive(Debug)]
pub(crate) enum Action {
    /// A write.
    Write(Command),
    /// A write that is known by this when it comes again.
    Repeatable(Repeat, Command),
    /// A read of a few keys.
    Query(Query),
    /// RANGE, PREFIX, KEYS.
    Walk(Walk),
    /// SCAN.
    Scan(ScanStep),
    /// RANDOMKEY.
    RandomKey,
    /// FEED.
    Feed {
        /// Of the keys that begin with this.
        prefix: Bytes,
        /// What has changed after this revision; `None` is from now on.
        from: Option<u64>,
    },
    /// UNFEED.
    Unfeed,
    /// What the node is to do beside reads and writes: hand over, change the membership, compare states.
    Operate(Operation),
    /// What is made of the value of a key: the read, the key again, and what to make of it; nothing if it is absent.
    OfValue(Query, Bytes, fn(&[u8], &[u8]) -> Reply),
    /// A page made of the node's status.
    Page(Page),
    /// Asked of the process rather than of the cluster.
    Administer(Administration),
    /// Answered here and now.
    Answer(Response),
    /// MULTI and its kin.
    Transaction(TransactionAction),
    /// Concerns this connection.
    Connection(ConnectionAction),
}

/// What a request does as far as its order among others goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// It may follow writes that are under way, but no reads.
    Write,
    /// The other way round.
    Read,
    /// It has nothing to do with either.
    Local,
}

/// A walk over many keys and how it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walk {
    /// Where to walk. The limit counts keys that match.
    pub(crate) scan: Scan,
    /// Only keys that match this pattern.
    pub(crate) pattern: Option<Bytes>,
    /// Whether each key's value follows it.
    pub(crate) values: bool,
}

/// One step of SCAN.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScanStep {
    /// Where the step before ended; 0 is the start.
    pub(crate) cursor: u64,
    /// Only keys that match.
    pub(crate) pattern: Option<Bytes>,
    /// How many keys to look at.
    pub(crate) count: u64,
    /// Whether TYPE asked for what no key is.
    pub(crate) nothing: bool,
}

/// A page made of the node's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Page {
    /// INFO, with the sections that were asked for.
    Info(Vec<String>),
    /// STATUS.
    Status,
    /// RAFT STATUS.
    Json,
    /// RAFT MEMBERS.
    Members,
    /// ROLE.
    Role,
    /// WAIT.
    Wait,
    /// LASTSAVE.
    LastSave,
    /// MEMORY STATS.
    MemoryStats,
}

/// MULTI and its kin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TransactionAction {
    /// MULTI.
    Multi,
    /// EXEC.
    Exec(Repeat),
    /// DISCARD.
    Discard,
    /// WATCH.
    Watch(Vec<Bytes>),
    /// UNWATCH.
    Unwatch,
}

/// By what a write is known when it comes again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// Nothing: each time it comes it is done.
    No,
    /// The token of ONCE.
    Once(Bytes),
    /// The number of SEQ.
    Seq {
        /// The session's id.
        session: u64,
        /// The number within it.
        n: u64,
    },
}

/// What concerns one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ConnectionAction {
    /// HELLO.
    Hello {
        /// Whether RESP3 is to be spoken from now on; `None` leaves it.
        resp3: Option<bool>,
        /// SETNAME.
        name: Option<String>,
    },
    /// READ, READONLY.
    ReadMode(ReadMode),
    /// READWRITE.
    DefaultReadMode,
    /// CLIENT REPLY ON, OFF.
    Replies(bool),
    /// CLIENT REPLY SKIP.
    SkipReply,
    /// CLIENT SETNAME.
    SetName(String),
    /// CLIENT SETINFO: `lib-name` or `lib-ver`, and its value.
    SetLibrary(LibraryField, String),
    /// CLIENT GETNAME.
    Name,
    /// CLIENT ID.
    Id,
    /// CLIENT INFO.
    Info,
    /// TIME.
    Time,
    /// QUIT.
    Quit,
    /// RESET.
    Reset,
}

/// The two attributes of CLIENT SETINFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LibraryField {
    /// LIB-NAME.
    Name,
    /// LIB-VER.
    Version,
}

/// The words of one request of a row.
#[derive(Debug)]
pub(crate) struct Args<'a> {
    row: &'static Row,
    words: &'a [Bytes],
}

/// A command under a command: its name, its further words, what it does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Under(&'static str, &'static str, &'static str);

/// The families, in the order of HELP, by Redis's names for such groups.
const FAMILIES: [(&str, &[Row]); 11] = [
    ("string", strings::ROWS),
    ("generic", expiry::ROWS),
    ("generic", keys::ROWS),
    ("generic", leases::ROWS),
    ("generic", once::ROWS),
    ("generic", scans::ROWS),
    ("transactions", transaction::ROWS),
    ("pubsub", feeds::ROWS),
    ("server", node::ROWS),
    ("server", server::ROWS),
    ("connection", connection::ROWS),
];

/// The rows, in the order of HELP.
pub(crate) fn rows() -> impl Iterator<Item = &'static Row> {
    FAMILIES.into_iter().flat_map(|(_, rows)| rows)
}

/// The name of the family of a row.
fn group(row: &Row) -> &'static str {
    let has = |rows: &[Row]| rows.iter().any(|other| other.name == row.name);
    FAMILIES
        .into_iter()
        .find(|(_, rows)| has(rows))
        .map_or("", |(group, _)| group)
}

/// Where a row is in [`sorted`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(pub(crate) usize);

/// The rows by name.
pub(crate) fn sorted() -> &'static [&'static Row] {
    static SORTED: LazyLock<Vec<&'static Row>> = LazyLock::new(|| {
        let mut all: Vec<_> = rows().collect();
        all.sort_by_key(|row| row.name);
        all
    });
    &SORTED
}

/// Where the row of this name is, in any case.
pub(crate) fn place(name: &[u8]) -> Option<Place> {
    let folded = || name.iter().map(u8::to_ascii_uppercase);
    let place = sorted().binary_search_by(|row| row.name.bytes().cmp(folded()));
    place.ok().map(Place)
}

/// The row there.
pub(crate) fn at(place: Place) -> Option<&'static Row> {
    sorted().get(place.0).copied()
}

/// The row of this name, in any case.
pub(crate) fn find(name: &[u8]) -> Option<&'static Row> {
    place(name).and_then(at)
}

/// The lines of HELP for the commands under a command.
fn help_under(name: &str, under: &'static [Under]) -> impl Iterator<Item = String> {
    let line = move |Under(under, syntax, summary): &Under| {
        let blank = if syntax.is_empty() { "" } else { " " };
        format!("{name} {under}{blank}{syntax} - {summary}")
    };
    under.iter().map(line)
}

/// The answer to the HELP of a command with others under it.
fn help_of(name: &str, under: &'static [Under]) -> Response {
    Response::words(help_under(name, under))
}

/// Reads a request.
///
/// # Errors
/// What is wrong with it, as Redis says it where Redis has a sentence for it. Nothing was done.
pub(crate) fn parse(words: &[Bytes]) -> Result<Action, Error> {
    parse_at(place_of(words), words)
}

/// Where the row of a request is.
pub(crate) fn place_of(words: &[Bytes]) -> Option<Place> {
    words.first().and_then(|name| place(name))
}

/// As [`parse`], of a request whose row was looked up with [`place_of`].
pub(crate) fn parse_at(place: Option<Place>, words: &[Bytes]) -> Result<Action, Error> {
    let Some(row) = place.and_then(at) else {
        let name = words.first().map(Bytes::as_ref).unwrap_or_default();
        return Err(unknown(name, words.get(1..).unwrap_or_default()));
    };
    let args = Args { row, words };
    if !row.takes(words.len()) {
        return Err(args.wrong_number());
    }
    args.check_keys()?;
    (row.parse)(&args)
}

impl Action {
    /// Its place in the order of requests.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Action::Write(_) | Action::Repeatable(..) | Action::Operate(_) => Kind::Write,
            Action::Query(_)
            | Action::OfValue(..)
            | Action::Walk(_)
            | Action::Scan(_)
            | Action::RandomKey
            | Action::Feed { .. }
            | Action::Page(_) => Kind::Read,
            Action::Transaction(TransactionAction::Watch(_)) => Kind::Read,
            Action::Transaction(TransactionAction::Multi) => Kind::Local,
            // After the answer to a WATCH that is under way, which belongs to the time before.
            Action::Transaction(_) | Action::Connection(ConnectionAction::Reset) => Kind::Write,
            Action::Answer(_) | Action::Administer(_) | Action::Connection(_) | Action::Unfeed => Kind::Local,
        }
    }
}

impl Row {
    /// The one line of HELP.
    pub(crate) fn help(&self) -> String {
        let blank = if self.syntax.is_empty() { "" } else { " " };
        format!("{}{blank}{} - {}", self.name, self.syntax, self.summary)
    }

    /// Whether a request of so many words, the name included, may be one.
    pub(crate) fn takes(&self, words: usize) -> bool {
        let count = i32::try_from(words).unwrap_or(i32::MAX);
        count == self.arity || (self.arity < 0 && count >= -self.arity)
    }

    /// Whether HELP and COMMAND show it.
    pub(crate) fn is_built(&self) -> bool {
        !self.summary.is_empty()
    }
}

impl Args<'_> {
    /// How many words there are, the name included.
    fn len(&self) -> usize {
        self.words.len()
    }

    /// The word at this place (the name is 0), empty if there is none.
    fn word(&self, at: usize) -> Bytes {
        self.words.get(at).cloned().unwrap_or_default()
    }

    fn bytes(&self, at: usize) -> &[u8] {
        self.words.get(at).map(Bytes::as_ref).unwrap_or_default()
    }

    /// The words from this place on.
    fn rest(&self, from: usize) -> Vec<Bytes> {
        self.words.get(from..).unwrap_or_default().to_vec()
    }

    /// Whether the word at this place is this one, given in capitals.
    fn is(&self, at: usize, word: &str) -> bool {
        self.bytes(at).eq_ignore_ascii_case(word.as_bytes())
    }

    fn integer(&self, at: usize) -> Result<i64, Error> {
        integer(self.bytes(at)).ok_or_else(|| err("value is not an integer or out of range"))
    }

    /// The word as text, for names and pages.
    fn text(&self, at: usize) -> String {
        String::from_utf8_lossy(self.bytes(at)).into_owned()
    }

    /// The word as it may be shown in a sentence.
    fn shown(&self, at: usize) -> String {
        escape::excerpt(self.bytes(at), 128)
    }

    fn lower_name(&self) -> String {
        self.row.name.to_ascii_lowercase()
    }

    fn wrong_number(&self) -> Error {
        err(format!(
            "wrong number of arguments for '{}' command",
            self.lower_name()
        ))
    }

    /// For a command under a command: `client|setname`.
    fn wrong_number_under(&self) -> Error {
        let under = escape::excerpt(&self.bytes(1).to_ascii_lowercase(), 32);
        err(format!(
            "wrong number of arguments for '{}|{under}' command",
            self.lower_name()
        ))
    }

    /// Refuses unless a command under this one has this many words, the two names included.
    fn expect_len(&self, len: usize) -> Result<(), Error> {
        if self.len() == len {
            Ok(())
        } else {
            Err(self.wrong_number_under())
        }
    }

    fn unknown_under(&self) -> Error {
        err(format!(
            "unknown subcommand '{}'. Try {} HELP.",
            self.shown(1),
            self.row.name
        ))
    }

    /// A syntax error at this word, or at the end where one is missing.
    fn syntax(&self, at: usize) -> Error {
        let what = match self.words.get(at) {
            Some(_) => format!("'{}' (word {}) is not expected there", self.shown(at), at + 1),
            None => "a word is missing at the end".into(),
        };
        err(format!(
            "syntax error: {what}; usage: {} {}",
            self.row.name, self.row.syntax
        ))
    }

    fn check_keys(&self) -> Result<(), Error> {
        let mut places = self.row.keys.places(self.len());
        places.try_for_each(|at| self.check_key(at))
    }

    fn check_key(&self, at: usize) -> Result<(), Error> {
        match self.bytes(at).len() {
            1..=KEY_MAX_BYTES => Ok(()),
            len => Err(err(format!(
                "a key has 1 to {KEY_MAX_BYTES} bytes; word {} has {len}",
                at + 1
            ))),
        }
    }
}

/// An error of the class ERR.
pub(crate) fn err(text: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error {
        code: Code::Err,
        text: text.into(),
    }
}

fn answer(reply: Reply) -> Result<Action, Error> {
    Ok(Action::Answer(Response::Reply(reply)))
}

/// Redis's sentence, in which each word is followed by a blank; or what is here instead of Redis's command.
fn unknown(name: &[u8], args: &[Bytes]) -> Error {
    if let Some(instead) = absent::instead(name) {
        return err(format!(
            "unknown command '{}'; {instead}",
            escape::excerpt(name, 128)
        ));
    }
    let mut shown = String::new();
    for word in args {
        if shown.len() >= 128 {
            break;
        }
        shown.push_str(&format!("'{}' ", escape::excerpt(word, 128 - shown.len())));
    }
    err(format!(
        "unknown command '{}', with args beginning with: {shown}",
        escape::excerpt(name, 128)
    ))
}

#[cfg(test)]
mod tests;
