//! `raftline cli`: commands to a cluster. One from the command line, many from a pipe, or a prompt.
//!
//! A command goes to the first address that answers, and on to the next one when that is lost. Its own writes
//! it sends under ONCE, so that repeating one does it once: `caller` talks to the nodes, `attempts` has the
//! rules, `commands` knows which commands write, `session` what is bound to a connection, `feed` how a change
//! feed goes on. `print` shows replies; `prompt`, `syntax` and `history` are what a person sees.
//!
//! Missing: users and passwords, TLS; EXEC is not repeated when keys were watched and its outcome is unknown.

mod attempts;
mod caller;
mod commands;
mod feed;
mod history;
mod print;
mod prompt;
mod session;
mod syntax;

use std::ffi::OsString;
use std::io::{self, BufRead, BufWriter, IsTerminal, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::Bytes;
use clap::Args;
use tokio::runtime::Runtime;

use super::Failure;
use super::link::Words;
use super::resp::{REPLY_MAX_BYTES, Reply};
use crate::base::address::is_address;
use crate::base::units::parse_duration;
use crate::client::line;
use caller::{Caller, Unreachable};
use feed::Ended;
use print::Style;

/// The port of a node's clients by default.
const PORT: u16 = 7238;
/// The most words of a line.
const WORDS_MAX: usize = 1 << 20;
/// The longest line, and the most of standard input, that is taken in.
const INPUT_MAX_BYTES: u64 = REPLY_MAX_BYTES as u64;

/// Arguments of `raftline cli`.
#[derive(Debug, Args)]
#[command(after_help = "\
Without a command it reads commands, one a line, from a prompt or a pipe. Words and quotes are those of the line
protocol: \"…\" takes \\n \\r \\t \\\" \\\\ \\xHH, '…' takes \\' only.

Examples:
  raftline cli                                a prompt, with history, completion and hints
  raftline cli GET greeting                   one command and its reply
  raftline cli -x SET motd < /etc/motd        its last word from standard input
  raftline cli --json RAFT MEMBERS            for programs
  raftline cli --addr a:7238,b:7238 HELP SET  the first of them that answers
  raftline cli < commands                     one a line; an error names its line, the rest is still done

Exit codes: 0 success, 1 an error reply or no connection, 2 the command line is wrong.")]
pub(super) struct Arguments {
    /// Nodes of the cluster, tried in turn; without a port, 7238
    #[arg(
        long,
        env = "RAFTLINE_ADDR",
        value_name = "HOST:PORT,…",
        value_delimiter = ',',
        default_value = "127.0.0.1:7238",
        value_parser = address
    )]
    addr: Vec<String>,
    /// How long a command may take, with all its attempts at all addresses
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    timeout: Duration,
    /// Print each reply as one line of JSON; bytes that are no UTF-8 as {"base64":"…"}
    #[arg(long, conflicts_with_all = ["raw", "no_raw"])]
    json: bool,
    /// Print bytes as they are, without quotes [default when the output is no terminal]
    #[arg(long, conflicts_with = "no_raw")]
    raw: bool,
    /// Print replies with their types, as on a terminal
    #[arg(long)]
    no_raw: bool,
    /// Take the command's last word from standard input
    #[arg(short = 'x', requires = "command")]
    x: bool,
    /// The command and its words
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn address(text: &str) -> Result<String, String> {
    let with_port = format!("{text}:{PORT}");
    [text, &with_port]
        .into_iter()
        .find(|text| is_address(text, 1))
        .map(str::to_string)
        .ok_or_else(|| "expected HOST:PORT, several separated by commas".into())
}

fn time(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|time| !time.is_zero())
        .ok_or_else(|| "expected a time, as 500ms, 10s or 1m".into())
}

/// How a command ended.
enum Done {
    /// With a reply that is no error.
    Well,
    /// With this error reply, which was printed.
    Error(String),
}

/// Why no further command can be done.
enum Stop {
    /// Whoever read the output has gone away (`| head -1`), which is no failure.
    Unread,
    /// No node can be reached.
    Unreachable(anyhow::Error),
    /// The output or the input fails.
    Failed(anyhow::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Stop {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::Unread,
            _ => Stop::Failed(anyhow!(error).context("cannot write to standard output")),
        }
    }
}

impl From<Unreachable> for Stop {
    fn from(error: Unreachable) -> Stop {
        Stop::Unreachable(error.into())
    }
}

impl Stop {
    /// What it means for a command or a script.
    fn result(self) -> Result<(), Failure> {
        match self {
            Stop::Unread => Ok(()),
            Stop::Unreachable(error) | Stop::Failed(error) => Err(Failure::Work(error)),
        }
    }
}

pub(super) fn run(arguments: Arguments) -> Result<(), Failure> {
    let words = command(&arguments)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::Work(error.into()))?;
    let is_terminal = io::stdout().is_terminal();
    let is_interactive = words.is_empty() && is_terminal && io::stdin().is_terminal();
    let style = match (arguments.json, arguments.raw, arguments.no_raw) {
        (true, _, _) => Style::Json,
        (_, true, _) => Style::Raw,
        (_, _, true) => Style::Terminal,
        _ if is_terminal => Style::Terminal,
        _ => Style::Raw,
    };
    let caller = runtime
        .block_on(Caller::connect(arguments.addr, arguments.timeout, is_interactive))
        .map_err(|error| Failure::Work(error.into()))?;
    let shell = Shell {
        runtime,
        caller,
        style,
        is_terminal,
    };
    if is_interactive {
        prompt::run(shell)
    } else if words.is_empty() {
        shell.script(io::stdin().lock())
    } else {
        shell.one(&words)
    }
}

