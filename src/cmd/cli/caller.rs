//! Commands to a cluster: one connection at a time, to the first address that answers, and on to the next one
//! when it is lost. Whether a command is sent again is decided by [`Attempts`].

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::attempts::{Attempts, Next, Outcome, Safety};
use super::commands::{Commands, Plan};
use super::session::Session;
use crate::cmd::link::{Link, Words};
use crate::cmd::resp::Reply;

/// How long one node may take to accept a connection and to greet.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// How long one node may be silent over a command that may be repeated elsewhere: a little longer than
/// `limits.request_timeout`, within which it answers if it can.
const ANSWER_PATIENCE: Duration = Duration::from_secs(5);
/// So many commands of a transaction are sent in one go when it is sent again: no more than a node takes without
/// writing a reply.
const QUEUED_AT_ONCE: usize = 256;

/// A cluster and the connection to one of its nodes.
#[derive(Debug)]
pub(super) struct Caller {
    addresses: Vec<String>,
    /// The address that is in use, or tried next.
    at: usize,
    link: Option<Link>,
    commands: Commands,
    session: Session,
    tokens: Tokens,
    /// How long a command may take with all its attempts.
    limit: Duration,
    /// Whether to tell of attempts in vain.
    talks: bool,
}

/// No node can be reached.
#[derive(Debug)]
pub(super) struct Unreachable {
    /// Each address with what failed there.
    troubles: Vec<(String, String)>,
}

/// How an attempt failed.
enum Failed {
    /// Before the request went out.
    NotConnected(io::Error),
    /// After it.
    Lost(io::Error),
}

/// Words that no other writer uses.
#[derive(Debug)]
struct Tokens {
    prefix: u64,
    count: u64,
}

impl Caller {
    /// Connects to the first of the addresses, of which there is at least one, that takes it.
    ///
    /// # Errors
    /// None does.
    pub(super) async fn connect(
        addresses: Vec<String>,
        limit: Duration,
        talks: bool,
    ) -> Result<Caller, Unreachable> {
        let mut caller = Caller {
            addresses,
            at: 0,
            link: None,
            commands: Commands::read(&Reply::Nil),
            session: Session::default(),
            tokens: Tokens::new(),
            limit,
            talks,
        };
        let mut troubles = Vec::new();
        for at in 0..caller.addresses.len() {
            caller.at = at;
            match caller.dial(true).await {
                Ok(()) => return Ok(caller),
                Err(error) => troubles.push((caller.address().to_string(), error.to_string())),
            }
        }
        Err(Unreachable { troubles })
    }

    /// The address in use.
    pub(super) fn address(&self) -> &str {
        self.addresses.get(self.at).map_or("", String::as_str)
    }

    /// Whether there is a connection.
    pub(super) fn is_connected(&self) -> bool {
        self.link.is_some()
    }

    /// Whether a transaction is being put together.
    pub(super) fn in_transaction(&self) -> bool {
        self.session.in_transaction()
    }

