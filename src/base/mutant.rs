//! Known bugs, to be put in on purpose: does the simulation find them?
//!
//! Each is a condition `mutant::is(Mutant::…)` at the place where the mistake would be made. Without the feature
//! `mutants` that is the constant `false`, and nothing is left of it in the program; with it a thread may say which
//! bug it wants. `examples/mutants.rs` runs simulated worlds with each of them until one fails, and writes
//! `docs/mutation-table.md`. The binary refuses to be built with the feature.

macro_rules! mutants {
    ($($name:ident $area:literal $what:literal,)*) => {
        /// A known bug.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Mutant {
            $(#[doc = $what] $name,)*
        }

        impl Mutant {
            /// All of them.
            pub const ALL: &[Mutant] = &[$(Mutant::$name),*];

            /// Where it is, and what is wrong then.
            pub const fn describe(self) -> (&'static str, &'static str) {
                match self {
                    $(Mutant::$name => ($area, $what),)*
                }
            }
        }
    };
}

mutants! {
    VoteWithoutLogCheck "raft/election" "A vote is given without looking at the candidate's log",
    LogLengthBeforeTerm "raft/election" "The longer log counts as more up-to-date, whatever its terms",
    VoteTwice "raft/election" "A second candidate of a term gets a vote too",
    VoteBeforeDurable "raft/node" "A vote is sent before it is on the disk",
    VoteNotWritten "raft/ready" "Whom a server voted for is not written to the disk",
    StepDownForgetsVote "raft/node" "A candidate that gives up within its term forgets its vote",
    EarlierVoteCounts "raft/election" "A vote of an earlier term and election counts",
    PreVoteChangesTerm "raft/election" "A pre-vote raises the term of who is asked",
    NoCheckQuorum "raft/leader" "A leader that no quorum answers goes on leading",
    OldTermIsHeard "raft/node" "A message of an earlier term counts as one of this term",
    TransferNeverEnds "raft/leader" "A hand-over of leadership that fails is never given up",
    NumbersBeginAgain "raft/node" "A process that starts counts its questions from 1, as the one before",
    MatchIndexFalls "raft/progress" "A late answer sets match_index back",
    NextBelowMatch "raft/progress" "A late rejection sets next_index to match_index or below",
    TruncateAlways "raft/log" "Every AppendEntries cuts the log behind its last entry",
    ConflictIsKept "raft/log" "An entry at an index counts as the leader's, whatever its term",
    ConflictStaysOnDisk "raft/ready" "An entry that was replaced in memory is not written again",
    PrevTermUnchecked "raft/follower" "The consistency check looks at the index and not at the term",
    HeartbeatCommitsAll "raft/leader" "A heartbeat names the leader's commit index to a follower that lags",
    AckBeforeSync "raft/follower" "A follower acknowledges entries before they are on its disk",
    LeaderCountsUnsynced "raft/leader" "A leader counts itself before its entries are on its disk",
    MinorityCommits "raft/quorum" "Half of the voters, rounded down, commit an entry",
    MinorityElects "raft/quorum" "Half of the voters, rounded down, elect a leader",
    EarlierTermCommits "raft/leader" "An entry of an earlier term is committed by counting (Raft figure 8)",
    ReplacedWriteCounts "raft/ready" "A write to the disk counts for entries that were replaced meanwhile",
    AnswerOutlivesTerm "raft/ready" "An answer that waits for the disk is sent although the term has changed",
    ApplyUncommitted "raft/node" "Entries are applied as soon as they are in the log",
    NoJointStep "raft/reconfigure" "The voters change by one entry, without a joint configuration",
    JointEndsAtOnce "raft/reconfigure" "A joint configuration is left before it is committed",
    ChangeBeforeNoop "raft/reconfigure" "A leader changes the membership before an entry of its term is committed",
    ChangeWhileChanging "raft/reconfigure" "A change of the membership begins while another one is not finished",
    OutgoingIgnored "raft/quorum" "In a joint configuration the new voters decide alone",
    LearnerCounts "raft/quorum" "What a learner holds and confirms counts as a voter's",
    MembershipOnCommit "raft/membership" "A membership is in force when it is applied, not when it is appended",
    MembershipStays "raft/follower" "A membership whose entry was replaced stays in force",
    RemovedLeaderStays "raft/reconfigure" "A leader that was removed goes on leading",
    WipedIsThought "raft/reconfigure" "What a member acknowledged is believed of its next data folder",
    WipedIsLetIn "transport/members" "A member is let in with another data folder than its own",
    RecoveringVotes "raft/recovering" "A server that may lack what it acknowledged votes",
    RecoveringCounts "raft/leader" "A server that may lack what it acknowledged counts for quorums",
    RecoveringKeepsMatch "raft/recovering" "What a server acknowledged before it lost its log is still believed",
    RecoveryEndsEarly "raft/recovering" "A server has recovered when it knows what it lacks, not when it has it",
    InstallKeepsConflict "raft/log" "An installed snapshot keeps a log that says something else at its last entry",
    InstallKeepsDurable "raft/ready" "What was durable of a log counts after a snapshot has taken its place",
    OldSnapshotInstalled "raft/snapshot" "A snapshot is installed where more is committed already",
    UnwrittenDropped "raft/snapshot" "Entries that are not on the disk yet are dropped from the log for a snapshot",
    SnapshotOfLaterMembership "raft/snapshot" "A snapshot names the latest membership, not the one at its last entry",
    SnapshotAhead "node/compaction" "A snapshot claims to hold what is committed and not applied yet",
    ChunkOutOfOrder "node/transfer" "A chunk of a snapshot is taken whatever its number, the whole whatever its hash",
    LeaseOutlivesTransfer "raft/lease" "A leader reads by its lease while and after it hands over",
    LeaseFromAnswer "raft/lease" "A lease runs from the answer, not from the question",
    NoDriftMargin "raft/lease" "A lease is as long as the promise, whatever the clocks",
    PromiseEndsWithTerm "raft/election" "A voter keeps its promise within its term only",
    PromiseForgotten "raft/node" "A voter forgets its promise with a restart",
    ReadWithoutQuorum "raft/read" "A leader answers reads without asking whether it still leads",
    ReadBeforeFirstCommit "raft/read" "A new leader answers reads before it knows what is committed",
    ReadRoundReused "raft/read" "A read is confirmed by answers to a question asked before it",
    AnyReadAnswerCounts "raft/read" "The answer to an earlier question about reads counts for the present one",
    ReadBeforeApplied "node/reads" "A read is answered before the state is as new as it has to be",
    AnswerWhenProposed "node/writes" "A write is answered when it is in the leader's log",
    UnknownIsTryAgain "node/machine" "A write of unknown outcome is answered as one that was not done",
    ForwardedTwice "node/writes" "A follower sends a write again when its connection to the leader is lost",
    OtherEntryAnswers "node/waiters" "A write is answered when any entry at its index is applied",
    LocalTimeApplied "node/machine" "Entries are applied with the node's own time",
    TermAfterEntries "raft/ready" "Entries are written to the disk before the term that they are of",
    SyncSkipped "storage/segment" "A batch is written and not synced",
    SyncRetried "storage/segment" "A failed sync is tried again, and then all seems well",
    NameNotSynced "storage/segment" "A new segment's name is not synced",
    TornBatchStays "storage/recovery" "What is left of a torn batch stays behind the end of the log",
}

