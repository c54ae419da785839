//! The admin HTTP: health, readiness, status, metrics, and a live page. It asks the node what any client
//! could ask and changes nothing.
//!
//! What is missing: TLS and passwords; keep it on the loopback or a trusted network.

mod http;
mod metrics;
mod ready;

pub use http::{Options, serve};
pub use metrics::Metrics;
pub use ready::{NotReady, probe};
