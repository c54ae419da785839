//! What is asked of the process rather than of the cluster: its clients, its settings, its logs of slow commands, its
//! snapshots. Each is answered here and now.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use super::registry::{Client, Filter};
use super::reply::Response;
use super::table::err;
use super::{Service, settings};
use crate::kv::{Error, Reply};
use crate::node::{Operation, Outcome};

/// One thing that is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Administration {
    /// CLIENT LIST.
    ListClients(Filter),
    /// CLIENT KILL, in its new form: answers how many.
    KillClients {
        /// Whom.
        filter: Filter,
        /// SKIPME: not the one who asks.
        skip_me: bool,
    },
    /// CLIENT KILL address: answers OK, or an error if there is no such client.
    KillClient(String),
    /// CONFIG GET, with patterns in small letters.
    ConfigGet(Vec<Vec<u8>>),
    /// CONFIG SET, with names in small letters.
    ConfigSet(Vec<(String, String)>),
    /// CONFIG RESETSTAT.
    ResetStat,
    /// SLOWLOG GET with the most that are wanted.
    SlowlogGet(usize),
    /// SLOWLOG LEN.
    SlowlogLen,
    /// SLOWLOG RESET.
    SlowlogReset,
    /// LATENCY HISTOGRAM of these commands, in small letters; of all that were sent if there is none.
    LatencyHistogram(Vec<String>),
    /// BGSAVE.
    SaveInBackground,
}

/// What BGSAVE began and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Snapshots {
    in_progress: AtomicBool,
    /// 0: none has ended yet; 1: the last one was written; 2: it was not.
    last: AtomicU8,
}

impl Snapshots {
    /// Whether one is being written.
    pub(crate) fn in_progress(&self) -> bool {
        self.in_progress.load(Ordering::Relaxed)
    }

    /// Whether the last one was written; none counts as well.
    pub(crate) fn last_is_well(&self) -> bool {
        self.last.load(Ordering::Relaxed) < 2
    }

    fn begin(&self) -> bool {
        !self.in_progress.swap(true, Ordering::Relaxed)
    }

    fn end(&self, is_well: bool) {
        self.last.store(if is_well { 1 } else { 2 }, Ordering::Relaxed);
        self.in_progress.store(false, Ordering::Relaxed);
    }
}

impl Service {
    /// Does what this client asks, and answers it.
    pub(crate) fn administer(self: &Arc<Service>, asked: Administration, client: &Client) -> Response {
        self.try_to_administer(asked, client)
            .unwrap_or_else(Response::from)
    }

    fn try_to_administer(
        self: &Arc<Service>,
        asked: Administration,
        client: &Client,
    ) -> Result<Response, Error> {
        Ok(match asked {
            Administration::ListClients(filter) => {
                let clients = self.clients.matching(&filter);
                Response::Lines(clients.iter().map(|client| client.line()).collect())
            }
            Administration::KillClients { mut filter, skip_me } => {
                filter.skip = skip_me.then_some(client.id);
                Reply::Integer(self.kill(&filter, client) as i64).into()
            }
            Administration::KillClient(address) => {
                let address = Some(address);
                let filter = Filter {
                    address,
                    ..Filter::default()
                };
                if self.kill(&filter, client) == 0 {
                    return Err(err("No such client"));
                }
                Reply::Ok.into()
            }
            Administration::ConfigGet(patterns) => settings::matching(self, &patterns),
            Administration::ConfigSet(pairs) => settings::set(self, &pairs)?.into(),
            Administration::ResetStat => {
                self.commands.reset();
                self.counters.reset();
                Reply::Ok.into()
            }
            Administration::SlowlogGet(count) => self.slowlog().newest(count),
            Administration::SlowlogLen => Reply::Integer(self.slowlog().len() as i64).into(),
            Administration::SlowlogReset => {
                self.slowlog().clear();
                Reply::Ok.into()
            }
            Administration::LatencyHistogram(names) => self.histograms(&names),
            Administration::SaveInBackground => self.save_in_background()?,
        })
    }

    /// How many were meant.
    fn kill(&self, filter: &Filter, by: &Client) -> usize {
        let clients = self.clients.matching(filter);
        clients.iter().for_each(|client| client.kill(by.id));
        clients.len()
    }

    fn histograms(&self, names: &[String]) -> Response {
        let is_asked = |name: &str| names.is_empty() || names.iter().any(|asked| asked == name);
        let histogram = |stat: &super::stats::Stat| {
            let buckets = stat.histogram().into_iter();
            let buckets = buckets.map(|(micros, count)| {
                let count = i64::try_from(count).unwrap_or(i64::MAX);
                (micros.to_string(), Reply::Integer(count).into())
            });
            Response::map([
                ("calls", Reply::Integer(stat.calls() as i64).into()),
                ("histogram_usec", Response::Map(buckets.collect())),
            ])
        };
        let seen = self.commands.seen();
        let asked = seen.filter(|(name, stat)| stat.calls() > 0 && is_asked(name));
        Response::Map(asked.map(|(name, stat)| (name, histogram(stat))).collect())
    }

    fn save_in_background(self: &Arc<Service>) -> Result<Response, Error> {
        if !self.snapshots.begin() {
            return Err(err("Background save already in progress"));
        }
        let service = Arc::clone(self);
        tokio::spawn(async move {
            let outcome = service.node.ask(Operation::Snapshot).await;
            let is_well = matches!(outcome, Some(Outcome::Reply(Reply::Ok)));
            service.snapshots.end(is_well);
        });
        Ok(Reply::Text("Background saving started".into()).into())
    }
}
