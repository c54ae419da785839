//! raftline: a Raft-replicated key-value store.
//!
//! The modules are layers, lowest first; each uses only those before it. `docs/architecture.md` says what
//! each one must not know, follows a write through them, and gives the order in which to read them.

pub mod base;
pub mod kv;
pub mod raft;
pub mod wire;

pub mod net;
pub mod storage;
pub mod transport;

pub mod node;

pub mod admin;
pub mod client;

pub mod config;

pub mod logging;
pub mod server;
pub mod systemd;

pub mod cmd;
