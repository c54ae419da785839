//! The unit under a real systemd: a container over this machine's own /usr, with the unit, its user, and a
//! cluster of one node.
//!
//! Needs root and systemd-nspawn. Without them it says so and passes, unless RAFTLINE_REQUIRE_SYSTEMD=1.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

const SOON: Duration = Duration::from_secs(30);

const CONFIG: &str = r#"
[node]
id = 1
[listen]
client = "127.0.0.1:7238"
peer = "127.0.0.1:7239"
admin = "127.0.0.1:7240"
[cluster]
name = "test"
members = [{ id = 1, peer = "127.0.0.1:7239", client = "127.0.0.1:7238" }]
[storage]
segment_size = "1MiB"
min_free_space = "0"
"#;

#[test]
fn the_unit_starts_serves_survives_a_kill_and_stops() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(CONFIG);
    machine.wait_until_active();
    assert_eq!(
        machine.talk("SET hello world\nGET hello\nQUIT\n"),
        "+OK\n+world\n+OK\n"
    );
    assert!(
        machine.show("StatusText").contains("serving as leader"),
        "{}",
        machine.show("StatusText")
    );
    assert_eq!(machine.show("User"), "raftline");

    let killed = machine.show("MainPID");
    machine.run("kill", &["-9", &killed]);
    machine.wait_until("a new main process", || {
        let pid = machine.show("MainPID");
        pid != killed && pid != "0"
    });
    machine.wait_until_active();
    assert_eq!(machine.show("NRestarts"), "1");
    assert_eq!(machine.talk("GET hello\nQUIT\n"), "+world\n+OK\n");

    machine.run("systemctl", &["reload", "raftline"]);
    let before_stop = Instant::now();
    machine.run("systemctl", &["stop", "raftline"]);
    assert!(
        before_stop.elapsed() < Duration::from_secs(5),
        "{:?}",
        before_stop.elapsed()
    );
    assert_eq!(machine.show("Result"), "success");
    assert_eq!(machine.show("ExecMainStatus"), "0");

    let journal = machine.journal();
    for part in [
        "Started raftline",
        "status=9/KILL",
        "reloaded",
        "SIGTERM: handing over",
        "stopped",
        "Stopped raftline",
    ] {
        assert!(journal.contains(part), "no {part:?} in the journal:\n{journal}");
    }
}

/// The configuration of one of three nodes in the container; the first is the unit's.
fn one_of_three(id: u16) -> String {
    let port = |id: u16, n: u16| 6238 + 1000 * id + n;
    let member = |id: u16| {
        format!(
            "{{ id = {id}, peer = \"127.0.0.1:{}\", client = \"127.0.0.1:{}\" }}",
            port(id, 1),
            port(id, 0)
        )
    };
    let members: Vec<String> = (1..=3).map(member).collect();
    let folder = match id {
        1 => "/var/lib/raftline".into(),
        _ => format!("/tmp/node{id}"),
    };
    format!(
        "[node]\nid = {id}\ndata_dir = {folder:?}\n[listen]\nclient = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\n\
         [cluster]\nname = \"test\"\nmembers = [{}]\n[storage]\nsegment_size = \"1MiB\"\nmin_free_space = \"0\"\n",
        port(id, 0),
        port(id, 1),
        members.join(", ")
    )
}

