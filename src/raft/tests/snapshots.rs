//! Snapshots (Raft 7): what is dropped, sent, stored and installed, and what is lost on the way.
