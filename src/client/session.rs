//! What a connection remembers between its requests.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::kv::Reply;
use crate::node::ReadMode;

use super::registry::Client;
use super::reply::{Response, value};
use super::table::{ConnectionAction, LibraryField};

/// The Redis version that clients are told, by which they choose what to use.
pub(crate) const REDIS_VERSION: &str = "7.4.0";

/// The state of one connection; what others may see of it is in its [`Client`].
#[derive(Debug)]
pub(crate) struct Session {
    client: Arc<Client>,
    /// READ.
    mode: ReadMode,
    /// What `mode` is without READ.
    default_mode: ReadMode,
    /// Whether HELLO 3 was said.
    resp3: bool,
    replies: Replies,
}

/// CLIENT REPLY.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replies {
    /// Every command is answered.
    On,
    /// None is.
    Off,
    /// So many are not, from now on.
    Skip(u8),
}

impl Session {
    /// The state of a new connection.
    pub(crate) fn new(client: Arc<Client>, mode: ReadMode) -> Session {
        Session {
            client,
            mode,
            default_mode: mode,
            resp3: false,
            replies: Replies::On,
        }
    }

    /// The client.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// How this connection reads.
    pub(crate) fn mode(&self) -> ReadMode {
        self.mode
    }

    /// Whether RESP requests are answered in RESP3.
    pub(crate) fn resp3(&self) -> bool {
        self.resp3
    }

    /// Whether the command that was just begun gets no reply. To be asked once for each.
    pub(crate) fn is_silent(&mut self) -> bool {
        match self.replies {
            Replies::On => false,
            Replies::Off => true,
            Replies::Skip(left) => {
                self.replies = if left > 1 {
                    Replies::Skip(left - 1)
                } else {
                    Replies::On
                };
                true
            }
        }
    }

    /// Does what a command says about the connection, and answers it. Of QUIT this is the answer only.
    pub(crate) fn perform(&mut self, action: ConnectionAction) -> Response {
        let reply = match action {
            ConnectionAction::Hello { resp3, name } => return self.hello(resp3, name),
            ConnectionAction::Info => return Response::Lines(vec![self.client.line()]),
            ConnectionAction::Name if self.client.details().name.is_empty() => Reply::Nil,
            ConnectionAction::Name => value(self.client.details().name.clone()),
            ConnectionAction::Id => Reply::Integer(self.client.id as i64),
            ConnectionAction::Time => time(),
            ConnectionAction::Reset => {
                self.reset();
                Reply::Text("RESET".into())
            }
            change => {
                self.change(change);
                Reply::Ok
            }
        };
        Response::Reply(reply)
    }

    /// Does what is answered with OK.
    fn change(&mut self, action: ConnectionAction) {
        match action {
            ConnectionAction::ReadMode(mode) => self.read_as(mode),
            ConnectionAction::DefaultReadMode => self.read_as(self.default_mode),
            ConnectionAction::SetName(name) => self.client.details().name = name,
            ConnectionAction::SetLibrary(LibraryField::Name, value) => {
                self.client.details().library_name = value
            }
            ConnectionAction::SetLibrary(LibraryField::Version, value) => {
                self.client.details().library_version = value;
            }
            ConnectionAction::Replies(true) => self.replies = Replies::On,
            ConnectionAction::Replies(false) => self.replies = Replies::Off,
            // This one and the next.
            ConnectionAction::SkipReply if self.replies != Replies::Off => self.replies = Replies::Skip(2),
            _ => {}
        }
    }

    fn read_as(&mut self, mode: ReadMode) {
        self.mode = mode;
        self.client.details().mode = mode;
    }

    fn reset(&mut self) {
        self.read_as(self.default_mode);
        self.resp3 = false;
        self.replies = Replies::On;
        let mut details = self.client.details();
        details.resp3 = false;
        details.name.clear();
    }

    fn hello(&mut self, resp3: Option<bool>, name: Option<String>) -> Response {
        self.resp3 = resp3.unwrap_or(self.resp3);
        let mut details = self.client.details();
        details.resp3 = self.resp3;
        details.name = name.unwrap_or_else(|| std::mem::take(&mut details.name));
        Response::map([
            ("server", value("redis")),
            ("version", value(REDIS_VERSION)),
            ("proto", Reply::Integer(if self.resp3 { 3 } else { 2 })),
            ("id", Reply::Integer(self.client.id as i64)),
            ("mode", value("standalone")),
            // Every node takes writes.
            ("role", value("master")),
            ("modules", Reply::List(vec![])),
        ])
    }
}

fn time() -> Reply {
    let now: Duration = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Reply::List(vec![
        value(now.as_secs().to_string()),
        value(now.subsec_micros().to_string()),
    ])
}
