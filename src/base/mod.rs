//! Small and pure: what every layer may use and what knows of no other layer.

pub mod address;
pub mod escape;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
pub mod glob;
pub mod mutant;
pub mod rng;
pub mod units;
