//! The safety properties of Raft (Raft figure 3) as a checker, for scripts and simulation.
//!
//! An [`Invariants`] watches a whole cluster from outside. It is shown a server after everything that happens to
//! it ([`observe`](Invariants::observe)) and remembers who led which term, what was ever committed, and every
//! entry that was ever seen, so that it also notices what no single moment shows.
//!
//! Beside the five properties of the paper it checks what our own code promises: terms and commit indexes never
//! fall, a vote is not changed within its term, a leader counts only entries of its own term (Raft 5.4.2), its
//! `match_index` never falls and its `next_index` stays above it, nothing is believed of a follower that says that it
//! has lost its log, the membership in force is one of the log, and the log drops only what the disk was given.
//!
//! Of a log that begins after a snapshot it sees the end of what was dropped: that must be the entry that is committed
//! there, and then, by Log Matching, so is all before.
//!
//! It looks only at what has changed since the last look, so a look costs little. What it cannot see is the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use super::node::{Raft, RoleName, Status};
use super::types::{EntryId, HardState, Index, NodeId, Payload, Term};

/// What a cluster has shown of itself so far.
#[derive(Clone, Debug, Default)]
pub struct Invariants {
    /// Who has led which term.
    leaders: BTreeMap<Term, NodeId>,
    /// Every entry ever seen in a log: what it says, and the entry before it.
    entries: BTreeMap<EntryId, (Payload, EntryId)>,
    /// What is committed, and the term in which it was. Without holes, and from index 1 on unless the servers began
    /// with snapshots.
    committed: BTreeMap<Index, (EntryId, Term)>,
    /// The last look at each server.
    servers: BTreeMap<NodeId, Seen>,
}

/// One server when last looked at.
#[derive(Clone, Debug, Default)]
struct Seen {
    hard_state: HardState,
    is_leader: bool,
    commit_index: Index,
    /// By follower, and its data folder where it is a member.
    match_index: BTreeMap<(NodeId, Option<Option<u64>>), Index>,
    /// The followers that recover, as it knows.
    recovering: BTreeSet<NodeId>,
    /// The entry after which the log begins.
    base: EntryId,
    /// The names of all entries of the log.
    log: VecDeque<EntryId>,
}

impl Seen {
    /// The entry at an index; `None` where there is none, or only in a snapshot.
    fn at(&self, index: Index) -> Option<EntryId> {
        match index.0.checked_sub(self.base.index.0)? {
            0 => Some(self.base),
            offset => self.log.get(offset as usize - 1).copied(),
        }
    }

    /// Whether this entry is in the log, or before it.
    fn has(&self, entry: EntryId) -> bool {
        entry.index < self.base.index || self.at(entry.index) == Some(entry)
    }
}

/// A property that does not hold, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The property's name, for the five of Raft figure 3 as the paper has it.
    pub property: &'static str,
    /// What was seen.
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.property, self.detail)
    }
}

impl std::error::Error for Violation {}

fn ensure(holds: bool, property: &'static str, detail: impl FnOnce() -> String) -> Result<(), Violation> {
    if holds {
        return Ok(());
    }
    Err(Violation {
        property,
        detail: detail(),
    })
}

