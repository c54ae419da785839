//! What the state machine is asked and what it answers.

use std::borrow::Cow;

use bytes::Bytes;

/// A write: one log entry, applied in the order of the log on every node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// SET, SETNX, SETEX, PSETEX, GETSET.
    Set {
        /// The key.
        key: Bytes,
        /// Its new value.
        value: Bytes,
        /// When to write at all.
        condition: Condition,
        /// What becomes of the key's expiry.
        expiry: SetExpiry,
        /// What to answer.
        answer: SetAnswer,
    },
    /// DEL, UNLINK: answers how many keys there were.
    Delete {
        /// The keys; one named twice counts once.
        keys: Vec<Bytes>,
    },
    /// DELIFEQ: answers 1 if the key had this value and is deleted, else 0.
    DeleteIfEqual {
        /// The key.
        key: Bytes,
        /// The value it must have.
        old: Bytes,
    },
    /// GETDEL: answers the old value, or `Nil`.
    GetDelete {
        /// The key.
        key: Bytes,
    },
    /// GETEX with an option: answers the value, or `Nil`.
    GetExpire {
        /// The key.
        key: Bytes,
        /// Its new expiry, `None` takes it away; a moment in the past takes the key away. Its lease stays.
        at: Option<Moment>,
    },
    /// INCR, DECR, INCRBY, DECRBY: answers the new value. The expiry is kept.
    Increment {
        /// The key; an absent one counts as 0.
        key: Bytes,
        /// What to add.
        by: i64,
    },
    /// INCRBYFLOAT: answers the new value, a decimal with at most 17 digits behind the point. The expiry is kept.
    IncrementFloat {
        /// The key; an absent one counts as 0.
        key: Bytes,
        /// What to add, as the client wrote it.
        by: Bytes,
    },
    /// APPEND: answers the new length. The expiry is kept.
    Append {
        /// The key; an absent one counts as empty.
        key: Bytes,
        /// What to append.
        value: Bytes,
    },
    /// MSET: answers `Ok`.
    MultiSet {
        /// Keys and values; of a key named twice the last value stays.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// MSETNX: answers 1, or 0 and writes nothing when one of the keys is there.
    MultiSetIfAbsent {
        /// Keys and values; of a key named twice the last value stays.
        pairs: Vec<(Bytes, Bytes)>,
    },
    /// SETRANGE: answers the new length. The expiry is kept.
    SetRange {
        /// The key; an absent one counts as empty, and stays absent where nothing is written.
        key: Bytes,
        /// The byte of the value where to write; zeros fill what is between its end and there.
        offset: u64,
        /// What to write over what is there.
        value: Bytes,
    },
    /// RENAME: answers `Ok`; RENAMENX: 1, or 0 where `to` is there. An error if there is no `from`. Expiry and
    /// lease go along.
    Rename {
        /// The key that goes.
        from: Bytes,
        /// The key that has its value then.
        to: Bytes,
        /// Whether it is RENAMENX.
        if_absent: bool,
    },
    /// COPY: answers 1, or 0 where there is no `from`, or `to` is there and is not to be replaced. The copy has the
    /// same expiry and no lease.
    Copy {
        /// The key that is read.
        from: Bytes,
        /// Another key, which is written.
        to: Bytes,
        /// Whether to write over a `to` that is there.
        replace: bool,
    },
    /// EXPIRE, PEXPIRE, EXPIREAT, PEXPIREAT: answers 1 if the expiry was set (or the key deleted, because
    /// that time has passed), else 0.
    Expire {
        /// The key.
        key: Bytes,
        /// When it goes.
        at: Moment,
        /// Redis's NX, XX, GT, LT.
        condition: ExpireCondition,
    },
    /// PERSIST: answers 1 if an expiry was taken away, else 0.
    Persist {
        /// The key.
        key: Bytes,
    },
    /// FLUSHALL: answers `Ok`.
    FlushAll,
    /// EXEC: answers a list with the reply of each step, or `Nil` and does nothing when a watched key has changed.
    Transaction {
        /// Keys, and the revisions that they must have; 0 is an absent key.
        watched: Vec<(Bytes, u64)>,
        /// What to do, one after the other; at most [`STEPS_MAX`](super::STEPS_MAX).
        steps: Vec<Step>,
    },
    /// LEASE GRANT: answers the lease's number, which is the entry's index.
    GrantLease {
        /// Its life in milliseconds, from 1 to [`LIFE_MAX_MS`](super::LIFE_MAX_MS).
        ttl_ms: u64,
    },
    /// LEASE KEEPALIVE: starts its life anew; answers how long that is, in milliseconds.
    RenewLease {
        /// The lease's number.
        id: u64,
    },
    /// LEASE REVOKE: ends it now; answers how many keys went with it.
    RevokeLease {
        /// The lease's number.
        id: u64,
    },
    /// ONCE: carries the command out unless its token is remembered; answers as it did, or does.
    Once {
        /// 1 to [`TOKEN_MAX_BYTES`](super::TOKEN_MAX_BYTES) bytes.
        token: Bytes,
        /// How long the token is remembered, in milliseconds.
        window_ms: u64,
        /// What to do; see [`Command::may_be_wrapped`].
        command: Box<Command>,
    },
    /// SESSION OPEN: answers the session's number, which is the entry's index.
    OpenSession {
        /// Its life in milliseconds, from 1 to [`LIFE_MAX_MS`](super::LIFE_MAX_MS).
        life_ms: u64,
    },
    /// SEQ: carries the command out unless this number of the session has come before; answers as it did, or does.
    Seq {
        /// The session's number.
        session: u64,
        /// From 1 on.
        n: u64,
        /// What to do; see [`Command::may_be_wrapped`].
        command: Box<Command>,
    },
    /// SESSION CLOSE: answers `Ok`.
    CloseSession {
        /// The session's number.
        id: u64,
    },
    /// A new leader's own: starts the lives of all leases anew. Answers how many.
    RenewLeases,
    /// The leader's own: removes what is due at the entry's time: keys with an expiry, leases with their keys,
    /// sessions, tokens. Answers how many.
    ExpireDue {
        /// After so many it stops; a lease and its keys go together.
        limit: u32,
    },
    /// The first leader's own: names the cluster. The first one applied counts, later ones change nothing.
    /// Answers `Ok`.
    Bootstrap {
        /// 128 random bits.
        cluster_id: [u8; 16],
    },
}