    /// One command and its answer, after as many attempts as are safe and fit into the time.
    ///
    /// # Errors
    /// No node can be reached, and nothing was done.
    pub(super) async fn call(&mut self, words: &[Bytes]) -> Result<Reply, Unreachable> {
        if self.link.as_ref().is_some_and(Link::is_gone) {
            self.abandon();
        }
        if means_one_node(words) && self.addresses.len() > 1 {
            let text =
                "ERR RAFT REBUILD is for one node: give --addr with its address alone; nothing was done";
            return Ok(Reply::error(text));
        }
        if let Some(reply) = self.session.refuse(words) {
            return Ok(reply);
        }
        let mut plan = self.commands.plan(words, &self.session, || self.tokens.next());
        if !plan.before.is_empty() {
            self.session.executes();
        }
        let start = Instant::now();
        let mut attempts = Attempts::new(plan.safety, self.addresses.len(), true, self.limit);
        let mut troubles = Vec::new();
        // Whether an attempt before the last one may have had its effect.
        let mut perhaps = false;
        loop {
            let result = self
                .attempt(
                    &plan,
                    !troubles.is_empty(),
                    self.limit.saturating_sub(start.elapsed()),
                )
                .await;
            if result.as_ref().is_ok_and(|reply| plan.is_no_write(reply)) {
                plan = Plan::of_no_write(words);
                continue;
            }
            let (outcome, trouble) = match &result {
                Ok(reply) => match reply.code() {
                    None => break self.done(words, reply.clone()),
                    Some(code) => (Outcome::Error(code), String::from_utf8_lossy(code).into_owned()),
                },
                Err(Failed::NotConnected(error)) => (Outcome::NotConnected, error.to_string()),
                Err(Failed::Lost(error)) => (Outcome::Lost, error.to_string()),
            };
            troubles.push((self.address().to_string(), trouble));
            if let Next::Elsewhere(pause) = attempts.next(outcome, start.elapsed()) {
                perhaps |= plan.writes && matches!(outcome, Outcome::Lost | Outcome::Error(b"UNKNOWNRESULT"));
                self.move_on(&troubles);
                tokio::time::sleep(pause).await;
                continue;
            }
            break match result {
                Ok(reply) if perhaps => self.done(words, unknown(&troubles, &reply)),
                Ok(reply) => self.done(words, reply),
                Err(Failed::Lost(error)) => Ok(self.lost(&plan, words, &error)),
                Err(Failed::NotConnected(_)) if perhaps => Ok(unknown(&troubles, &Reply::Nil)),
                Err(Failed::NotConnected(_)) => {
                    let recent = troubles.len().saturating_sub(self.addresses.len());
                    Err(Unreachable {
                        troubles: troubles.split_off(recent),
                    })
                }
            };
        }
    }

    /// The next thing that comes unasked.
    ///
    /// # Errors
    /// The connection is lost.
    pub(super) async fn receive(&mut self, patience: Duration) -> io::Result<Reply> {
        let Some(link) = &mut self.link else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        let received = link.receive(Some(patience)).await;
        if received.is_err() {
            self.abandon();
        }
        received
    }

    /// Lets go of the connection, with all that was bound to it.
    pub(super) fn abandon(&mut self) {
        self.link = None;
        if let Some(text) = self.session.lost() {
            note(format_args!("{text}"));
        }
    }

    /// Tells the user what goes on, where one sits at the other end.
    pub(super) fn mention(&self, text: fmt::Arguments<'_>) {
        if self.talks {
            note(text);
        }
    }

    /// Tells that a feed goes on elsewhere, and what that costs.
    pub(super) fn lost_feed(&mut self, error: &io::Error, loss: &str) {
        note(format_args!(
            "{}: {error}; the feed goes on{loss}",
            self.address()
        ));
        self.at = (self.at + 1) % self.addresses.len().max(1);
    }

    fn done(&mut self, words: &[Bytes], reply: Reply) -> Result<Reply, Unreachable> {
        self.session.answered(words, &reply);
        Ok(reply)
    }

    async fn attempt(&mut self, plan: &Plan, again: bool, left: Duration) -> Result<Reply, Failed> {
        if self.link.is_none() {
            self.dial(false).await.map_err(Failed::NotConnected)?;
        }
        let Some(link) = &mut self.link else {
            return Err(Failed::NotConnected(io::ErrorKind::NotConnected.into()));
        };
        let patience = match plan.safety {
            Safety::Repeatable => Some(left.min(ANSWER_PATIENCE)),
            _ if plan.is_slow => None,
            _ => Some(left),
        };
        let before = if again { &plan.before[..] } else { &[] };
        talk(link, before, &plan.request, patience)
            .await
            .map_err(|error| {
                self.link = None;
                Failed::Lost(error)
            })
    }

    /// Connects to the address in use, and asks for its table of commands.
    async fn dial(&mut self, with_table: bool) -> io::Result<()> {
        let mut link = Link::connect(self.address(), CONNECT_PATIENCE).await?;
        let word = Bytes::from_static;
        let mut requests = vec![vec![word(b"HELLO"), word(b"3")]];
        requests.extend(self.session.greeting().cloned());
        if with_table {
            requests.push(vec![word(b"COMMAND")]);
        }
        link.send(&requests).await?;
        let mut last = Reply::Nil;
        for _ in &requests {
            last = link.receive(Some(CONNECT_PATIENCE)).await?;
            if let Reply::Error(text) = &last {
                return Err(io::Error::other(String::from_utf8_lossy(text).into_owned()));
            }
        }
        if with_table {
            self.commands = Commands::read(&last);
        }
        self.link = Some(link);
        Ok(())
    }