impl Invariants {
    /// Looks at a server. To be called after every single thing that happens to it.
    ///
    /// # Errors
    /// The first property that does not hold.
    pub fn observe(&mut self, raft: &Raft) -> Result<(), Violation> {
        let (id, status) = (raft.id(), raft.status());
        let last_look = self.servers.remove(&id);
        let is_first = last_look.is_none();
        let mut seen = last_look.unwrap_or_default();
        check_hard_state(id, &seen, status.hard_state)?;
        let leads = status.role == RoleName::Leader;
        let led = seen.is_leader && seen.hard_state.term == status.hard_state.term;
        self.check_snapshot(raft, is_first, leads && led, &mut seen)?;
        let kept = kept_length(raft, &seen);
        if leads && led {
            ensure(kept == seen.log.len(), "Leader Append-Only", || {
                format!(
                    "leader {id} of term {} has kept {kept} of {} entries",
                    raft.term(),
                    seen.log.len()
                )
            })?;
        }
        seen.log.truncate(kept);
        let known = seen.log.back().copied().unwrap_or(seen.base).index;
        self.take_new_entries(raft, &mut seen)?;
        check_memberships(raft, &status, leads && led, known)?;
        check_membership_in_force(raft, &status)?;
        check_dropped(raft)?;
        let committed_before = seen.commit_index;
        self.check_commit_index(&status, id, &mut seen)?;
        if leads {
            let newest = raft.log().term_at(status.commit_index);
            let counted = led && status.commit_index > committed_before;
            ensure(
                !counted || newest == Some(raft.term()),
                "only entries of its own term are counted",
                || {
                    format!(
                        "leader {id} of term {} has committed {}@{newest:?}",
                        raft.term(),
                        status.commit_index
                    )
                },
            )?;
            self.check_leader(&status, id, led, &mut seen)?;
        }
        seen.hard_state = status.hard_state;
        seen.is_leader = leads;
        self.servers.insert(id, seen);
        Ok(())
    }

    /// The server's process has ended. What it had only in memory may be gone, so the next look at it is a first.
    pub fn stopped(&mut self, id: NodeId) {
        self.servers.remove(&id);
    }

