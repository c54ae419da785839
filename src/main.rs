//! The `raftline` binary.

fn main() {}
