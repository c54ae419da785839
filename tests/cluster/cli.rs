//! `raftline cli` against real nodes: what it prints, how it exits, and that it goes on when nodes die.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::client::Reply;
use crate::harness::{Cluster, SOON, wait_for, wait_until};

/// An address where nobody listens: port 1 of a host that is no cluster's.
const NOBODY: &str = "127.0.0.1:1";

/// How a run ended.
struct Run {
    code: Option<i32>,
    out: String,
    err: String,
}

fn command(addresses: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(crate::raftline());
    command.arg("cli").args(arguments).env("RAFTLINE_ADDR", addresses);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// Runs it to its end.
fn cli(addresses: &str, arguments: &[&str], input: &[u8]) -> Run {
    let mut child = command(addresses, arguments).spawn().unwrap();
    // One that does not read its input closes it.
    child.stdin.take().unwrap().write_all(input).ok();
    ended(child)
}

fn ended(child: Child) -> Run {
    let output = child.wait_with_output().unwrap();
    Run {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).unwrap(),
        err: String::from_utf8(output.stderr).unwrap(),
    }
}

impl Run {
    fn assert(&self, code: i32, out: &str, err: &str) {
        assert_eq!(
            (self.code, self.out.as_str(), self.err.as_str()),
            (Some(code), out, err)
        );
    }
}

/// All nodes, as `--addr` takes them.
fn addresses(cluster: &Cluster) -> String {
    let all: Vec<String> = cluster.addresses().iter().map(ToString::to_string).collect();
    all.join(",")
}

#[test]
fn one_command_and_its_reply() {
    let cluster = Cluster::start(1);
    let addresses = addresses(&cluster);
    let run = |arguments: &[&str]| cli(&addresses, arguments, b"");
    run(&["SET", "k", "a b\n"]).assert(0, "OK\n", "");
    run(&["GET", "k"]).assert(0, "a b\n\n", "");
    run(&["--no-raw", "get", "k"]).assert(0, "\"a b\\n\"\n", "");
    run(&["--json", "MGET", "k", "none"]).assert(0, "[\"a b\\n\",null]\n", "");
    run(&["--no-raw", "GET", "none"]).assert(0, "(nil)\n", "");
    run(&["INCRBY", "n", "-5"]).assert(0, "-5\n", "");
    let not_a_number = "ERR value is not an integer or out of range";
    run(&["INCR", "k"]).assert(
        1,
        &format!("{not_a_number}\n"),
        &format!("raftline: {not_a_number}\n"),
    );
    run(&["--json", "NOSUCH"]).json_error("ERR");
    cli(&addresses, &["-x", "SET", "file"], b"\x00\xff").assert(0, "OK\n", "");
    run(&["--json", "GET", "file"]).assert(0, "{\"base64\":\"AP8=\"}\n", "");
    let help = run(&["help", "set"]);
    assert!(
        help.code == Some(0) && help.out.starts_with("SET key value "),
        "{}",
        help.out
    );
}

impl Run {
    fn json_error(&self, code: &str) {
        let value: serde_json::Value = serde_json::from_str(&self.out).unwrap();
        assert_eq!(
            (self.code, value["error"].as_str()),
            (Some(1), Some(code)),
            "{}",
            self.out
        );
    }
}

#[test]
fn what_cannot_be_done_is_told_with_its_exit_code() {
    let unreachable = cli(&format!("{NOBODY},127.0.0.1:2"), &["GET", "k"], b"");
    assert_eq!((unreachable.code, unreachable.out.as_str()), (Some(1), ""));
    for part in [
        "nothing was done",
        "127.0.0.1:1: Connection refused",
        "127.0.0.1:2: Connection refused",
        "raftline dev",
    ] {
        assert!(unreachable.err.contains(part), "{}", unreachable.err);
    }
    for arguments in [
        &["--jsn", "GET", "k"][..],
        &["--addr", "a b", "PING"],
        &["--timeout", "soon"],
        &["-x"],
    ] {
        let usage = cli(NOBODY, arguments, b"");
        assert_eq!(
            (usage.code, usage.out.as_str()),
            (Some(2), ""),
            "{arguments:?}: {}",
            usage.err
        );
        assert!(!usage.err.is_empty());
    }
}