    /// What is known to be committed, from index 1 on unless the servers began with snapshots.
    pub fn committed(&self) -> impl ExactSizeIterator<Item = EntryId> + '_ {
        self.committed.values().map(|(id, _)| *id)
    }

    /// What is known to be committed at an index.
    pub fn committed_at(&self, index: Index) -> Option<EntryId> {
        self.committed.get(&index).map(|(id, _)| *id)
    }

    /// The greatest index known to be committed; 0 at first.
    pub fn commit_index(&self) -> Index {
        self.committed
            .last_key_value()
            .map_or(Index(0), |(index, _)| *index)
    }

    /// A snapshot covers what is committed and nothing else (Raft 7): its last entry, and the one after which the log
    /// begins, are the committed ones. A log begins ever later, and a leader's is not replaced.
    fn check_snapshot(
        &mut self,
        raft: &Raft,
        is_first: bool,
        leads_on: bool,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let (id, base, last) = (raft.id(), raft.log().base(), raft.snapshot().last);
        ensure(
            seen.base.index <= base.index && base.index <= last.index,
            "a log begins ever later, and never after its snapshot",
            || format!("server {id}: from {} to {base}, snapshot {last}", seen.base),
        )?;
        for covered in [base, last] {
            if is_first && covered.index > self.commit_index() {
                self.committed.insert(covered.index, (covered, covered.term));
            }
            let known = self.committed.get(&covered.index).map(|(known, _)| *known);
            ensure(
                known == Some(covered) || covered == EntryId::default() || is_first && known.is_none(),
                "a snapshot covers what is committed",
                || format!("server {id} has a snapshot of {covered}, committed is {known:?}"),
            )?;
        }
        ensure(
            !leads_on || seen.at(base.index) == Some(base),
            "Leader Append-Only",
            || format!("the log of leader {id} begins after {base}, which it did not hold"),
        )?;
        ensure(
            raft.snapshot().membership_index <= last.index,
            "a snapshot has the membership of its last entry",
            || {
                let index = raft.snapshot().membership_index;
                format!("server {id} has a snapshot of {last} with the membership of {index}")
            },
        )?;
        let dropped = (base.index.0 - seen.base.index.0) as usize;
        seen.log.drain(..dropped.min(seen.log.len()));
        seen.base = base;
        Ok(())
    }

    /// Log Matching: "if two logs contain an entry with the same index and term, then the logs are identical in
    /// all entries up through the given index". It is enough that the same name always means the same content
    /// and the same entry before.
    fn take_new_entries(&mut self, raft: &Raft, seen: &mut Seen) -> Result<(), Violation> {
        let mut before = seen.log.back().copied().unwrap_or(seen.base);
        while let Some(entry) = raft.log().entry(before.index.next()) {
            let (payload, previous) = self
                .entries
                .entry(entry.id)
                .or_insert_with(|| (entry.payload.clone(), before));
            ensure(
                *payload == entry.payload && *previous == before,
                "Log Matching",
                || {
                    format!(
                        "entry {} of server {} follows {before} and elsewhere {previous}, or differs",
                        entry.id,
                        raft.id()
                    )
                },
            )?;
            seen.log.push_back(entry.id);
            before = entry.id;
        }
        Ok(())
    }

    /// State Machine Safety: "if a server has applied a log entry at a given index to its state machine, no other
    /// server will ever apply a different log entry for the same index".
    fn check_commit_index(
        &mut self,
        status: &Status<'_>,
        id: NodeId,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let commit_index = status.commit_index;
        ensure(
            commit_index >= seen.commit_index && commit_index <= status.last_log.index,
            "commit index grows within the log",
            || format!("server {id}: from {} to {commit_index}", seen.commit_index),
        )?;
        let from = seen.commit_index.max(seen.base.index).next();
        for entry in (from.0..=commit_index.0).filter_map(|index| seen.at(Index(index))) {
            match self.committed.get(&entry.index) {
                Some((committed, _)) => ensure(*committed == entry, "State Machine Safety", || {
                    format!("server {id} has {entry} for the committed {committed}")
                })?,
                None => {
                    self.committed
                        .insert(entry.index, (entry, status.hard_state.term));
                    self.check_later_leaders(entry, status.hard_state.term)?;
                }
            }
        }
        seen.commit_index = commit_index;
        Ok(())
    }

    /// Leader Completeness: "if a log entry is committed in a given term, then that entry will be present in the
    /// logs of the leaders for all higher-numbered terms". Here for leaders that already lead.
    fn check_later_leaders(&self, entry: EntryId, term: Term) -> Result<(), Violation> {
        let later = |seen: &&Seen| seen.is_leader && seen.hard_state.term > term;
        let lacks = |seen: &&Seen| !seen.has(entry);
        let without = self.servers.values().filter(later).find(lacks);
        ensure(without.is_none(), "Leader Completeness", || {
            format!("{entry} is committed in term {term}, and a later leader lacks it")
        })
    }

    /// Election Safety: "at most one leader can be elected in a given term". Leader Completeness, for a leader
    /// that has just been elected. And the two indexes of each follower.
    fn check_leader(
        &mut self,
        status: &Status<'_>,
        id: NodeId,
        led: bool,
        seen: &mut Seen,
    ) -> Result<(), Violation> {
        let term = status.hard_state.term;
        let first = *self.leaders.entry(term).or_insert(id);
        ensure(first == id, "Election Safety", || {
            format!("both {first} and {id} lead term {term}")
        })?;
        if !led {
            seen.match_index.clear();
            seen.recovering.clear();
            let mut later = self.committed.range(seen.base.index..).map(|(_, entry)| entry);
            let lost = later.find(|(entry, committed_in)| *committed_in < term && !seen.has(*entry));
            ensure(lost.is_none(), "Leader Completeness", || {
                format!("leader {id} of term {term} lacks a committed entry: {lost:?}")
            })?;
        }
        check_followers(status, id, seen)
    }
}

/// The two indexes of each follower: they grow, and of one that begins anew nothing is known.
fn check_followers(status: &Status<'_>, id: NodeId, seen: &mut Seen) -> Result<(), Violation> {
    let last_look = std::mem::take(&mut seen.match_index);
    let members = status.membership;
    for follower in &status.followers {
        let (matched, next) = (follower.match_index, follower.next_index);
        let folder = members.incarnations.get(&follower.id).copied();
        let key = (follower.id, members.contains(follower.id).then_some(folder));
        seen.match_index.insert(key, matched);
        let other_folder = |known: &&(NodeId, Option<Option<u64>>)| known.0 == follower.id && **known != key;
        ensure(
            matched == Index(0) || key.1.is_none() || !last_look.keys().any(|known| other_folder(&known)),
            "nothing is known of a new data folder",
            || format!("leader {id}, follower {}: {matched} at once", follower.id),
        )?;
        ensure(
            matched == Index(0) || !follower.is_recovering || seen.recovering.contains(&follower.id),
            "nothing is known of what was lost",
            || {
                format!(
                    "leader {id}, follower {}: it recovers, and {matched} is believed",
                    follower.id
                )
            },
        )?;
        // Of a server that is no member any more it is not known which data folder it has.
        let may_begin_anew = follower.is_recovering || key.1.is_none();
        let before = last_look.get(&key).copied().filter(|_| !may_begin_anew);
        let before = before.unwrap_or_default();
        ensure(
            before <= matched && matched < next && next <= status.last_log.index.next(),
            "match_index grows, and next_index lies between it and the end",
            || {
                format!(
                    "leader {id}, follower {}: {before} to {matched}, next {next}",
                    follower.id
                )
            },
        )?;
    }
    let recovering = status.followers.iter().filter(|follower| follower.is_recovering);
    seen.recovering = recovering.map(|follower| follower.id).collect();
    Ok(())
}

