//! Compiles `proto/` to Rust at build time, with a compiler that is itself Rust: no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["proto/peer.proto", "proto/disk.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::create_dir_all(&out)?;
    // Byte fields become `Bytes`: decoding an entry then shares the frame's buffer instead of copying it.
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(out)
        .compile_fds(descriptors)?;
    Ok(())
}
