//! The `raftline` binary.

use std::process::ExitCode;

// The system's allocator stalls the one thread that writes while another one drops a copy of the map.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[cfg(feature = "mutants")]
compile_error!(
    "the feature `mutants` puts known bugs into the node: it is for examples/mutants.rs and nothing else"
);

fn main() -> ExitCode {
    raftline::cmd::run()
}
