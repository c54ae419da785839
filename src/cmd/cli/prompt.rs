//! The prompt: a line is edited, done, and the next one is asked for. Ctrl-C ends what is under way, or forgets
//! the line; Ctrl-D or `exit` ends it all.

use std::borrow::Cow;
use std::env;
use std::io::{self, Write};
use std::path::PathBuf;

use bytes::Bytes;
use rustyline::completion::Completer;
use rustyline::error::ReadlineError;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::history::FileHistory;
use rustyline::validate::Validator;
use rustyline::{CompletionType, Config, Context, Editor, Helper};

use super::syntax::Syntax;
use super::{Done, Shell, Stop, execute, feed, history, words_of};
use crate::cmd::resp::Reply;
use crate::cmd::{Failure, say};

/// How many lines the history keeps.
const HISTORY_MAX_LINES: usize = 1000;

/// What helps with a line while it is typed.
struct Aid {
    syntax: Syntax,
    /// Whether what is still to come is shown, in grey.
    hints: bool,
}

/// The editor and where it keeps its lines.
struct Prompt {
    editor: Editor<Aid, FileHistory>,
    history: Option<PathBuf>,
}

/// What was typed.
enum Typed {
    Line(String),
    /// Ctrl-C: the line is forgotten.
    Nothing,
    /// Ctrl-D.
    End,
}

/// Asks for commands and does them.
pub(super) fn run(mut shell: Shell) -> Result<(), Failure> {
    let aid = Aid {
        syntax: shell.syntax()?,
        hints: env::var_os("NO_COLOR").is_none() && env::var_os("TERM").is_none_or(|term| term != "dumb"),
    };
    let mut prompt = Prompt::open(aid).map_err(|error| Failure::Work(error.into()))?;
    say(format_args!(
        "raftline {} at {}. HELP lists the commands, Tab completes, Ctrl-D leaves.",
        env!("CARGO_PKG_VERSION"),
        shell.caller.address()
    ));
    loop {
        let typed = match prompt
            .ask(&shell.sign())
            .map_err(|error| Failure::Work(error.into()))?
        {
            Typed::Line(typed) => typed,
            Typed::Nothing => continue,
            Typed::End => return Ok(()),
        };
        // Several where they were pasted.
        for line in typed.lines() {
            if shell.typed(line, &mut prompt)? {
                return Ok(());
            }
        }
    }
}

impl Shell {
    /// Does what a line says; whether it is the last one.
    fn typed(&mut self, line: &str, prompt: &mut Prompt) -> Result<bool, Failure> {
        let words = match words_of(line.as_bytes()) {
            Ok(words) => words,
            Err(error) => {
                prompt.keep(line, &[]);
                say(format_args!("(error) ERR {error}; not sent"));
                return Ok(false);
            }
        };
        let Some((first, rest)) = words.split_first() else {
            return Ok(false);
        };
        prompt.keep(line, &words);
        match first.to_ascii_lowercase().as_slice() {
            b"exit" | b"quit" if rest.is_empty() => return Ok(true),
            b"clear" if rest.is_empty() => prompt.clear(),
            b"?" => self.interruptible(&[&[Bytes::from_static(b"HELP")], rest].concat())?,
            _ => self.interruptible(&words)?,
        }
        Ok(false)
    }

    /// Does a command unless Ctrl-C comes first.
    fn interruptible(&mut self, words: &[Bytes]) -> Result<(), Failure> {
        let ended = self.runtime.block_on(async {
            tokio::select! {
                ended = execute(&mut self.caller, words, self.style) => Some(ended),
                _ = tokio::signal::ctrl_c() => None,
            }
        });
        match ended {
            Some(Ok(Done::Well | Done::Error(_))) => {}
            Some(Err(Stop::Unread)) => return Ok(()),
            Some(Err(Stop::Unreachable(error))) => say(format_args!("(error) {error}")),
            Some(Err(Stop::Failed(error))) => return Err(Failure::Work(error)),
            None => {
                say(if feed::is_feed(words) {
                    ""
                } else {
                    "\n(not waited for; it may have been done)"
                });
                self.caller.abandon();
            }
        }
        Ok(())
    }