#[test]
fn commands_from_a_pipe_are_done_line_by_line() {
    let cluster = Cluster::start(1);
    let addresses = addresses(&cluster);
    // The last line has no end, and is done like the others.
    let run = cli(
        &addresses,
        &[],
        b"SET a 1\r\n\nINCR a\nset b \"x y\n\n'INCR' b c\nGET a",
    );
    let wrong = "ERR wrong number of arguments for 'incr' command";
    assert_eq!(
        (run.code, run.out.as_str()),
        (Some(1), format!("OK\n2\n{wrong}\n2\n").as_str())
    );
    let lines: Vec<&str> = run.err.lines().collect();
    assert!(
        lines[0].starts_with("line 4: ERR unbalanced quotes"),
        "{}",
        run.err
    );
    assert_eq!(lines[1], format!("line 6: {wrong}"));
    assert_eq!(lines[2..], ["raftline: 2 of 5 commands failed"]);
    cli(&addresses, &["--json"], b"GET a\nGET none\nKEYS *\n").assert(0, "\"2\"\nnull\n[\"a\"]\n", "");
    cli(&addresses, &[], b"").assert(0, "", "");
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let cluster = Cluster::start(1);
    let addresses = addresses(&cluster);
    let mut child = command(&addresses, &[]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap());
    input.write_all(b"SET a 1\n").unwrap();
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line, "OK\n");
    drop(out);
    input.write_all(b"INCR a\nINCR a\n").ok();
    drop(input);
    ended(child).assert(0, "", "");
    // It ended at the first reply that nobody read.
    cli(&addresses, &["GET", "a"], b"").assert(0, "2\n", "");
}

#[test]
fn an_address_that_is_dead_costs_nothing() {
    let cluster = Cluster::start(1);
    let all = format!("{NOBODY},{}", addresses(&cluster));
    cli(&all, &["SET", "k", "v"], b"").assert(0, "OK\n", "");
    cli(NOBODY, &["--addr", &all, "GET", "k"], b"").assert(0, "v\n", "");
}

#[test]
fn what_means_one_node_is_not_sent_to_whichever_answers() {
    let cluster = Cluster::start(1);
    let all = format!("{NOBODY},{}", addresses(&cluster));
    let run = cli(&all, &["RAFT", "REBUILD"], b"");
    assert_eq!(run.code, Some(1));
    assert!(run.err.contains("--addr with its address alone"), "{}", run.err);
    let run = cli(&all, &[], b"PING\nraft rebuild\nPING\n");
    let refusal = "ERR RAFT REBUILD is for one node: give --addr with its address alone; nothing was done";
    let told = format!("line 2: {refusal}\nraftline: 1 of 3 commands failed\n");
    run.assert(1, &format!("PONG\n{refusal}\nPONG\n"), &told);
    cluster.assert_all_run();
}

/// The leader is killed while a script counts: every line is answered with the next number.
#[test]
fn a_script_counts_exactly_when_the_leader_is_killed() {
    const COUNT: usize = 400;
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let first = cluster.client_address(leader);
    let mut child = command(&format!("{first},{}", addresses(&cluster)), &["--timeout", "60s"])
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all("INCR n\n".repeat(COUNT).as_bytes()).unwrap();
    drop(input);
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines: Vec<String> = out.by_ref().take(COUNT / 4).map(Result::unwrap).collect();
    cluster.kill_9(leader);
    lines.extend(out.map(Result::unwrap));
    ended(child).assert(0, "", "");
    let expected: Vec<String> = (1..=COUNT).map(|n| n.to_string()).collect();
    assert_eq!(lines, expected);
    let other = cluster.ids_without(leader)[0];
    assert_eq!(cluster.call(other, "GET n"), Reply::text(COUNT.to_string()));
}