/// RAFT REBUILD ends the process, and it is the unit's Restart= that brings the node back.
#[test]
fn a_unit_that_is_rebuilt_comes_back_by_itself() {
    if !can_run() {
        return;
    }
    let machine = Machine::boot(&one_of_three(1));
    // With nobody else there it is active as soon as it listens.
    machine.wait_until_active();
    let others: Vec<Child> = [2, 3]
        .into_iter()
        .map(|id| {
            let path = format!("/tmp/node{id}.toml");
            let mut tee = machine.start("tee", &[&path]).expect("the container runs");
            let config = one_of_three(id);
            tee.stdin.take().unwrap().write_all(config.as_bytes()).unwrap();
            assert!(tee.wait().unwrap().success());
            let node = machine.start("raftline", &["serve", "--config", &path]);
            node.expect("the container runs")
        })
        .collect();
    machine.wait_until("a write", || {
        machine.talk("SET hello world\nQUIT\n").starts_with("+OK")
    });
    let before = machine.show("MainPID");
    machine.wait_until("a rebuild, once this node does not lead", || {
        let said = machine.talk("RAFT TRANSFER 2\nRAFT REBUILD\nQUIT\n");
        said.lines().nth(1) == Some("+OK")
    });
    machine.wait_until("a new main process", || {
        let pid = machine.show("MainPID");
        pid != before && pid != "0"
    });
    machine.wait_until("a node that has everything again", || {
        machine.show("StatusText").contains("serving as follower")
            && machine.talk("GET hello\nQUIT\n") == "+world\n+OK\n"
    });
    assert_eq!(machine.show("NRestarts"), "1");
    assert_eq!(machine.talk("RAFT VERIFY\nQUIT\n"), "+OK\n+OK\n");
    let journal = machine.journal();
    for part in ["as RAFT REBUILD asks", "fetches everything from the others"] {
        assert!(journal.contains(part), "no {part:?} in the journal:\n{journal}");
    }
    for mut node in others {
        node.kill().ok();
        node.wait().ok();
    }
}

#[test]
fn the_sandbox_is_tight() {
    let unit = folder("systemd/raftline.service");
    let Ok(output) = Command::new("systemd-analyze")
        .args(["security", "--offline=true"])
        .arg(&unit)
        .output()
    else {
        println!("skipped: there is no systemd-analyze");
        return;
    };
    let text = String::from_utf8_lossy(&output.stdout);
    let level = text.split("Overall exposure level for raftline.service: ").nth(1);
    let level: f64 = level
        .and_then(|rest| rest.split(' ').next())
        .expect(&text)
        .parse()
        .unwrap();
    assert!(level < 2.0, "exposure level {level}:\n{text}");
}

/// Says so if not.
fn can_run() -> bool {
    let Some(why) = cannot_run() else {
        return true;
    };
    assert!(
        std::env::var_os("RAFTLINE_REQUIRE_SYSTEMD").is_none_or(|value| value != "1"),
        "RAFTLINE_REQUIRE_SYSTEMD is set, but {why}"
    );
    println!("skipped: {why}");
    false
}

/// What is missing for a container here.
fn cannot_run() -> Option<String> {
    if !geteuid().is_root() {
        return Some("this is not root".into());
    }
    let needed = ["systemd-nspawn", "nsenter", "nc"];
    let missing = needed.into_iter().find(|program| which(program).is_none());
    missing.map(|program| format!("there is no {program}"))
}

/// Where a shell finds a program.
fn which(program: &str) -> Option<PathBuf> {
    let output = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .output()
        .ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim_end().into())
}

/// A running container. It goes with this value, and its folder too.
struct Machine {
    nspawn: Child,
    root: TempDir,
}

impl Machine {
    fn boot(config: &str) -> Machine {
        let root = TempDir::new().unwrap();
        furnish(root.path(), config);
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let console = fs::File::create(root.path().join("console")).unwrap();
        let nspawn = Command::new("systemd-nspawn")
            .args([
                "--boot",
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--private-network",
            ])
            .args(["--kill-signal=SIGRTMIN+3", "--link-journal=no", "--bind-ro=/usr"])
            .arg(format!(
                "--machine=raftline-{}-{}",
                std::process::id(),
                NEXT.fetch_add(1, Relaxed)
            ))
            .arg(format!(
                "--bind-ro={}:/usr/local",
                root.path().join("local").display()
            ))
            .arg("--directory")
            .arg(root.path().join("root"))
            .args(["systemd.firstboot=off", "systemd.show_status=no"])
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .stdout(console.try_clone().unwrap())
            .stderr(console)
            .spawn()
            .expect("systemd-nspawn starts");
        Machine { nspawn, root }
    }

    /// The container's process 1, as this machine numbers it.
    fn leader(&self) -> Option<String> {
        let pid = self.nspawn.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        children.split_whitespace().next().map(String::from)
    }

    /// Starts a program inside.
    fn start(&self, program: &str, arguments: &[&str]) -> Option<Child> {
        Command::new("nsenter")
            .args(["--target", &self.leader()?, "--all", "--", program])
            .args(arguments)
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .ok()
    }

