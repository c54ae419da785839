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
    /// INCR, DECR, INCRBY, DECRBY: answers the new value. The expiry is kept.
    Increment {
        /// The key; an absent one counts as 0.
        key: Bytes,
        /// What to add.
        by: i64,
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
    /// A new leader's own: starts the lives of all leases anew. Answers how many.
    RenewLeases,
    /// The leader's own: removes what is due at the entry's time: keys with an expiry, leases with their keys. Answers
    /// how many.
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
    /// REV: the revision of the key's last write, 0 if absent.
    Revision(Bytes),
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
}

impl Command {
    /// The keys it names, in the order in which it names them.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        let (one, many, pairs): (Option<&Bytes>, &[Bytes], &[(Bytes, Bytes)]) = match self {
            Command::Set { key, .. }
            | Command::DeleteIfEqual { key, .. }
            | Command::GetDelete { key }
            | Command::Increment { key, .. }
            | Command::Append { key, .. }
            | Command::Expire { key, .. }
            | Command::Persist { key } => (Some(key), &[], &[]),
            Command::Delete { keys } => (None, keys, &[]),
            Command::MultiSet { pairs } => (None, &[], pairs),
            Command::FlushAll
            | Command::GrantLease { .. }
            | Command::RenewLease { .. }
            | Command::RevokeLease { .. }
            | Command::RenewLeases
            | Command::ExpireDue { .. }
            | Command::Bootstrap { .. } => (None, &[], &[]),
        };
        one.into_iter()
            .chain(many)
            .chain(pairs.iter().map(|(key, _)| key))
    }
}

impl Code {
    /// All codes, in the order of their numbers on the wire.
    pub const ALL: [Code; 15] = [
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