    /// Turns to the next address. With one alone a connection that still stands is kept.
    fn move_on(&mut self, troubles: &[(String, String)]) {
        if let Some((address, trouble)) = troubles.last() {
            self.mention(format_args!("{address}: {trouble}; trying again"));
        }
        if self.addresses.len() > 1 {
            self.abandon();
            self.at = (self.at + 1) % self.addresses.len();
        }
    }

    /// The connection was lost, and the command is not sent again.
    fn lost(&mut self, plan: &Plan, words: &[Bytes], error: &io::Error) -> Reply {
        let address = self.address();
        let was_queued = self.session.in_transaction() && super::session::name(words) != b"EXEC";
        let reply = if was_queued {
            format!("ERR lost the connection to {address} ({error}); nothing of the transaction was done")
        } else if plan.writes {
            format!("UNKNOWNRESULT lost the connection to {address} ({error}); it may have been done")
        } else {
            format!("CLUSTERDOWN lost the connection to {address} ({error}); there was nothing to write")
        };
        self.abandon();
        Reply::error(reply)
    }
}

/// Sends a request and receives its reply, after those that come before it. What one of those is refused for spoils the
/// transaction, and EXEC says so.
async fn talk(
    link: &mut Link,
    before: &[Words],
    request: &Words,
    patience: Option<Duration>,
) -> io::Result<Reply> {
    for some in before.chunks(QUEUED_AT_ONCE) {
        link.send(some).await?;
        for _ in some {
            link.receive(patience).await?;
        }
    }
    link.send(std::slice::from_ref(request)).await?;
    link.receive(patience).await
}

/// Whether a command would harm another node than the one that is meant: it must not go to whichever answers.
fn means_one_node(words: &[Bytes]) -> bool {
    let is = |at: usize, name: &[u8]| words.get(at).is_some_and(|word| word.eq_ignore_ascii_case(name));
    is(0, b"RAFT") && is(1, b"REBUILD")
}

/// The answer where the last attempt did nothing but one before it may have.
fn unknown(troubles: &[(String, String)], last: &Reply) -> Reply {
    if last.code() == Some(b"UNKNOWNRESULT") {
        return last.clone();
    }
    let shown = troubles
        .last()
        .map(|(address, trouble)| format!("{address}: {trouble}"));
    Reply::error(format!(
        "UNKNOWNRESULT it may have been done by one of {} attempts; the last one: {}",
        troubles.len(),
        shown.unwrap_or_default()
    ))
}

/// Says something beside the replies.
fn note(text: fmt::Arguments<'_>) {
    use io::Write;
    writeln!(io::stderr(), "({text})").ok();
}

impl Tokens {
    fn new() -> Tokens {
        Tokens {
            // Its keys come from the system's randomness.
            prefix: RandomState::new().build_hasher().finish(),
            count: 0,
        }
    }

    fn next(&mut self) -> Bytes {
        self.count += 1;
        Bytes::from(format!("{:016x}-{}", self.prefix, self.count))
    }
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("no node can be reached; nothing was done")?;
        for (address, trouble) in &self.troubles {
            write!(f, "\n  {address}: {trouble}")?;
        }
        f.write_str(
            "\nIs a node running there? `raftline dev` starts three on this machine; --addr HOST:PORT,… or the \
             variable RAFTLINE_ADDR says where yours listen.",
        )
    }
}

impl std::error::Error for Unreachable {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ() {
        let (mut a, mut b) = (Tokens::new(), Tokens::new());
        let all = [a.next(), a.next(), b.next(), b.next()];
        let distinct: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), 4);
    }

    #[test]
    fn what_was_perhaps_done_is_said_so_whatever_the_last_attempt_answers() {
        let troubles = [("a:1".to_string(), "BUSY".to_string())];
        let reply = unknown(&troubles, &Reply::error("BUSY later"));
        assert_eq!(reply.code(), Some(b"UNKNOWNRESULT".as_slice()));
        let own = Reply::error("UNKNOWNRESULT it was proposed");
        assert_eq!(unknown(&troubles, &own), own);
    }
}
