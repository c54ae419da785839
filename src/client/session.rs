//! What a connection remembers between its requests.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::kv::Reply;
use crate::node::ReadMode;

use super::reply::Response;
use super::table::{ConnectionAction, LibraryField};

/// The Redis version that clients are told, by which they choose what to use.
pub(crate) const REDIS_VERSION: &str = "7.4.0";

/// The state of one connection.
#[derive(Debug)]
pub(crate) struct Session {
    /// CLIENT ID: counts up from 1 on each node.
    id: u64,
    /// The client's address, for people.
    address: String,
    /// READ.
    mode: ReadMode,
    /// What `mode` is without READ.
    default_mode: ReadMode,
    /// Whether HELLO 3 was said.
    resp3: bool,
    name: String,
    library_name: String,
    library_version: String,
    since: SystemTime,
}

impl Session {
    /// The state of a new connection.
    pub(crate) fn new(id: u64, address: String, mode: ReadMode) -> Session {
        Session {
            id,
            address,
            mode,
            default_mode: mode,
            resp3: false,
            name: String::new(),
            library_name: String::new(),
            library_version: String::new(),
            since: SystemTime::now(),
        }
    }

    /// How this connection reads.
    pub(crate) fn mode(&self) -> ReadMode {
        self.mode
    }

    /// Whether RESP requests are answered in RESP3.
    pub(crate) fn resp3(&self) -> bool {
        self.resp3
    }

    /// Does what a command says about the connection, and answers it. Of QUIT this is the answer only.
    pub(crate) fn perform(&mut self, action: ConnectionAction) -> Response {
        let reply = match action {
            ConnectionAction::Hello { resp3, name } => return self.hello(resp3, name),
            ConnectionAction::ReadMode(mode) => {
                self.mode = mode;
                Reply::Ok
            }
            ConnectionAction::SetName(name) => {
                self.name = name;
                Reply::Ok
            }
            ConnectionAction::SetLibrary(field, value) => {
                match field {
                    LibraryField::Name => self.library_name = value,
                    LibraryField::Version => self.library_version = value,
                }
                Reply::Ok
            }
            ConnectionAction::Name if self.name.is_empty() => Reply::Nil,
            ConnectionAction::Name => value(self.name.clone()),
            ConnectionAction::Id => Reply::Integer(self.id as i64),
            ConnectionAction::Info => value(self.info()),
            ConnectionAction::Time => time(),
            ConnectionAction::Quit => Reply::Ok,
            ConnectionAction::Reset => {
                self.mode = self.default_mode;
                self.resp3 = false;
                self.name.clear();
                Reply::Text("RESET".into())
            }
        };
        Response::Reply(reply)
    }

    fn hello(&mut self, resp3: Option<bool>, name: Option<String>) -> Response {
        self.resp3 = resp3.unwrap_or(self.resp3);
        self.name = name.unwrap_or_else(|| std::mem::take(&mut self.name));
        let fields = [
            ("server", value("redis".into())),
            ("version", value(REDIS_VERSION.into())),
            ("proto", Reply::Integer(if self.resp3 { 3 } else { 2 })),
            ("id", Reply::Integer(self.id as i64)),
            ("mode", value("standalone".into())),
            // Every node takes writes.
            ("role", value("master".into())),
            ("modules", Reply::List(vec![])),
        ];
        Response::Map(fields.map(|(name, reply)| (name.into(), reply)).into())
    }

    fn info(&self) -> String {
        format!(
            "id={} addr={} name={} age={} db=0 resp={} lib-name={} lib-ver={} read={}\n",
            self.id,
            self.address,
            self.name,
            self.since.elapsed().unwrap_or_default().as_secs(),
            if self.resp3 { 3 } else { 2 },
            self.library_name,
            self.library_version,
            match self.mode {
                ReadMode::Quorum => "quorum",
                ReadMode::Lease => "lease",
                ReadMode::Stale => "stale",
            },
        )
    }
}

fn time() -> Reply {
    let now: Duration = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Reply::List(vec![
        value(now.as_secs().to_string()),
        value(now.subsec_micros().to_string()),
    ])
}

fn value(text: String) -> Reply {
    Reply::Value(Bytes::from(text))
}
