//! The clients that are connected: what CLIENT LIST shows of each, and how CLIENT KILL reaches it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use tokio_util::sync::CancellationToken;

use super::lock;
use crate::node::ReadMode;

/// All connected clients by their id. Bounded by `limits.max_connections`.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    clients: Mutex<Clients>,
}

#[derive(Debug, Default)]
struct Clients {
    last_id: u64,
    by_id: BTreeMap<u64, Arc<Client>>,
}

/// One client, as others may see it.
#[derive(Debug)]
pub(crate) struct Client {
    /// CLIENT ID: counts up from 1 on each node.
    pub(crate) id: u64,
    /// The client's address.
    pub(crate) address: String,
    /// The address that it connected to; empty where that is not known.
    pub(crate) local_address: String,
    since: Instant,
    /// Cancelled by another client's CLIENT KILL.
    pub(crate) killed: CancellationToken,
    leaving: AtomicBool,
    details: Mutex<Details>,
}

/// What changes while a client is connected.
#[derive(Debug)]
pub(crate) struct Details {
    pub(crate) name: String,
    pub(crate) library_name: String,
    pub(crate) library_version: String,
    pub(crate) resp3: bool,
    pub(crate) mode: ReadMode,
    /// The name of its last command.
    pub(crate) command: &'static str,
    /// When something last came from it.
    pub(crate) active: Instant,
    /// How many commands it has sent.
    pub(crate) commands: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    /// Bytes that arrived and make no whole request yet.
    pub(crate) input_bytes: usize,
}

/// Which clients CLIENT LIST and CLIENT KILL mean: those for which everything holds that is given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// One of these.
    pub(crate) ids: Option<Vec<u64>>,
    pub(crate) address: Option<String>,
    pub(crate) local_address: Option<String>,
    /// Connected for at least so many seconds.
    pub(crate) age_min_s: Option<u64>,
    /// None at all: a type or user that no client here has.
    pub(crate) nobody: bool,
    /// Not this one.
    pub(crate) skip: Option<u64>,
}

impl Registry {
    /// Takes in a client; it is listed until the guard is dropped.
    pub(crate) fn register(
        self: &Arc<Self>,
        address: String,
        local_address: String,
        mode: ReadMode,
    ) -> Registered {
        let mut clients = lock(&self.clients);
        clients.last_id += 1;
        let now = Instant::now();
        let client = Arc::new(Client {
            id: clients.last_id,
            address,
            local_address,
            since: now,
            killed: CancellationToken::new(),
            leaving: AtomicBool::new(false),
            details: Mutex::new(Details {
                name: String::new(),
                library_name: String::new(),
                library_version: String::new(),
                resp3: false,
                mode,
                command: "",
                active: now,
                commands: 0,
                bytes_in: 0,
                bytes_out: 0,
                input_bytes: 0,
            }),
        });
        clients.by_id.insert(client.id, Arc::clone(&client));
        Registered {
            client,
            registry: Arc::clone(self),
        }
    }

    /// The clients that are meant, by id.
    pub(crate) fn matching(&self, filter: &Filter) -> Vec<Arc<Client>> {
        let clients = lock(&self.clients);
        let matching = clients.by_id.values().filter(|client| filter.matches(client));
        matching.cloned().collect()
    }
}

impl Filter {
    fn matches(&self, client: &Client) -> bool {
        let is =
            |wanted: &Option<String>, address: &str| wanted.as_deref().is_none_or(|wanted| wanted == address);
        !self.nobody
            && self.skip != Some(client.id)
            && self.ids.as_ref().is_none_or(|ids| ids.contains(&client.id))
            && is(&self.address, &client.address)
            && is(&self.local_address, &client.local_address)
            && self
                .age_min_s
                .is_none_or(|least| client.since.elapsed().as_secs() >= least)
    }
}

impl Client {
    /// Bytes came from it.
    pub(crate) fn on_read(&self, bytes: usize) {
        let mut details = self.details();
        details.bytes_in += bytes as u64;
        details.active = Instant::now();
    }

    /// Bytes went to it.
    pub(crate) fn on_written(&self, bytes: usize) {
        self.details().bytes_out += bytes as u64;
    }

    /// Whether it has killed itself: it is to get its answers first.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// Ends the connection, on behalf of the client `by`.
    pub(crate) fn kill(&self, by: u64) {
        if self.id == by {
            self.leaving.store(true, Ordering::Relaxed);
        } else {
            self.killed.cancel();
        }
    }

    /// What changes.
    pub(crate) fn details(&self) -> MutexGuard<'_, Details> {
        lock(&self.details)
    }

    /// The client's line of CLIENT LIST. Redis's fields that mean nothing here are left out.
    pub(crate) fn line(&self) -> String {
        let details = self.details();
        let mut line = format!(
            "id={} addr={} laddr={}",
            self.id, self.address, self.local_address
        );
        // Writing to a string cannot fail.
        let _ = write!(
            line,
            " name={} age={} idle={} flags=N db=0 qbuf={} cmd={} user=default lib-name={} lib-ver={} resp={}",
            details.name,
            self.since.elapsed().as_secs(),
            details.active.elapsed().as_secs(),
            details.input_bytes,
            shown_command(details.command),
            details.library_name,
            details.library_version,
            if details.resp3 { 3 } else { 2 },
        );
        let _ = write!(
            line,
            " read={} tot-net-in={} tot-net-out={} tot-cmds={}",
            match details.mode {
                ReadMode::Quorum => "quorum",
                ReadMode::Lease => "lease",
                ReadMode::Stale => "stale",
            },
            details.bytes_in,
            details.bytes_out,
            details.commands,
        );
        line
    }
}

/// As Redis shows it; before the first one there is none.
fn shown_command(name: &str) -> String {
    if name.is_empty() {
        "NULL".into()
    } else {
        name.to_ascii_lowercase()
    }
}

/// A client's place in the registry.
#[derive(Debug)]
pub(crate) struct Registered {
    client: Arc<Client>,
    registry: Arc<Registry>,
}

impl Registered {
    /// The client.
    pub(crate) fn client(&self) -> &Arc<Client> {
        &self.client
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        lock(&self.registry.clients).by_id.remove(&self.client.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_mean_those_for_which_everything_holds() {
        let registry = Arc::new(Registry::default());
        let connect = |address: &str| registry.register(address.into(), "s:1".into(), ReadMode::Quorum);
        let (_first, second, _third) = (connect("a:1"), connect("a:2"), connect("a:3"));
        let ids = |filter: &Filter| -> Vec<u64> {
            let clients = registry.matching(filter);
            clients.iter().map(|client| client.id).collect()
        };
        let all = Filter::default();
        assert_eq!(ids(&all), [1, 2, 3]);
        let skip = Some(3);
        assert_eq!(ids(&Filter { skip, ..all.clone() }), [1, 2]);
        let address = Some("a:2".to_string());
        assert_eq!(
            ids(&Filter {
                address: address.clone(),
                ..all.clone()
            }),
            [2]
        );
        let other = Some(vec![1, 3]);
        assert!(
            ids(&Filter {
                ids: other,
                address,
                ..all.clone()
            })
            .is_empty()
        );
        let age_min_s = Some(1000);
        assert!(
            ids(&Filter {
                age_min_s,
                ..all.clone()
            })
            .is_empty()
        );
        drop(second);
        assert_eq!(ids(&all), [1, 3]);
    }
}
