//! The one place that knows the generated protobuf types; above it there are only our own.

pub mod disk;
pub mod peer;

#[allow(missing_docs, clippy::all)]
mod proto {
    pub mod disk {
        include!(concat!(env!("OUT_DIR"), "/raftline.disk.rs"));
    }
    pub mod peer {
        include!(concat!(env!("OUT_DIR"), "/raftline.peer.rs"));
    }
}
