//! What is bound to the connection, and what becomes of it when the connection is lost.
//!
//! A transaction and the watched keys are gone with their connection. The commands that were to be part of the
//! transaction must not be done outside of it on the next connection, and what the watch was to protect must
//! not be done without it: until EXEC or DISCARD they are refused here. READ is simply said again.
//!
//! The transaction is kept until its EXEC, which may have to be sent again on another connection, after all of it.

use bytes::Bytes;

use crate::cmd::link::Words;
use crate::cmd::resp::Reply;

/// Something that lives as long as the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Held {
    #[default]
    No,
    Yes,
    /// It was there, and the connection was lost.
    Lost,
}

/// The state of the connection as its commands made it.
#[derive(Clone, Debug, Default)]
pub(super) struct Session {
    transaction: Held,
    watch: Held,
    /// MULTI and what was queued after it, as much as a node takes.
    queued: Vec<Words>,
    /// A command after MULTI was refused.
    is_spoiled: bool,
    /// The last READ.
    read: Option<Words>,
}

impl Session {
    /// Whether a transaction is being put together.
    pub(super) fn in_transaction(&self) -> bool {
        self.transaction == Held::Yes
    }

    /// Whether a command that is sent now belongs to this connection.
    pub(super) fn is_bound(&self) -> bool {
        self.transaction == Held::Yes || self.watch == Held::Yes
    }

    /// MULTI and what was queued after it, if EXEC may be sent again after the same on another connection: there would
    /// be no watch there, and what was refused here might be taken.
    pub(super) fn transaction_to_repeat(&self) -> Option<&[Words]> {
        let may_repeat = self.transaction == Held::Yes && self.watch == Held::No && !self.is_spoiled;
        may_repeat.then_some(&self.queued)
    }

    /// EXEC is sent: whatever becomes of it, the transaction is over.
    pub(super) fn executes(&mut self) {
        self.end();
    }

    /// What a new connection is to be told first.
    pub(super) fn greeting(&self) -> Option<&Words> {
        self.read.as_ref()
    }

    /// The connection is lost. What to tell the user of it.
    pub(super) fn lost(&mut self) -> Option<&'static str> {
        let told = match (self.transaction, self.watch) {
            (Held::Yes, _) => Some(
                "the transaction is lost with its connection, nothing of it was done; \
                 what follows up to EXEC or DISCARD is not sent",
            ),
            (_, Held::Yes) => {
                Some("the watched keys are lost with the connection; watch them again after UNWATCH")
            }
            _ => None,
        };
        for held in [&mut self.transaction, &mut self.watch] {
            if *held == Held::Yes {
                *held = Held::Lost;
            }
        }
        told
    }

    /// The answer to a command that must not be sent, because what it belongs to was lost.
    pub(super) fn refuse(&mut self, words: &[Bytes]) -> Option<Reply> {
        let name = name(words);
        match (self.transaction, name.as_slice()) {
            (Held::Lost, b"EXEC") => {
                self.end();
                let text = "EXECABORT the transaction was lost with its connection; nothing of it was done";
                Some(Reply::error(text))
            }
            (Held::Lost, b"DISCARD") => {
                self.end();
                Some(Reply::Text(Bytes::from_static(b"OK")))
            }
            (Held::Lost, b"RESET" | b"QUIT") => None,
            (Held::Lost, _) => Some(Reply::error(
                "ERR not sent: the transaction that it was part of was lost with its connection; \
                 EXEC or DISCARD ends it",
            )),
            (_, b"MULTI") if self.watch == Held::Lost => {
                self.transaction = Held::Lost;
                Some(Reply::error(
                    "ERR not begun: the watched keys were lost with the connection; what follows up to EXEC \
                     or DISCARD is not sent",
                ))
            }
            _ => None,
        }
    }

    /// A command was answered.
    pub(super) fn answered(&mut self, words: &[Bytes], reply: &Reply) {
        let is_error = matches!(reply, Reply::Error(_));
        match name(words).as_slice() {
            // Whatever the answer is, the transaction is over; only EXEC without MULTI changes nothing.
            b"EXEC" | b"DISCARD" if self.transaction == Held::Yes || !is_error => self.end(),
            b"RESET" if !is_error => *self = Session::default(),
            _ if self.transaction == Held::Yes => {
                self.is_spoiled |= is_error;
                self.queued.push(words.to_vec());
            }
            _ if is_error => {}
            b"MULTI" => {
                self.transaction = Held::Yes;
                self.queued = vec![words.to_vec()];
            }
            b"WATCH" if self.watch == Held::No => self.watch = Held::Yes,
            b"UNWATCH" => self.watch = Held::No,
            b"READ" => self.read = Some(words.to_vec()),
            _ => {}
        }
    }

    fn end(&mut self) {
        self.transaction = Held::No;
        self.watch = Held::No;
        self.queued = Vec::new();
        self.is_spoiled = false;
    }
}

