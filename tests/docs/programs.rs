//! What people type: netcat, telnet, redis-cli, bash, and raftline itself.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use tempfile::TempDir;

use crate::page::Block;
use crate::runner;
use crate::waiting::wait_for;

/// How long the commands of one block may take.
const BLOCK_MAX: Duration = Duration::from_secs(60);

/// Between what two commands print.
const MARK: &str = "@@ next @@";

/// Programs that may not be installed.
const STRANGERS: [&str; 3] = ["nc", "telnet", "redis-cli"];

/// Where the blocks of one page are played.
pub struct Shell {
    node: SocketAddr,
    folder: TempDir,
}

/// The programs of a conversation, which end with this value.
struct Programs(Mutex<Vec<Child>>);

impl Shell {
    /// Talks to this node.
    pub fn new(node: SocketAddr) -> Shell {
        let folder = TempDir::with_prefix("raftline-docs-").unwrap();
        let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/raftline.service");
        fs::copy(unit, folder.path().join("raftline.service")).unwrap();
        Shell { node, folder }
    }

    /// Writes a file.
    pub fn keep(&self, block: &Block) {
        let name = block.lines.get(1).and_then(|line| line.strip_prefix("# "));
        let name = name.and_then(|name| name.split(':').next());
        let name = name.unwrap_or_else(|| panic!("{}: its second line has no name", block.place()));
        fs::write(self.folder.path().join(name), self.here(&block.lines.join("\n"))).unwrap();
    }

    /// Plays a block of `console`.
    pub fn play(&self, block: &Block) {
        let commands: Vec<&str> = block
            .lines
            .iter()
            .filter_map(|line| line.strip_prefix("$ "))
            .collect();
        let program = commands[0].split(' ').next().unwrap();
        let is_dialog = commands.len() == 1 && ["nc", "telnet"].contains(&program);
        let missing = self.missing(&commands);
        for program in &missing {
            let text = format!("{}: {program} is not installed", block.place());
            assert!(env::var_os("RAFTLINE_REQUIRE_CLIENTS").is_none(), "{text}");
            eprintln!("{text}: not played through it");
        }
        match is_dialog {
            true if missing.is_empty() => self.talk(commands[0], block),
            // The examples that follow build on it.
            true if program == "nc" => {
                runner::play(&block.page, &block.dialog(), || {
                    TcpStream::connect(self.node).unwrap()
                });
            }
            false if missing.is_empty() => self.type_in(block),
            _ => {}
        }
    }