#[cfg(not(feature = "mutants"))]
mod chosen {
    use super::Mutant;

    /// Whether this bug was put in: never, without the feature `mutants`.
    #[inline(always)]
    pub const fn is(_: Mutant) -> bool {
        false
    }
}

#[cfg(feature = "mutants")]
mod chosen {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static CHOSEN: Cell<Option<Mutant>> = Cell::new(named_in_environment());
    }

    /// `MUTANT=VoteTwice cargo test --lib --features mutants`: does a test notice?
    fn named_in_environment() -> Option<Mutant> {
        let name = std::env::var("MUTANT").ok()?;
        Mutant::ALL
            .iter()
            .copied()
            .find(|mutant| format!("{mutant:?}") == name)
    }

    /// Whether this bug was put in, on this thread.
    #[inline]
    pub fn is(mutant: Mutant) -> bool {
        CHOSEN.get() == Some(mutant)
    }

    /// Puts a bug in, for what this thread runs from now on; `None` for none.
    pub fn choose(mutant: Option<Mutant>) {
        CHOSEN.set(mutant);
    }
}

#[cfg(feature = "mutants")]
pub use chosen::choose;
pub use chosen::is;

/// `right`, or with this bug `wrong`.
#[inline(always)]
pub fn pick<T>(mutant: Mutant, right: T, wrong: T) -> T {
    if is(mutant) { wrong } else { right }
}