/// A step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A write; see [`Command::may_be_step`].
    Write(Command),
    /// A read, which is answered at the entry's time.
    Read(Query),
}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// Milliseconds after the entry's time; may be negative.
    In(i64),
    /// Milliseconds since 1970-01-01 UTC.
    At(i64),
}

/// When a SET writes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Condition {
    /// Always.
    #[default]
    Always,
    /// NX: if the key is absent.
    IfAbsent,
    /// XX: if the key is there.
    IfPresent,
    /// IFEQ: if the key has this value.
    IfEqual(Bytes),
    /// IFREV: if the key's last write has this revision; 0 is an absent key.
    IfRevision(u64),
}

/// What a SET does to the key's expiry and lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetExpiry {
    /// Takes both away.
    #[default]
    Clear,
    /// KEEPTTL: leaves both.
    Keep,
    /// EX, PX, EXAT, PXAT: gives it another expiry and no lease. A moment in the past leaves the key absent.
    At(Moment),
    /// LEASE: takes the expiry away, and lets the key go with the lease of this number.
    Lease(u64),
}

/// What a SET answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SetAnswer {
    /// `Ok`, or `Nil` when the condition failed.
    #[default]
    Status,
    /// SET … GET, GETSET: the old value or `Nil`, whether or not the condition held.
    OldValue,
    /// SETNX: 1, or 0 when the condition failed.
    Count,
}

/// When an EXPIRE writes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpireCondition {
    /// Always.
    #[default]
    Always,
    /// NX: if the key has no expiry.
    IfNone,
    /// XX: if the key has one.
    IfSome,
    /// GT: if the new one is later; no expiry counts as the latest.
    IfLater,
    /// LT: if the new one is earlier; no expiry counts as the latest.
    IfEarlier,
    /// XX with LT: if the key has one and the new one is earlier.
    IfSomeAndEarlier,
}

