//! How the commands are written, from the server's own help: what can be completed, and what is still to come.
//!
//! A line of help is `NAME syntax - summary`. In the syntax, words in capitals are to be typed as they are,
//! the others name what stands there; `[…]` may be left out, `A|B` is a choice, `…` repeats.

/// The commands' syntax.
#[derive(Debug, Default)]
pub(super) struct Syntax {
    entries: Vec<Entry>,
}

/// One line of help.
#[derive(Debug)]
struct Entry {
    /// The words that name it: `SET`, or `RAFT ADD`.
    name: Vec<String>,
    /// What follows, in parts that belong together: `key`, `[NX|XX]`.
    parts: Vec<String>,
}

impl Syntax {
    /// Takes in a line of help; what is none is left out.
    pub(super) fn add(&mut self, line: &str) {
        let Some((usage, _)) = line.split_once(" - ") else {
            return;
        };
        let mut parts = parts(usage);
        let name_len = match self.entries.iter().find(|entry| entry.is(&parts)) {
            // A line under a command: its second word is one that the command lists.
            Some(_) => 2,
            None => 1,
        };
        if parts.len() < name_len {
            return;
        }
        let name: Vec<String> = parts.drain(..name_len).collect();
        self.entries.push(Entry { name, parts });
    }

    /// The commands that have words of their own under them, for which more help may be asked.
    pub(super) fn with_words_under(&self) -> Vec<String> {
        let entries = self
            .entries
            .iter()
            .filter(|entry| entry.name.len() == 1 && !entry.under().is_empty());
        entries.filter_map(|entry| entry.name.first().cloned()).collect()
    }

    /// What the last word of the line may become, in capitals or, if it is typed so, in small letters. The
    /// place is where that word begins.
    pub(super) fn complete(&self, line: &str) -> (usize, Vec<String>) {
        let start = line.rfind([' ', '\t']).map_or(0, |at| at + 1);
        let (before, word) = line.split_at(start);
        let typed: Vec<&str> = before.split_whitespace().collect();
        let folded = word.to_uppercase();
        let mut found: Vec<String> = self
            .candidates(&typed)
            .into_iter()
            .filter(|candidate| candidate.starts_with(&folded))
            .collect();
        found.sort();
        found.dedup();
        if word.chars().any(char::is_lowercase) {
            found = found.iter().map(|name| name.to_lowercase()).collect();
        }
        (start, found)
    }

    /// What is still to be typed after the line; nothing while its last word is being typed.
    pub(super) fn hint(&self, line: &str) -> Option<String> {
        let typed: Vec<&str> = line.split_whitespace().collect();
        let entry = self.entry(&typed)?;
        let arguments = typed.get(entry.name.len()..).unwrap_or_default();
        let (done, current) = match (line.ends_with([' ', '\t']), arguments.split_last()) {
            (true, _) | (false, None) => (arguments, None),
            (false, Some((last, done))) => (done, Some(*last)),
        };
        let mut rest = entry.rest(done);
        if current.is_some()
            && rest
                .first()
                .is_some_and(|part| !part.starts_with('[') && !is_repeat(part))
        {
            // That word is being typed.
            rest.remove(0);
        }
        let text = rest.join(" ");
        let blank = if line.ends_with([' ', '\t']) { "" } else { " " };
        (!text.is_empty()).then(|| format!("{blank}{text}"))
    }

    /// The words that may stand after those typed.
    fn candidates(&self, typed: &[&str]) -> Vec<String> {
        let names = || {
            self.entries
                .iter()
                .filter_map(|entry| entry.name.first().cloned())
        };
        let Some(entry) = self.entry(typed) else {
            return if typed.is_empty() {
                names().collect()
            } else {
                Vec::new()
            };
        };
        if typed.len() == 1 && entry.name.first().is_some_and(|name| name == "HELP") {
            return names().collect();
        }
        if typed.len() == 1 && !entry.under().is_empty() {
            return entry.under();
        }
        let arguments = typed.get(entry.name.len()..).unwrap_or_default();
        let rest = entry.rest(arguments);
        let fixed = rest.iter().take_while(|part| !part.starts_with('[')).count();
        match rest.first() {
            // Before an argument that must come there is nothing else to type.
            Some(first) if fixed > 0 && !is_repeat(first) => keywords(first),
            _ => rest.iter().flat_map(|part| keywords(part)).collect(),
        }
    }

    /// The entry with the longest name that the typed words begin with.
    fn entry(&self, typed: &[&str]) -> Option<&Entry> {
        let begins = |entry: &&Entry| {
            entry.name.len() <= typed.len()
                && entry
                    .name
                    .iter()
                    .zip(typed)
                    .all(|(name, word)| name.eq_ignore_ascii_case(word))
        };
        self.entries
            .iter()
            .filter(begins)
            .max_by_key(|entry| entry.name.len())
    }
}

impl Entry {
    /// Whether these parts are one of the commands under this one.
    fn is(&self, parts: &[String]) -> bool {
        match (self.name.as_slice(), parts) {
            ([name], [first, second, ..]) => name == first && self.under().contains(second),
            _ => false,
        }
    }