/// The words of the command line.
fn command(arguments: &Arguments) -> Result<Words, Failure> {
    let words = arguments.command.iter().cloned().map(OsString::into_vec);
    let mut words: Words = words.map(Bytes::from).collect();
    if let Some(option) = words.first().filter(|word| word.starts_with(b"-")) {
        let option = crate::base::escape::excerpt(option, 40);
        return Err(Failure::Usage(anyhow!(
            "cli: unknown option '{option}'; `raftline cli --help` lists them"
        )));
    }
    if arguments.x {
        let mut input = Vec::new();
        let read = io::stdin()
            .lock()
            .take(INPUT_MAX_BYTES + 1)
            .read_to_end(&mut input);
        read.context("cannot read standard input")
            .map_err(Failure::Work)?;
        if input.len() as u64 > INPUT_MAX_BYTES {
            let text = "standard input is more than any request may have";
            return Err(Failure::Work(anyhow!(text)));
        }
        words.push(Bytes::from(input));
    }
    Ok(words)
}

/// What commands are done with.
struct Shell {
    runtime: Runtime,
    caller: Caller,
    style: Style,
    /// Whether standard output is a terminal.
    is_terminal: bool,
}

impl Shell {
    /// The command of the command line.
    fn one(mut self, words: &[Bytes]) -> Result<(), Failure> {
        match self
            .runtime
            .block_on(execute(&mut self.caller, words, self.style))
        {
            Ok(Done::Well) => Ok(()),
            Ok(Done::Error(text)) if !self.is_terminal => Err(Failure::Work(anyhow!(text))),
            Ok(Done::Error(_)) => Err(Failure::Told),
            Err(stop) => stop.result(),
        }
    }

    /// Commands from a pipe or a file, one a line. An error reply does not end it.
    fn script(mut self, mut input: impl BufRead) -> Result<(), Failure> {
        let (mut number, mut commands, mut failed) = (0u64, 0u64, 0u64);
        loop {
            let mut line = Vec::new();
            let read = input.by_ref().take(INPUT_MAX_BYTES).read_until(b'\n', &mut line);
            if read
                .context("cannot read standard input")
                .map_err(Failure::Work)?
                == 0
            {
                break;
            }
            number += 1;
            let words = match words_of(&line) {
                Ok(words) if words.is_empty() => continue,
                Ok(words) => words,
                Err(error) => {
                    complain(number, &format!("ERR {error}; not sent"));
                    (commands, failed) = (commands + 1, failed + 1);
                    continue;
                }
            };
            commands += 1;
            match self
                .runtime
                .block_on(execute(&mut self.caller, &words, self.style))
            {
                Ok(Done::Well) => {}
                Ok(Done::Error(text)) => {
                    complain(number, &text);
                    failed += 1;
                }
                Err(Stop::Unreachable(error)) => {
                    let text = format!("line {number}: {error}");
                    return Err(Failure::Work(anyhow!(
                        "{text}\nThe lines from there on were not done."
                    )));
                }
                Err(stop) => return stop.result(),
            }
        }
        if failed > 0 {
            return Err(Failure::Work(anyhow!("{failed} of {commands} commands failed")));
        }
        Ok(())
    }
}

/// An error of a script, beside the reply.
fn complain(number: u64, text: &str) {
    writeln!(io::stderr(), "line {number}: {text}").ok();
}

/// The words of a line, with or without its end.
fn words_of(line: &[u8]) -> Result<Words, line::LineError> {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    line::words(&Bytes::copy_from_slice(line), WORDS_MAX)
}

/// Does one command and prints what comes of it.
async fn execute(caller: &mut Caller, words: &[Bytes], style: Style) -> Result<Done, Stop> {
    let mut out = BufWriter::new(io::stdout().lock());
    let reply = if feed::is_feed(words) && !caller.in_transaction() {
        match feed::run(caller, words, style, &mut out).await {
            Ended::Refused(reply) => reply,
            Ended::Unwritable(error) => return Err(error.into()),
            Ended::Unreachable(error, Some(again)) => {
                return Err(Stop::Unreachable(anyhow!(
                    "{error}\nTo go on from there: {again}"
                )));
            }
            Ended::Unreachable(error, None) => return Err(error.into()),
        }
    } else {
        caller.call(words).await?
    };
    style.reply(&reply, print::is_page(words), &mut out)?;
    out.flush()?;
    Ok(match reply {
        Reply::Error(text) => Done::Error(String::from_utf8_lossy(&text).into_owned()),
        _ => Done::Well,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_port_by_default() {
        assert_eq!(address("db-1").unwrap(), "db-1:7238");
        assert_eq!(address("[::1]:9").unwrap(), "[::1]:9");
        assert_eq!(address("[::1]").unwrap(), "[::1]:7238");
        for wrong in ["", "a:", "a:0", "a b", "::1"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_not_zero() {
        assert_eq!(time("1m").unwrap(), Duration::from_secs(60));
        assert!(time("0").is_err() && time("10").is_err());
    }

    #[test]
    fn lines_end_with_lf_crlf_or_not_at_all() {
        for line in ["SET a b", "SET a b\n", "SET a b\r\n"] {
            assert_eq!(words_of(line.as_bytes()).unwrap(), ["SET", "a", "b"], "{line:?}");
        }
        assert!(words_of(b" \n").unwrap().is_empty());
        assert!(words_of(b"SET a \"b\n").is_err());
    }
}
