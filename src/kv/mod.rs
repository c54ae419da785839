//! The state machine: deterministic; time comes inside log entries.

mod command;

pub use command::{
    Code, Command, Condition, Error, ExpireCondition, Moment, Query, Reply, Scan, SetAnswer, SetExpiry,
};

/// An O(1) copy of all keys at one revision.
#[derive(Clone, Debug)]
pub struct View {}