/// The name of a command, in capitals; EXEC also where it stands under a token or a number of the user's.
pub(super) fn name(words: &[Bytes]) -> Vec<u8> {
    let word = |at: usize| {
        words
            .get(at)
            .map(|word| word.to_ascii_uppercase())
            .unwrap_or_default()
    };
    let within = match word(0).as_slice() {
        b"ONCE" => word(2),
        b"SEQ" => word(3),
        _ => Vec::new(),
    };
    if within == b"EXEC" { within } else { word(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Words {
        line.split(' ')
            .map(|word| Bytes::copy_from_slice(word.as_bytes()))
            .collect()
    }

    fn ok() -> Reply {
        Reply::Text("OK".into())
    }

    fn session(lines: &[&str]) -> Session {
        let mut session = Session::default();
        for line in lines {
            session.answered(&words(line), &ok());
        }
        session
    }

    fn is_refused(session: &mut Session, line: &str) -> bool {
        matches!(session.refuse(&words(line)), Some(Reply::Error(_)))
    }

    #[test]
    fn a_lost_transaction_swallows_its_commands_up_to_its_end() {
        let mut session = session(&["MULTI", "SET a 1"]);
        assert!(session.in_transaction());
        assert!(session.lost().unwrap().contains("nothing of it was done"));
        assert!(session.lost().is_none());
        assert!(!session.in_transaction());
        assert!(is_refused(&mut session, "set b 1"));
        assert!(is_refused(&mut session, "exec"));
        assert!(session.refuse(&words("SET b 1")).is_none());
    }

    #[test]
    fn discard_ends_a_lost_transaction_too() {
        let mut session = session(&["MULTI"]);
        session.lost();
        assert_eq!(session.refuse(&words("DISCARD")), Some(ok()));
        assert!(session.refuse(&words("GET b")).is_none());
    }

    #[test]
    fn nothing_is_done_without_the_watch_it_relied_on() {
        let mut session = session(&["WATCH k", "GET k"]);
        assert!(session.is_bound());
        assert!(session.lost().unwrap().contains("watched keys"));
        assert!(session.refuse(&words("GET k")).is_none());
        session.answered(&words("WATCH k2"), &ok());
        assert!(is_refused(&mut session, "MULTI"));
        assert!(is_refused(&mut session, "SET k 2"));
        assert!(is_refused(&mut session, "EXEC"));
        assert!(session.refuse(&words("MULTI")).is_none());
    }

    #[test]
    fn a_transaction_may_be_repeated_unless_it_relies_on_its_connection() {
        let queued = session(&["MULTI", "SET a 1"]);
        let kept = [words("MULTI"), words("SET a 1")];
        assert_eq!(queued.transaction_to_repeat(), Some(&kept[..]));
        assert_eq!(session(&["SET a 1"]).transaction_to_repeat(), None);
        assert_eq!(
            session(&["WATCH k", "MULTI", "SET a 1"]).transaction_to_repeat(),
            None
        );
        let mut spoiled = queued.clone();
        spoiled.answered(&words("NOSUCH"), &Reply::error("ERR no"));
        assert_eq!(spoiled.transaction_to_repeat(), None);
        let mut own = queued.clone();
        own.answered(&words("ONCE t EXEC"), &Reply::List(vec![]));
        assert!(!own.in_transaction());
        let mut sent = queued;
        sent.executes();
        assert!(sent.lost().is_none() && sent.refuse(&words("EXEC")).is_none());
        sent.answered(&words("MULTI"), &ok());
        assert_eq!(sent.transaction_to_repeat(), Some(&kept[..1]));
    }

    #[test]
    fn unwatch_forgets_a_lost_watch() {
        let mut session = session(&["WATCH k"]);
        session.lost();
        session.answered(&words("UNWATCH"), &ok());
        assert!(session.refuse(&words("MULTI")).is_none());
    }

    #[test]
    fn exec_ends_whatever_it_answers_and_errors_begin_nothing() {
        let mut session = session(&["WATCH k", "MULTI"]);
        session.answered(&words("EXEC"), &Reply::Nil);
        assert!(!session.is_bound());
        session.answered(&words("MULTI"), &Reply::error("ERR no"));
        assert!(!session.in_transaction());
        session.answered(&words("WATCH k"), &ok());
        session.answered(&words("EXEC"), &Reply::error("ERR EXEC without MULTI"));
        assert!(session.is_bound());
        session.answered(&words("MULTI"), &ok());
        session.answered(&words("EXEC"), &Reply::error("EXECABORT no"));
        assert!(!session.is_bound());
    }

    #[test]
    fn read_is_said_again_and_reset_forgets_it() {
        let mut session = session(&["READ stale"]);
        session.lost();
        assert_eq!(session.greeting(), Some(&words("READ stale")));
        session.answered(&words("RESET"), &ok());
        assert_eq!(session.greeting(), None);
    }
}