/// The leader is killed while a script does transactions: whatever EXEC says of one is true, and that nobody knows is
/// never said. One that was not sent whole is lost with its connection.
#[test]
fn transactions_are_done_once_when_the_leader_is_killed() {
    const COUNT: usize = 200;
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let first = cluster.client_address(leader);
    let all = format!("{first},{}", addresses(&cluster));
    let mut child = command(&all, &["--json", "--timeout", "60s"]).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input
        .write_all("MULTI\nINCR n\nEXEC\n".repeat(COUNT).as_bytes())
        .unwrap();
    drop(input);
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines: Vec<String> = out.by_ref().take(COUNT).map(Result::unwrap).collect();
    cluster.kill_9(leader);
    lines.extend(out.map(Result::unwrap));
    let run = ended(child);
    assert!(!run.err.contains("UNKNOWNRESULT"), "{}", run.err);
    let done: Vec<&String> = lines.iter().filter(|line| line.starts_with('[')).collect();
    let expected: Vec<String> = (1..=done.len()).map(|n| format!("[{n}]")).collect();
    assert_eq!(done, expected.iter().collect::<Vec<_>>());
    assert!(done.len() >= COUNT - 1, "{}", run.err);
    let other = cluster.ids_without(leader)[0];
    assert_eq!(cluster.call(other, "GET n"), Reply::text(done.len().to_string()));
}

/// Nothing that only reads is refused because its family writes.
#[test]
fn families_that_write_have_commands_that_do_not() {
    let cluster = Cluster::start(1);
    let addresses = addresses(&cluster);
    let run = |arguments: &[&str]| cli(&addresses, arguments, b"");
    let lease = run(&["LEASE", "GRANT", "60000"]).out;
    assert_eq!(run(&["SET", "k", "v", "LEASE", lease.trim()]).out, "OK\n");
    let info = run(&["LEASE", "INFO", lease.trim()]);
    assert_eq!((info.code, info.err.as_str()), (Some(0), ""));
    assert_eq!(run(&["GETEX", "k"]).out, "v\n");
    assert_eq!(run(&["ONCE", "mine", "APPEND", "k", "w"]).out, "2\n");
    assert_eq!(run(&["ONCE", "mine", "APPEND", "k", "w"]).out, "2\n");
    assert_eq!(run(&["SESSION", "HELP"]).code, Some(0));
}

/// A person at a terminal.
struct Person {
    child: Child,
    terminal: File,
    seen: std::sync::mpsc::Receiver<Vec<u8>>,
    text: String,
}

