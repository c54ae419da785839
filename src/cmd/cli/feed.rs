//! A change feed that survives its connection: it goes on at the next node, and shows nothing twice.
//!
//! The changes of one revision come together, in the same order from every node, and a mark of that revision
//! follows where they are several. So a revision is complete when a later one was seen, or its mark; a feed
//! that is resumed starts above the last complete one, and as many changes of the next as were shown before
//! are left out.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;

use super::caller::{Caller, Unreachable};
use super::print::{Event, Style};
use super::session::name;
use crate::cmd::link::Words;
use crate::cmd::resp::Reply;

/// How long a feed may be silent. An idle one gets marks far more often, so such a node is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// How a feed ended by itself.
#[derive(Debug)]
pub(super) enum Ended {
    /// The node refused it, with this error.
    Refused(Reply),
    /// No node can be reached; how to go on from there, if that is known.
    Unreachable(Unreachable, Option<String>),
    /// What it shows cannot be written.
    Unwritable(io::Error),
}

/// How far a feed has come.
#[derive(Debug)]
struct Position {
    /// The request without its FROM.
    request: Words,
    /// Changes up to this revision were all shown; `None` while that is not known.
    complete: Option<i64>,
    /// The revision after it, and how many of its changes were shown.
    shown: Option<(i64, usize)>,
    /// How many changes of which revision come again after the feed was resumed.
    again: Option<(i64, usize)>,
}

/// Whether a request begins a feed.
pub(super) fn is_feed(words: &[Bytes]) -> bool {
    name(words) == b"FEED"
}

/// Shows changes until it cannot go on.
pub(super) async fn run(caller: &mut Caller, words: &[Bytes], style: Style, out: &mut impl Write) -> Ended {
    let mut position = Position::new(words);
    let mut request = words.to_vec();
    loop {
        match caller.call(&request).await {
            Ok(reply @ Reply::Error(_)) => return Ended::Refused(reply),
            Ok(_) => {}
            Err(error) => return Ended::Unreachable(error, position.resumption()),
        }
        let error = loop {
            let reply = match caller.receive(SILENCE).await {
                Ok(reply) => reply,
                Err(error) => break error,
            };
            let written = match event(reply) {
                Ok(event) if position.is_new(&event) => style.event(&event, out),
                Ok(_) => Ok(()),
                Err(Reply::Error(text)) => return Ended::Refused(Reply::Error(text)),
                Err(other) => style.reply(&other, false, out),
            };
            if let Err(error) = written.and_then(|()| out.flush()) {
                return Ended::Unwritable(error);
            }
        };
        request = position.resume();
        let loss = if position.complete.is_none() {
            "; changes made meanwhile are missed, for none was seen to go on from"
        } else {
            ""
        };
        caller.lost_feed(&error, loss);
    }
}

