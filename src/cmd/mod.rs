//! cmd (being built).
