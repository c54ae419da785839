//! Tests of the core.
//!
//! `world` is a cluster in memory: servers, disks that may lose what they were not told to keep, a network that a
//! script or a seed directs, and a clock for each server. `scripts` runs the stories of `testscripts/` in it,
//! `random` runs seeds; `diary`, `traps`, `paper` and `lease` are tests in Rust.

mod diary;
mod lease;
mod paper;
mod random;
mod scripts;
mod show;
mod traps;
mod world;