/// A read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Query {
    /// GET: the value, or `Nil`.
    Get(Bytes),
    /// MGET: a list of values and `Nil`s.
    MultiGet(Vec<Bytes>),
    /// EXISTS: how many are there; a key named twice counts twice.
    Exists(Vec<Bytes>),
    /// STRLEN: the length in bytes, 0 if absent.
    Length(Bytes),
    /// TYPE: the text `string` or `none`.
    Type(Bytes),
    /// TTL and PTTL: what is left in the given unit; -1 without expiry, -2 if absent.
    TimeToLive {
        /// The key.
        key: Bytes,
        /// Whether in milliseconds rather than (rounded, as Redis does) seconds.
        milliseconds: bool,
    },
    /// GETRANGE, SUBSTR: a piece of the value, empty if absent.
    Slice {
        /// The key.
        key: Bytes,
        /// Its first byte; a negative one counts from the value's end.
        start: i64,
        /// Its last byte, which is part of it; a negative one counts from the value's end.
        end: i64,
    },
    /// EXPIRETIME and PEXPIRETIME: when the key goes, since 1970-01-01 UTC in the given unit; -1 without expiry,
    /// -2 if absent.
    ExpireTime {
        /// The key.
        key: Bytes,
        /// Whether in milliseconds rather than (rounded, as Redis does) seconds.
        milliseconds: bool,
    },
    /// REV: the revision of the key's last write, 0 if absent.
    Revision(Bytes),
    /// WATCH: a list of the keys' revisions, 0 where absent.
    Revisions(Vec<Bytes>),
    /// DBSIZE: how many keys there are.
    Size,
    /// LEASE INFO: a list of names and values: `ttl` and `remaining` in milliseconds, `keys` as a list.
    Lease(u64),
}

/// A read of many keys, walked piece by piece over a [`View`](super::View) so that it stalls nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The first key, included.
    pub from: Bytes,
    /// The end, not included; `None` is the end of the keys.
    pub to: Option<Bytes>,
    /// At most so many keys.
    pub limit: Option<u64>,
}

/// What the state machine, or the node around it, answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// `OK`.
    Ok,
    /// A word or sentence for people.
    Text(Cow<'static, str>),
    /// A number.
    Integer(i64),
    /// The bytes of a value.
    Value(Bytes),
    /// Nothing there.
    Nil,
    /// Several replies.
    List(Vec<Reply>),
    /// An error; its code says whether the command may have taken effect.
    Error(Error),
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} {text}", code.as_str())]
pub struct Error {
    /// The class, which says whether the command may have taken effect.
    pub code: Code,
    /// One sentence: what is wrong, and where.
    pub text: Cow<'static, str>,
}

/// The classes of errors. All but `UnknownResult` mean: not done, and never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// Syntax, unknown command, wrong number of words, wrong type, out of range.
    Err,
    /// Authentication is needed.
    NoAuth,
    /// This user may not.
    NoPerm,
    /// Wrong user or password.
    WrongPass,
    /// No leader is known.
    ClusterDown,
    /// The leader is changing; the command was not appended.
    TryAgain,
    /// The node is still reading its data folder.
    Loading,
    /// Over a limit; try again later.
    Busy,
    /// The memory bound is reached.
    Oom,
    /// The disk is full, or the node is shutting down.
    ReadOnly,
    /// Another membership change is in progress.
    Conflict,
    /// The change feed's start is before the history that is kept.
    Compacted,
    /// The session is unknown or expired.
    NoSession,
    /// Perhaps done: proposed, but the outcome is not known.
    UnknownResult,
    /// HELLO asked for a protocol version that is not spoken.
    NoProto,
    /// A transaction was given up: one of its commands was refused.
    ExecAbort,
}

impl Command {
    /// Whether it may stand in ONCE and SEQ: neither they do, nor what leaders do by themselves.
    pub fn may_be_wrapped(&self) -> bool {
        !matches!(
            self,
            Command::Once { .. }
                | Command::Seq { .. }
                | Command::RenewLeases
                | Command::ExpireDue { .. }
                | Command::Bootstrap { .. }
        )
    }