    /// What stands before a line.
    fn sign(&self) -> String {
        match (self.caller.is_connected(), self.caller.in_transaction()) {
            (_, true) => format!("{}(TX)> ", self.caller.address()),
            (true, false) => format!("{}> ", self.caller.address()),
            (false, false) => "not connected> ".into(),
        }
    }

    /// Asks the server how its commands are written.
    fn syntax(&mut self) -> Result<Syntax, Failure> {
        let mut syntax = Syntax::default();
        for line in self.help(&[])? {
            syntax.add(&line);
        }
        for name in syntax.with_words_under() {
            // The first line is that command's own.
            for line in self.help(&[Bytes::from(name)])?.iter().skip(1) {
                syntax.add(line);
            }
        }
        Ok(syntax)
    }

    /// The lines of HELP; none if there are none.
    fn help(&mut self, of: &[Bytes]) -> Result<Vec<String>, Failure> {
        let words = [&[Bytes::from_static(b"HELP")], of].concat();
        let reply = self
            .runtime
            .block_on(self.caller.call(&words))
            .map_err(|error| Failure::Work(error.into()))?;
        let Reply::List(lines) = reply else {
            return Ok(Vec::new());
        };
        let text = |line: &Reply| match line {
            Reply::Value(text) | Reply::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        };
        Ok(lines.iter().filter_map(text).collect())
    }
}

impl Prompt {
    fn open(aid: Aid) -> Result<Prompt, ReadlineError> {
        let config = Config::builder()
            .max_history_size(HISTORY_MAX_LINES)?
            .history_ignore_space(true)
            .completion_type(CompletionType::List)
            .build();
        let mut editor = Editor::with_config(config)?;
        editor.set_helper(Some(aid));
        let history = history::path().filter(|path| match history::prepare(path) {
            Ok(()) => true,
            Err(error) => {
                writeln!(io::stderr(), "(no history: {}: {error})", path.display()).ok();
                false
            }
        });
        if let Some(path) = &history {
            // One that cannot be read is not worth an error: it begins anew.
            editor.load_history(path).ok();
        }
        Ok(Prompt { editor, history })
    }

    fn ask(&mut self, sign: &str) -> Result<Typed, ReadlineError> {
        match self.editor.readline(sign) {
            Ok(line) => Ok(Typed::Line(line)),
            Err(ReadlineError::Interrupted) => Ok(Typed::Nothing),
            Err(ReadlineError::Eof) => Ok(Typed::End),
            Err(error) => Err(error),
        }
    }

    fn clear(&mut self) {
        self.editor.clear_screen().ok();
    }

    /// Keeps a line, at once: the process may be killed.
    fn keep(&mut self, line: &str, words: &[Bytes]) {
        let is_new =
            history::may_be_kept(words) && self.editor.add_history_entry(line.trim_end()).unwrap_or(false);
        if let Some(path) = self.history.as_ref().filter(|_| is_new) {
            self.editor.append_history(path).ok();
        }
    }
}

impl Helper for Aid {}

impl Validator for Aid {}

impl Completer for Aid {
    type Candidate = String;

    fn complete(&self, line: &str, at: usize, _: &Context<'_>) -> rustyline::Result<(usize, Vec<String>)> {
        let (start, mut found) = self.syntax.complete(line.get(..at).unwrap_or_default());
        if let [only] = found.as_mut_slice() {
            only.push(' ');
        }
        Ok((start, found))
    }
}

impl Hinter for Aid {
    type Hint = String;

    fn hint(&self, line: &str, at: usize, _: &Context<'_>) -> Option<String> {
        (self.hints && at == line.len()).then(|| self.syntax.hint(line))?
    }
}

impl Highlighter for Aid {
    fn highlight_hint<'h>(&self, hint: &'h str) -> Cow<'h, str> {
        Cow::Owned(format!("\x1b[90m{hint}\x1b[0m"))
    }
}