    /// The words under this command: `STATUS|MEMBERS|…` at its start.
    fn under(&self) -> Vec<String> {
        match self.parts.first() {
            Some(first) if self.name.len() == 1 && first.contains('|') => keywords(first),
            _ => Vec::new(),
        }
    }

    /// The parts that remain after these arguments: each takes the place of one that must stand there; what may
    /// be left out remains until one of its words was typed.
    fn rest(&self, arguments: &[&str]) -> Vec<&str> {
        let mut count = arguments.len();
        let mut rest = Vec::new();
        for part in &self.parts {
            let is_optional = part.starts_with('[');
            if !is_optional && count > 0 && !is_repeat(part) {
                count -= 1;
            } else if !is_optional || !is_used(part, arguments) {
                rest.push(part.as_str());
            }
        }
        rest
    }
}

fn is_repeat(part: &str) -> bool {
    part == "…"
}

/// Whether one of the words of an optional part was typed.
fn is_used(part: &str, arguments: &[&str]) -> bool {
    let words = keywords(part);
    arguments
        .iter()
        .any(|argument| words.iter().any(|word| word.eq_ignore_ascii_case(argument)))
}

/// The words of a part that are typed as they are: in capitals, or the choices of a part that has only such
/// in small letters (`quorum|lease|stale`), folded.
fn keywords(part: &str) -> Vec<String> {
    let words = part.split(['[', ']', '|', ' ']).filter(|word| !word.is_empty());
    let is_choice = part.contains('|') && !part.contains(' ') && !part.starts_with('[');
    words
        .filter(|word| {
            let is_capital = word.len() > 1 && word.chars().all(|c| c.is_ascii_uppercase() || c == '-');
            is_capital || is_choice
        })
        .map(str::to_uppercase)
        .collect()
}

/// A usage in parts: blanks separate them, except within brackets.
fn parts(usage: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0usize;
    for character in usage.chars() {
        match character {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        match parts.last_mut() {
            Some(part) if character != ' ' || depth > 0 => part.push(character),
            _ => parts.push(String::new()),
        }
    }
    parts.retain(|part| !part.is_empty());
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn syntax() -> Syntax {
        let mut syntax = Syntax::default();
        for line in [
            "GET key - the value",
            "GETDEL key - deletes it",
            "SET key value [NX|XX|IFEQ old|IFREV n] [EX s|PX ms|KEEPTTL] [GET] - stores it",
            "DEL key … - count",
            "READ quorum|lease|stale - how to read",
            "HELP [command] - this list",
            "RAFT STATUS|MEMBERS|ADD|HELP - the consensus",
            "RAFT STATUS - a picture",
            "RAFT ADD id peer client [VOTER] - takes a node in",
            "no help at all",
        ] {
            syntax.add(line);
        }
        syntax
    }

    fn complete(line: &str) -> String {
        let (start, found) = syntax().complete(line);
        format!("{start}:{}", found.join(" "))
    }

    #[test]
    fn names_words_under_them_and_options_are_completed() {
        assert_eq!(complete("ge"), "0:get getdel");
        assert_eq!(complete("R"), "0:RAFT READ");
        assert_eq!(complete("RAFT ST"), "5:STATUS");
        assert_eq!(complete("raft "), "5:ADD HELP MEMBERS STATUS");
        assert_eq!(complete("raft add 4 a:1 b:1 v"), "19:voter");
        assert_eq!(complete("read st"), "5:stale");
        assert_eq!(complete("HELP S"), "5:SET");
        assert_eq!(complete("SET k v "), "8:EX GET IFEQ IFREV KEEPTTL NX PX XX");
        assert_eq!(complete("SET k v NX "), "11:EX GET KEEPTTL PX");
    }

    #[test]
    fn where_a_key_stands_nothing_is_completed() {
        for line in ["SET ", "SET k ", "SET G", "GET ", "GET k ", "NOSUCH x", "DEL a "] {
            assert!(syntax().complete(line).1.is_empty(), "{line}");
        }
    }

    #[test]
    fn hints_are_what_is_still_to_come() {
        let hint = |line: &str| syntax().hint(line);
        let of = |text: &str| Some(text.to_string());
        assert_eq!(hint("get"), of(" key"));
        assert_eq!(hint("get "), of("key"));
        assert_eq!(hint("get k"), None);
        assert_eq!(
            hint("set k"),
            of(" value [NX|XX|IFEQ old|IFREV n] [EX s|PX ms|KEEPTTL] [GET]")
        );
        assert_eq!(hint("set k v nx "), of("[EX s|PX ms|KEEPTTL] [GET]"));
        assert_eq!(hint("DEL a "), of("…"));
        assert_eq!(hint("raft add 4 "), of("peer client [VOTER]"));
        assert_eq!(hint("raft status"), None);
        assert_eq!(hint("nosuch"), None);
        assert_eq!(hint(""), None);
    }

    #[test]
    fn words_under_a_command_are_known() {
        assert_eq!(syntax().with_words_under(), ["READ", "RAFT"]);
    }

    #[test]
    fn any_line_is_fine() {
        let mut syntax = syntax();
        for line in ["", " - ", "[ - ]", "A [B - c", "é|ü ] - x", "RAFT ADD - twice"] {
            syntax.add(line);
            syntax.complete(line);
            syntax.hint(line);
        }
    }
}