    /// Which programs these commands need, they or the files that they run, and are not there.
    fn missing(&self, commands: &[&str]) -> Vec<&'static str> {
        let mut text = commands.join("\n");
        for file in fs::read_dir(self.folder.path()).unwrap() {
            let file = file.unwrap();
            if text.contains(&*file.file_name().to_string_lossy()) {
                text.push_str(&fs::read_to_string(file.path()).unwrap());
            }
        }
        let words: Vec<&str> = text
            .split(|c: char| c.is_whitespace() || "()|;&".contains(c))
            .collect();
        let is_needed = |program: &&str| words.contains(program);
        let is_there = |program: &&str| {
            let mut folders = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect::<Vec<_>>();
            folders.iter_mut().any(|folder| folder.join(program).is_file())
        };
        STRANGERS
            .into_iter()
            .filter(is_needed)
            .filter(|program| !is_there(program))
            .collect()
    }

    /// A text of the page with this node's address in it.
    fn here(&self, text: &str) -> String {
        let port = self.node.port().to_string();
        let text = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
            .iter()
            .fold(text.to_owned(), |text, host| text.replace(host, "127.0.0.1"));
        text.replace("7238", &port)
    }

    /// A conversation through a program.
    fn talk(&self, command: &str, block: &Block) {
        let programs = Programs(Mutex::new(Vec::new()));
        runner::play(&block.page, &block.dialog(), || {
            programs.start(&self.here(command))
        });
    }

    /// Commands of bash, all in one.
    fn type_in(&self, block: &Block) {
        let mut script = String::new();
        // A command and what it prints.
        let mut expected: Vec<(&str, Vec<&str>)> = Vec::new();
        let mut goes_on = false;
        for line in &block.lines {
            match line.strip_prefix("$ ") {
                _ if goes_on => script.push_str(line),
                Some(command) => {
                    script.push_str(&format!("printf '\\n{MARK}\\n'\n"));
                    script.push_str(command);
                    expected.push((line, Vec::new()));
                }
                None => expected.last_mut().unwrap().1.push(line),
            }
            if goes_on || line.starts_with("$ ") {
                script.push('\n');
                goes_on = line.ends_with('\\');
            }
        }
        let printed = self.bash(&self.here(&script), &block.place());
        let marks = format!("\n{MARK}\n");
        let printed = printed.split(&marks).skip(1);
        for ((command, expected), printed) in expected.iter().zip(printed) {
            let printed: Vec<&str> = printed.lines().map(str::trim_end).collect();
            let expected: Vec<String> = expected.iter().map(|line| self.here(line)).collect();
            let is_same = expected.len() == printed.len()
                && expected
                    .iter()
                    .zip(&printed)
                    .all(|(expected, printed)| matches(expected, printed));
            let place = block.place();
            assert!(
                is_same,
                "{place}: {command}\nexpected\n{expected:#?}\nbut printed was\n{printed:#?}"
            );
        }
    }

    /// What this script prints, errors included.
    fn bash(&self, script: &str, place: &str) -> String {
        let output = self.folder.path().join("output");
        let file = fs::File::create(&output).unwrap();
        let raftline = PathBuf::from(env!("CARGO_BIN_EXE_raftline"));
        let mut folders = vec![raftline.parent().unwrap().to_owned()];
        folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        let child = Command::new("bash")
            .args(["-c", script])
            .current_dir(self.folder.path())
            .env("PATH", env::join_paths(folders).unwrap())
            .env("RAFTLINE_ADDR", self.node.to_string())
            // It prints what a person sees.
            .env("FAKETTY", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .expect("bash is there");
        let programs = Programs(Mutex::new(vec![child]));
        wait_for(&format!("the end of {place}"), BLOCK_MAX, || {
            programs.0.lock().unwrap()[0].try_wait().unwrap()
        });
        fs::read_to_string(output).unwrap()
    }
}

impl Programs {
    /// Starts a program and gives the socket that leads to its input and comes from its output. Its lines end in
    /// CR LF there, whatever the program makes of them.
    fn start(&self, command: &str) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (theirs, _) = listener.accept().unwrap();
        let mut words = command.split(' ');
        let mut child = Command::new(words.next().unwrap())
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut typed, mut shown) = (theirs.try_clone().unwrap(), theirs);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Some(len) = typed.read(&mut bytes).ok().filter(|len| *len > 0) {
                if input
                    .write_all(&bytes[..len])
                    .and_then(|()| input.flush())
                    .is_err()
                {
                    break;
                }
            }
        });
        thread::spawn(move || {
            let mut byte = [0];
            while output.read(&mut byte).ok() == Some(1) {
                let shows = match &byte {
                    b"\r" => Ok(()),
                    b"\n" => shown.write_all(b"\r\n"),
                    other => shown.write_all(other),
                };
                if shows.is_err() {
                    break;
                }
            }
            shown.shutdown(Shutdown::Write).ok();
        });
        self.0.lock().unwrap().push(child);
        ours
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        for program in self.0.lock().unwrap().iter_mut() {
            program.kill().ok();
            program.wait().ok();
        }
    }
}

/// Whether a line is the expected one, in which `…` stands for anything.
fn matches(expected: &str, line: &str) -> bool {
    match expected.split_once('…') {
        Some((start, end)) => line.strip_prefix(start).is_some_and(|rest| rest.ends_with(end)),
        None => expected == line,
    }
}
