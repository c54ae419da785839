//! Tests of the core.
//!
//! `world` is a cluster in memory: servers, disks that may lose what they were not told to keep, a network that a
//! script or a seed directs, and a clock for each server. `scripts` runs the stories of `testscripts/` in it, `disk` is
//! what a crash leaves. `random` runs seeds, and `operator` changes the membership in them; the rest are tests in Rust.

mod diary;
mod disk;
mod lease;
mod members;
mod operator;
mod paper;
mod random;
mod scripts;
mod show;
mod snapshots;
mod traps;
mod world;
