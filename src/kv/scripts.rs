//! Runs `testscripts/`: after each line `> command` stands what it answered when the script was recorded.
//! With UPDATE=1 in the environment the answers are recorded anew; read them before committing.
//!
//! Writes are applied at the next index and at the time of the last `at ms`; the clock for TTL is that of
//! the last `now ms`. Words are those of the client protocol; a word `""` is empty, `[n]x` is n times x.

use bytes::Bytes;

use super::*;

mod words;

use words::{command, number, query, word};

#[derive(Default)]
struct Runner {
    store: Store,
    at: u64,
    now: u64,
}

impl Runner {
    fn line(&mut self, line: &str) -> String {
        let words: Vec<Bytes> = line.split_whitespace().map(word).collect();
        let texts: Vec<&str> = words.iter().map(|w| std::str::from_utf8(w).unwrap()).collect();
        let index = self.store.applied() + 1;
        match texts[..] {
            ["at", ms] => self.at = number(ms) as u64,
            ["now", ms] => self.now = number(ms) as u64,
            ["noop"] => self.store.advance(index),
            ["state"] => return self.state(),
            ["scan", from, to, limit] => return self.scan(from, to, limit),
            _ => {
                return match query(&words, &texts) {
                    Some(query) => show(&self.store.query(&query, self.now)),
                    None => show(&self.store.apply(index, self.at, &command(&words, &texts))),
                };
            }
        }
        "done".into()
    }

    fn state(&self) -> String {
        let s = &self.store;
        let head = format!(
            "applied {} time {} cluster {:?}",
            s.applied(),
            s.time_ms(),
            s.cluster_id().as_ref().map(|id| bytes(id))
        );
        let next = s.next_expiry();
        let keys = (s.len(), s.bytes(), s.expiring_len());
        format!(
            "{head}\nkeys, bytes, expiring {keys:?} next {next:?} hash {:016x}",
            s.hash()
        )
    }

    fn scan(&self, from: &str, to: &str, limit: &str) -> String {
        let scan = Scan {
            from: word(from),
            to: (to != "-").then(|| word(to)),
            limit: (limit != "-").then(|| number(limit) as u64),
        };
        let view = self.store.view();
        let pairs = view.scan(&scan);
        let lines: Vec<String> = pairs
            .map(|(k, v)| format!("{} = {}", bytes(&k), bytes(&v)))
            .collect();
        format!("{} found\n{}", lines.len(), lines.join("\n"))
    }
}

fn bytes(bytes: &[u8]) -> String {
    match bytes.len() {
        0..=40 => format!("\"{}\"", bytes.escape_ascii()),
        n => format!("{n} bytes"),
    }
}

fn show(reply: &Reply) -> String {
    match reply {
        Reply::Ok => "+OK".into(),
        Reply::Text(text) => format!("+{text}"),
        Reply::Integer(number) => format!(":{number}"),
        Reply::Value(value) => bytes(value),
        Reply::Nil => "_".into(),
        Reply::List(list) => format!("[{}]", list.iter().map(show).collect::<Vec<_>>().join(", ")),
        Reply::Error(error) => format!("-{error}"),
    }
}

#[test]
fn scripts() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kv/testscripts");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|f| f.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let recorded = std::fs::read_to_string(&file).unwrap();
        let (mut runner, mut found) = (Runner::default(), String::new());
        for line in recorded.lines() {
            match line.strip_prefix("> ") {
                Some(command) => found += &format!("{line}\n{}\n", runner.line(command).trim_end()),
                None if line.is_empty() || line.starts_with('#') => found += &format!("{line}\n"),
                None => {}
            }
        }
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&file, found).unwrap();
        } else {
            assert_eq!(recorded, found, "{} answers otherwise now", file.display());
        }
    }
}
