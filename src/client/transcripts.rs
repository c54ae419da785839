//! The conversations of `tests/transcripts`, played with the fake node: the same files as with a real one.

use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;

use super::fake::Fake;
use super::{Options, serve};

#[path = "../../tests/transcripts/runner.rs"]
mod runner;

#[tokio::test(flavor = "current_thread")]
async fn transcripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "txt") {
            continue;
        }
        let fake = Fake::start(Options::default(), Duration::ZERO);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, fake.service.clone(), fake.shutdown.clone()));
        let play = move || {
            let name = path.file_name().unwrap().to_string_lossy();
            let text = fs::read_to_string(&path).unwrap();
            runner::play(&format!("tests/transcripts/{name}"), &text, || {
                TcpStream::connect(address).unwrap()
            });
        };
        // The player waits for bytes like any other program; it needs a thread of its own.
        tokio::task::spawn_blocking(play).await.unwrap();
        fake.shutdown.cancel();
    }
}