    fn try_run(&self, program: &str, arguments: &[&str]) -> Option<Output> {
        self.start(program, arguments)?.wait_with_output().ok()
    }

    /// What a program inside prints. Panics if it fails.
    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.try_run(program, arguments).expect("the container runs");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "{program} {arguments:?}: {error}\n{}",
            self.console()
        );
        String::from_utf8_lossy(&output.stdout).trim_end().into()
    }

    /// A property of the unit.
    fn show(&self, property: &str) -> String {
        self.run(
            "systemctl",
            &["show", "--value", "--property", property, "raftline"],
        )
    }

    /// What netcat prints for these lines, its line ends as LF.
    fn talk(&self, lines: &str) -> String {
        // The container has this machine's /usr, but not the /etc/alternatives that `nc` may point into.
        let path = fs::canonicalize(which("nc").expect("cannot_run has looked")).unwrap();
        let mut nc = self
            .start(path.to_str().unwrap(), &["-w", "10", "127.0.0.1", "7238"])
            .expect("the container runs");
        nc.stdin.take().unwrap().write_all(lines.as_bytes()).unwrap();
        let output = nc.wait_with_output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "nc: {}: {error}\n{}",
            output.status,
            self.journal()
        );
        String::from_utf8_lossy(&output.stdout).replace("\r\n", "\n")
    }

    /// What the unit has logged.
    fn journal(&self) -> String {
        self.run("journalctl", &["--no-pager", "-u", "raftline"])
    }

    fn wait_until_active(&self) {
        self.wait_until("the unit is active", || {
            let state = self.try_run("systemctl", &["is-active", "raftline"]);
            state.is_some_and(|output| output.stdout.starts_with(b"active"))
        });
    }

    fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let deadline = Instant::now() + SOON;
        while !is_so() {
            if Instant::now() > deadline {
                let unit = self.try_run("systemctl", &["status", "--no-pager", "--full", "raftline"]);
                let unit = unit.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
                panic!(
                    "not within {SOON:?}: {what}\n{}\n{}",
                    unit.unwrap_or_default(),
                    self.console()
                );
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// What the container printed while booting.
    fn console(&self) -> String {
        fs::read_to_string(self.root.path().join("console")).unwrap_or_default()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let pid = Pid::from_child(&self.nspawn);
        // An orderly shutdown first: it removes what nspawn has set up on this machine.
        kill_process(pid, Signal::TERM).ok();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if let Ok(Some(_)) = self.nspawn.try_wait() {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        self.nspawn.kill().ok();
        self.nspawn.wait().ok();
    }
}

/// Makes the container's root beside the folder that becomes its /usr/local.
fn furnish(folder_of_machine: &Path, config: &str) {
    let root = folder_of_machine.join("root");
    for name in [
        "usr",
        "var/lib",
        "run",
        "tmp",
        "proc",
        "sys",
        "dev",
        "root",
        "etc/raftline",
        "etc/sysusers.d",
    ] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::create_dir_all(root.join("etc/systemd/system/multi-user.target.wants")).unwrap();
    for name in ["bin", "sbin", "lib", "lib64", "lib32", "libx32"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(name)) {
            symlink(target, root.join(name)).unwrap();
        }
    }
    let write = |name: &str, text: &str| fs::write(root.join(name), text).unwrap();
    write("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    write("etc/os-release", "ID=test\nNAME=test\n");
    write(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    );
    write("etc/group", "root:x:0:\nnogroup:x:65534:\n");
    write("etc/raftline/raftline.toml", config);
    let copy = |from: &str, to: &str| fs::copy(folder(from), root.join(to)).unwrap();
    copy("systemd/raftline.sysusers", "etc/sysusers.d/raftline.conf");
    copy("systemd/raftline.service", "etc/systemd/system/raftline.service");
    symlink(
        "../raftline.service",
        root.join("etc/systemd/system/multi-user.target.wants/raftline.service"),
    )
    .unwrap();
    let bin = folder_of_machine.join("local/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_raftline"), bin.join("raftline")).unwrap();
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}
