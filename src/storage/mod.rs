//! storage (being built).

pub mod fs;