/// The change that was pushed, or what it is instead.
fn event(reply: Reply) -> Result<Event, Reply> {
    let Reply::Push(fields) = &reply else {
        return Err(reply);
    };
    let bytes = |at: usize| match fields.get(at) {
        Some(Reply::Value(bytes) | Reply::Text(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    match (fields.first(), bytes(1)) {
        (Some(Reply::Integer(revision)), Some(kind)) => Ok(Event {
            revision: *revision,
            kind,
            key: bytes(2),
            value: bytes(3),
        }),
        _ => Err(reply),
    }
}

impl Position {
    fn new(words: &[Bytes]) -> Position {
        let mut position = Position {
            request: words.get(..1).unwrap_or_default().to_vec(),
            complete: None,
            shown: None,
            again: None,
        };
        for option in words.get(1..).unwrap_or_default().chunks(2) {
            match option {
                [word, revision] if word.eq_ignore_ascii_case(b"FROM") => {
                    position.complete = std::str::from_utf8(revision)
                        .ok()
                        .and_then(|text| text.parse().ok());
                }
                other => position.request.extend_from_slice(other),
            }
        }
        position
    }

    /// Takes note of an event; whether it is to be shown.
    fn is_new(&mut self, event: &Event) -> bool {
        if event.kind == "mark" {
            self.complete = Some(event.revision);
            self.shown = None;
            return true;
        }
        let place = match self.shown {
            Some((revision, count)) if revision == event.revision => count + 1,
            Some((revision, _)) => {
                self.complete = Some(revision);
                1
            }
            None => 1,
        };
        self.shown = Some((event.revision, place));
        self.again
            .is_none_or(|(revision, count)| event.revision != revision || place > count)
    }

    /// The request that goes on after the connection was lost.
    fn resume(&mut self) -> Words {
        if let Some((revision, count)) = self.shown.take() {
            // What was shown of it before an earlier loss may be more than came again since.
            let before = self.again.filter(|(other, _)| *other == revision);
            self.again = Some((revision, before.map_or(count, |(_, other)| count.max(other))));
            self.complete = self.complete.or(Some(revision - 1));
        }
        let mut words = self.request.clone();
        if let Some(complete) = self.complete {
            words.extend([Bytes::from_static(b"FROM"), Bytes::from(complete.to_string())]);
        }
        words
    }

    /// How the user may go on.
    fn resumption(&self) -> Option<String> {
        self.complete.map(|revision| {
            let mut text = Vec::new();
            for (n, word) in self.request.iter().enumerate() {
                match n {
                    0 | 1 => text.extend_from_slice(word),
                    _ => crate::base::escape::quote(word, &mut text),
                }
                text.push(b' ');
            }
            format!("{}FROM {revision}", String::from_utf8_lossy(&text))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(line: &str) -> Position {
        let words: Words = line.split(' ').map(|w| Bytes::from(w.to_string())).collect();
        Position::new(&words)
    }

    fn takes(position: &mut Position, revision: i64, kind: &'static str) -> bool {
        position.is_new(&Event {
            revision,
            kind: kind.into(),
            key: None,
            value: None,
        })
    }

    fn resumed(position: &mut Position) -> String {
        let words = position.resume();
        let words: Vec<_> = words.iter().map(|w| String::from_utf8_lossy(w)).collect();
        words.join(" ")
    }

    #[test]
    fn it_resumes_above_the_last_complete_revision() {
        let mut p = position("FEED PREFIX a FROM 3");
        assert_eq!(resumed(&mut p), "FEED PREFIX a FROM 3");
        assert!(takes(&mut p, 5, "set"));
        assert_eq!(resumed(&mut p), "FEED PREFIX a FROM 3");
        assert!(!takes(&mut p, 5, "set"));
        assert!(takes(&mut p, 6, "set"));
        assert!(takes(&mut p, 9, "mark"));
        assert_eq!(resumed(&mut p), "FEED PREFIX a FROM 9");
        assert_eq!(p.resumption().unwrap(), "FEED PREFIX \"a\" FROM 9");
    }

    #[test]
    fn a_revision_cut_in_the_middle_goes_on_where_it_was() {
        let mut p = position("FEED");
        for _ in 0..3 {
            assert!(takes(&mut p, 5, "set"));
        }
        assert_eq!(resumed(&mut p), "FEED FROM 4");
        // Again in the middle, and earlier than before.
        assert!(!takes(&mut p, 5, "set"));
        assert_eq!(resumed(&mut p), "FEED FROM 4");
        let new: Vec<bool> = (0..4).map(|_| takes(&mut p, 5, "set")).collect();
        assert_eq!(new, [false, false, false, true]);
        assert!(takes(&mut p, 5, "mark"));
        assert_eq!(resumed(&mut p), "FEED FROM 5");
    }

    #[test]
    fn without_any_event_it_is_known_that_nothing_is_known() {
        let mut p = position("FEED");
        assert_eq!(resumed(&mut p), "FEED");
        assert_eq!(p.resumption(), None);
    }

    #[test]
    fn what_is_pushed_is_an_event_or_shown_as_it_is() {
        let push = Reply::Push(vec![
            Reply::Integer(7),
            Reply::Text("del".into()),
            Reply::Value("k".into()),
            Reply::Nil,
        ]);
        let expected = Event {
            revision: 7,
            kind: "del".into(),
            key: Some("k".into()),
            value: None,
        };
        assert_eq!(event(push), Ok(expected));
        assert!(event(Reply::Push(vec![])).is_err());
        assert!(event(Reply::Integer(1)).is_err());
    }
}