    /// What is done in the end: the command within ONCE and SEQ.
    pub fn unwrapped(&self) -> &Command {
        match self {
            Command::Once { command, .. } | Command::Seq { command, .. } => command,
            command => command,
        }
    }

    /// The keys it names, in the order in which it names them; of a transaction the watched ones, then those of its
    /// steps.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let command = self.unwrapped();
        let (one, two, many, pairs) = command.named();
        let (watched, steps) = match command {
            Command::Transaction { watched, steps } => (&watched[..], &steps[..]),
            _ => (&[][..], &[][..]),
        };
        let pairs = pairs.iter().map(|(key, _)| key);
        let watched = watched.iter().map(|(key, _)| key);
        let steps = steps.iter().flat_map(Step::keys);
        one.into_iter()
            .chain(two)
            .chain(many)
            .chain(pairs)
            .chain(watched)
            .chain(steps)
    }

    /// One key, another one, a list of keys, a list of pairs.
    fn named(&self) -> Named<'_> {
        match self {
            Command::Set { key, .. }
            | Command::DeleteIfEqual { key, .. }
            | Command::GetDelete { key }
            | Command::GetExpire { key, .. }
            | Command::Increment { key, .. }
            | Command::IncrementFloat { key, .. }
            | Command::Append { key, .. }
            | Command::SetRange { key, .. }
            | Command::Expire { key, .. }
            | Command::Persist { key } => (Some(key), None, &[], &[]),
            Command::Rename { from, to, .. } | Command::Copy { from, to, .. } => {
                (Some(from), Some(to), &[], &[])
            }
            Command::Delete { keys } => (None, None, keys, &[]),
            Command::MultiSet { pairs } | Command::MultiSetIfAbsent { pairs } => (None, None, &[], pairs),
            Command::FlushAll
            | Command::Transaction { .. }
            | Command::GrantLease { .. }
            | Command::RenewLease { .. }
            | Command::RevokeLease { .. }
            // Within another one, which is refused.
            | Command::Once { .. }
            | Command::OpenSession { .. }
            | Command::Seq { .. }
            | Command::CloseSession { .. }
            | Command::RenewLeases
            | Command::ExpireDue { .. }
            | Command::Bootstrap { .. } => (None, None, &[], &[]),
        }
    }
}

/// The keys of a command, by the ways in which commands hold them.
type Named<'a> = (
    Option<&'a Bytes>,
    Option<&'a Bytes>,
    &'a [Bytes],
    &'a [(Bytes, Bytes)],
);

impl Code {
    /// All codes, in the order of their numbers on the wire.
    pub const ALL: [Code; 16] = [
        Code::Err,
        Code::NoAuth,
        Code::NoPerm,
        Code::WrongPass,
        Code::ClusterDown,
        Code::TryAgain,
        Code::Loading,
        Code::Busy,
        Code::Oom,
        Code::ReadOnly,
        Code::Conflict,
        Code::Compacted,
        Code::NoSession,
        Code::UnknownResult,
        Code::NoProto,
        Code::ExecAbort,
    ];

    /// The word a client sees.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::Err => "ERR",
            Code::NoAuth => "NOAUTH",
            Code::NoPerm => "NOPERM",
            Code::WrongPass => "WRONGPASS",
            Code::ClusterDown => "CLUSTERDOWN",
            Code::TryAgain => "TRYAGAIN",
            Code::Loading => "LOADING",
            Code::Busy => "BUSY",
            Code::Oom => "OOM",
            Code::ReadOnly => "READONLY",
            Code::Conflict => "CONFLICT",
            Code::Compacted => "COMPACTED",
            Code::NoSession => "NOSESSION",
            Code::UnknownResult => "UNKNOWNRESULT",
            Code::NoProto => "NOPROTO",
            Code::ExecAbort => "EXECABORT",
        }
    }
}

impl Reply {
    /// An error reply.
    pub fn error(code: Code, text: impl Into<Cow<'static, str>>) -> Reply {
        Reply::Error(Error {
            code,
            text: text.into(),
        })
    }
}