impl Person {
    /// Sits down at a prompt, with a home of one's own.
    fn sit(addresses: &str, home: &std::path::Path) -> Person {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let side = || File::options().read(true).write(true).open(&name).unwrap();
        let child = command(addresses, &[])
            .env("XDG_STATE_HOME", home)
            .env("TERM", "xterm")
            .env("NO_COLOR", "1")
            .stdin(side())
            .stdout(side())
            .stderr(side())
            .spawn()
            .unwrap();
        let terminal = File::from(master);
        let mut reader = terminal.try_clone().unwrap();
        let (sender, seen) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            // The terminal ends with an error when nobody has it open any more.
            while let Ok(count) = reader.read(&mut buffer) {
                if count == 0 || sender.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Person {
            child,
            terminal,
            seen,
            text: String::new(),
        }
    }

    fn types(&mut self, keys: &str) {
        self.terminal.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until this is on the screen, below what was waited for before.
    fn sees(&mut self, part: &str) {
        let text = &mut self.text;
        let seen = &self.seen;
        wait_until("it is on the screen", SOON, || {
            while let Ok(bytes) = seen.try_recv() {
                text.push_str(&String::from_utf8_lossy(&bytes));
            }
            match text.find(part) {
                Some(at) => Ok(at),
                None => Err(format!("{part:?} is not in {text:?}")),
            }
        });
        let at = text.find(part).unwrap();
        text.drain(..at + part.len());
    }
}

#[test]
fn a_person_at_the_prompt() {
    let cluster = Cluster::start(1);
    let address = addresses(&cluster);
    let prompt = format!("{address}> ");
    let mut person = Person::sit(&address, cluster.folder());
    person.sees("HELP lists the commands");
    person.sees(&prompt);
    person.types("set greeting \"hello world\"\r");
    person.sees("OK\r\n");
    person.sees(&prompt);
    person.types("get greeting\r");
    person.sees("\"hello world\"\r\n");
    person.sees(&prompt);
    person.types("incr greeting\r");
    person.sees("(error) ERR value is not an integer or out of range\r\n");
    person.sees(&prompt);
    // The words of a command are completed, in the case that is typed.
    person.types("raft mem\t\r");
    person.sees("raft members ");
    person.sees("1) 1) (integer) 1\r\n   2) leader\r\n");
    person.sees(&prompt);
    // A line is forgotten at Ctrl-C.
    person.types("get nonsense");
    person.sees("nonsense");
    person.types("\x03");
    person.sees(&prompt);
    // Lines that are pasted are done one by one.
    person.types("\x1b[200~del greeting\nset a 1\x1b[201~\r");
    person.sees("(integer) 1\r\nOK\r\n");
    person.sees(&prompt);
    person.types("auth secret\r");
    person.sees("(error) ");
    person.sees(&prompt);
    // The arrow brings back what was kept.
    person.types("\x1b[A\x1b[A\r");
    person.sees("(integer) 0\r\n");
    person.sees(&prompt);
    person.types("\x04");
    assert_eq!(person.child.wait().unwrap().code(), Some(0));
    let history = std::fs::read_to_string(cluster.folder().join("raftline/cli_history")).unwrap();
    assert!(
        history.contains("get greeting\n") && !history.contains("secret"),
        "{history}"
    );
}

/// The node dies and comes back while somebody sits at the prompt.
#[test]
fn the_prompt_outlives_the_node() {
    let mut cluster = Cluster::start(1);
    let address = addresses(&cluster);
    let mut person = Person::sit(&address, cluster.folder());
    person.sees(&format!("{address}> "));
    cluster.kill_9(1);
    person.types("set k v\r");
    person.sees("Connection refused");
    cluster.restart(1);
    person.sees("OK\r\n");
    person.types("exit\r");
    assert_eq!(person.child.wait().unwrap().code(), Some(0));
    wait_for("the value", SOON, || {
        (cluster.call(1, "GET k") == Reply::text("v")).then_some(())
    });
}

/// The node of a feed is killed in the middle: the feed goes on at another, and shows every change once.
#[test]
fn a_feed_outlives_its_node() {
    const COUNT: usize = 60;
    let mut cluster = Cluster::start(3);
    let feeding = cluster.follower();
    let first = cluster.client_address(feeding);
    let all = format!("{first},{}", addresses(&cluster));
    let mut child = command(&all, &["--timeout", "60s", "FEED", "PREFIX", "k", "FROM", "0"])
        .spawn()
        .unwrap();
    let mut out = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut writer = cluster.client(cluster.leader());
    let mut seen = Vec::new();
    for n in 0..COUNT {
        if n == COUNT / 2 {
            seen.extend(out.by_ref().take(n).map(Result::unwrap));
            cluster.kill_9(feeding);
        }
        // Two changes of one revision; the second one is what comes again after a loss.
        let reply = writer.call(&format!("MSET ka{n} x kb{n} y other{n} z")).unwrap();
        assert_eq!(reply, Reply::ok());
    }
    seen.extend(out.by_ref().take(2 * COUNT - seen.len()).map(Result::unwrap));
    child.kill().unwrap();
    let run = ended(child);
    let changes: Vec<&str> = seen.iter().map(|line| line.split_once('\t').unwrap().1).collect();
    let expected: Vec<String> = (0..COUNT)
        .flat_map(|n| [format!("set\tka{n}\tx"), format!("set\tkb{n}\ty")])
        .collect();
    assert_eq!(changes, expected, "{}", run.err);
    assert!(run.err.contains("the feed goes on"), "{}", run.err);
}

/// What one who resumes from too far back is told, and how.
#[test]
fn a_feed_that_is_refused_says_why() {
    let cluster = Cluster::start(1);
    let run = cli(&addresses(&cluster), &["FEED", "NONSENSE"], b"");
    assert_eq!(run.code, Some(1));
    assert!(run.out.starts_with("ERR syntax error"), "{}", run.out);
}