/// Terms never fall, and a vote is given once (Raft 5.1, 5.2).
fn check_hard_state(id: NodeId, seen: &Seen, now: HardState) -> Result<(), Violation> {
    let before = seen.hard_state;
    let keeps_vote = before.term != now.term || before.vote.is_none() || before.vote == now.vote;
    ensure(
        now.term >= before.term && keeps_vote,
        "term grows, and a vote is given once",
        || format!("server {id}: {before:?} became {now:?}"),
    )
}

/// A membership changes by steps (Diss. 4.3), and a leader begins none before the last one is committed (trap 3.1).
/// Looks at the entries after `known`.
fn check_memberships(
    raft: &Raft,
    status: &Status<'_>,
    leads_on: bool,
    known: Index,
) -> Result<(), Violation> {
    let membership_at = |index: Index| match &raft.log().entry(index)?.payload {
        Payload::Membership(membership) => Some((index, &**membership)),
        Payload::Noop | Payload::Command(_) => None,
    };
    let new = (known.next().0..=status.last_log.index.0).filter_map(|i| membership_at(Index(i)));
    for (index, next) in new {
        let first = raft.log().first_index().0;
        let mut older = (first..index.0).rev().filter_map(|i| membership_at(Index(i)));
        let Some((before_index, before)) = older.next() else {
            continue;
        };
        ensure(
            !leads_on || status.has_committed_in_term,
            "a change waits for an entry of the leader's term",
            || format!("leader {} of term {} appended {index}", raft.id(), raft.term()),
        )?;
        ensure(before.may_become(next), "a membership changes by steps", || {
            format!("server {}: {before:?} became {next:?} at {index}", raft.id())
        })?;
        ensure(
            !leads_on || before_index <= status.commit_index,
            "one change of the membership at a time",
            || {
                format!(
                    "leader {} appended {index}, {before_index} is not committed",
                    raft.id()
                )
            },
        )?;
    }
    Ok(())
}

/// The membership in force is that of its entry, as long as the log has it (Diss. 4.1, trap 3.2).
fn check_membership_in_force(raft: &Raft, status: &Status<'_>) -> Result<(), Violation> {
    let index = status.membership_index;
    if index <= raft.log().base().index {
        return Ok(());
    }
    let entry = raft.log().entry(index);
    ensure(
        entry.is_some_and(
            |entry| matches!(&entry.payload, Payload::Membership(of) if **of == *status.membership),
        ),
        "the membership in force is one of the log",
        || {
            format!(
                "server {}: that of {index} is in force, where the log has {entry:?}",
                raft.id()
            )
        },
    )
}

/// What the log drops for a snapshot, the disk has or is about to have: what it was never given can't be written later.
fn check_dropped(raft: &Raft) -> Result<(), Violation> {
    let (base, handed) = (raft.log().base(), raft.durability.log_handed());
    ensure(
        base.index <= handed,
        "only what the disk was given is dropped",
        || {
            format!(
                "the log of server {} begins after {base}, and the disk was given up to {handed}",
                raft.id()
            )
        },
    )
}

/// How many entries of the log are still those seen last time, by name.
fn kept_length(raft: &Raft, seen: &Seen) -> usize {
    let is_kept = |entry: &EntryId| raft.log().term_at(entry.index) == Some(entry.term);
    seen.log.iter().rposition(is_kept).map_or(0, |last| last + 1)
}
