//! The `raftline` binary.

use std::process::ExitCode;

// The system's allocator stalls the one thread that writes while another one drops a copy of the map.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    raftline::cmd::run()
}
