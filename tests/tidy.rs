//! What the compiler does not check: that layers point down, that the wire format stays in its place, and that
//! files keep to the sizes that a reader can hold.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::path::{Path, PathBuf};

/// The layers of `docs/architecture.md`. A module uses only modules of a smaller number.
const LAYERS: [(&str, u32); 16] = [
    ("base", 1),
    ("raft", 2),
    ("kv", 2),
    ("wire", 3),
    ("storage", 4),
    ("net", 4),
    ("transport", 4),
    ("node", 5),
    ("client", 6),
    ("admin", 6),
    ("config", 7),
    ("logging", 8),
    ("systemd", 8),
    ("server", 8),
    ("cmd", 9),
    ("main", 10),
];
/// The only modules that may use a neighbour of their own layer, each with the neighbour.
const NEIGHBOURS: [(&str, &str); 3] = [("transport", "net"), ("server", "logging"), ("server", "systemd")];
const LINE_CHARS_MAX: usize = 120;
const FUNCTION_LINES_MAX: usize = 60;

/// A Rust file of `src`.
struct Source {
    /// Relative to the root of the repository.
    path: PathBuf,
    /// The top-level module it belongs to; `lib` for the root of the crate.
    module: String,
    text: String,
    /// Compiled for tests only.
    is_tests: bool,
}

impl Source {
    /// Its lines with their numbers, from 1.
    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(n, line)| (n + 1, line))
    }

    /// The lines before the unit tests, which stand at the end of a file; none of a file of tests.
    fn lines_without_tests(&self) -> impl Iterator<Item = (usize, &str)> {
        self.lines()
            .take_while(|(_, line)| !self.is_tests && line.trim() != "#[cfg(test)]")
    }

    /// The modules that this file declares for tests only.
    fn test_modules(&self) -> Vec<PathBuf> {
        let lines: Vec<&str> = self.text.lines().collect();
        let declared = lines.windows(2).filter(|pair| pair[0] == "#[cfg(test)]");
        let name = |pair: &[&str]| Some(pair[1].strip_prefix("mod ")?.strip_suffix(';')?.to_string());
        declared
            .filter_map(name)
            .map(|name| self.path.with_file_name(name))
            .collect()
    }

    fn at(&self, line: usize, problem: &str) -> String {
        format!("{}:{line}: {problem}", self.path.display())
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder of the repository, relative to its root, in a fixed order.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut found = vec![];
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root()).unwrap().to_path_buf());
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let rust = files("src")
        .into_iter()
        .filter(|path| path.extension().is_some_and(|e| e == "rs"));
    let source = |path: PathBuf| {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let module = path.iter().nth(1).unwrap().to_string_lossy();
        let module = module.strip_suffix(".rs").unwrap_or(&module).to_string();
        Source {
            path,
            module,
            text,
            is_tests: false,
        }
    };
    let mut sources: Vec<Source> = rust.map(source).collect();
    let tests: Vec<PathBuf> = sources.iter().flat_map(Source::test_modules).collect();
    for source in &mut sources {
        source.is_tests = tests
            .iter()
            .any(|module| source.path.starts_with(module) || source.path.with_extension("") == *module);
    }
    sources
}

/// Panics with all problems at once.
fn report(problems: Vec<String>) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

fn layer(module: &str) -> Option<u32> {
    LAYERS
        .iter()
        .find(|(name, _)| *name == module)
        .map(|(_, number)| *number)
}

/// The line without its comment. (A string that holds `//` is cut too, which hides no path.)
fn code(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

/// The top-level modules named by `crate::` paths, with the line of each. Follows `use crate::{a, b::c}`.
fn modules_used(text: &str) -> Vec<(usize, String)> {
    let code: Vec<&str> = text.lines().map(code).collect();
    let code = code.join("\n");
    let mut used = vec![];
    for (at, path) in code
        .match_indices("crate::")
        .chain(code.match_indices("raftline::"))
    {
        let line = code[..at].matches('\n').count() + 1;
        let rest = &code[at + path.len()..];
        let names = match rest.strip_prefix('{') {
            Some(group) => first_words_of_group(group),
            None => vec![first_word(rest)],
        };
        used.extend(names.into_iter().map(|name| (line, name)));
    }
    used
}

fn first_word(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The first word of each path of a `use` group, whose opening brace is behind us.
fn first_words_of_group(group: &str) -> Vec<String> {
    let (mut depth, mut begins, mut words) = (0, true, vec![]);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && !c.is_whitespace() => {
                words.push(first_word(&group[at..]));
                begins = false;
            }
            _ => {}
        }
    }
    words
}

#[test]
fn layers_point_down() {
    let mut problems = vec![];
    for source in sources().iter().filter(|source| source.module != "lib") {
        let Some(own) = layer(&source.module) else {
            problems.push(source.at(1, "a module without a layer; give it one in LAYERS"));
            continue;
        };
        for (line, used) in modules_used(&source.text) {
            let Some(other) = layer(&used).filter(|_| used != source.module) else {
                continue;
            };
            if other >= own && !NEIGHBOURS.contains(&(&source.module, &used)) {
                problems.push(source.at(line, &format!("`{}` may not know `{used}`", source.module)));
            }
        }
    }
    report(problems);
}

#[test]
fn only_wire_knows_the_wire_format() {
    let mut problems = vec![];
    for source in sources().iter().filter(|source| source.module != "wire") {
        for (line, text) in source.lines() {
            if ["prost", "wire::proto"]
                .iter()
                .any(|name| code(text).contains(name))
            {
                problems.push(source.at(line, "only src/wire names prost or its types"));
            }
        }
    }
    report(problems);
}

#[test]
fn lines_and_functions_are_short() {
    let mut problems = vec![];
    for source in sources() {
        let mut open: Option<(usize, &str)> = None;
        for (line, text) in source.lines_without_tests() {
            let indent = &text[..text.len() - text.trim_start().len()];
            match open {
                // rustfmt puts a function's last brace, and nothing else, below its first word.
                Some((first, of)) if indent == of && text.trim_start() == "}" => {
                    open = None;
                    if line - first > FUNCTION_LINES_MAX + 1 {
                        problems.push(source.at(first, &format!("a function of {} lines", line - first - 1)));
                    }
                }
                None if begins_function(text) && !text.ends_with([';', '}']) => open = Some((line, indent)),
                _ => {}
            }
        }
    }
    for folder in ["src", "tests", "examples", "benches", "proto"] {
        for path in files(folder) {
            let is_code = path.extension().is_some_and(|e| e == "rs" || e == "proto");
            let text = if is_code {
                fs::read_to_string(root().join(&path)).unwrap()
            } else {
                String::new()
            };
            for (n, line) in text
                .lines()
                .enumerate()
                .filter(|(_, l)| l.chars().count() > LINE_CHARS_MAX)
            {
                let chars = line.chars().count();
                problems.push(format!(
                    "{}:{}: a line of {chars} characters",
                    path.display(),
                    n + 1
                ));
            }
        }
    }
    report(problems);
}

fn begins_function(line: &str) -> bool {
    let words = line.split_whitespace();
    let is_modifier = |word: &str| {
        matches!(word, "pub" | "const" | "async" | "unsafe" | "extern") || word.starts_with("pub(")
    };
    words.into_iter().find(|word| !is_modifier(word)) == Some("fn")
}

#[test]
fn nothing_is_left_unfinished() {
    let mut problems = vec![];
    for source in sources() {
        for (line, text) in source.lines() {
            for word in ["todo!", "unimplemented!", "dbg!", "FIXME", "XXX"] {
                if text.contains(word) {
                    problems.push(source.at(line, word));
                }
            }
        }
    }
    report(problems);
}

#[test]
fn every_file_says_what_it_is() {
    let silent = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//! "));
    report(
        silent
            .map(|source| source.at(1, "a file begins with `//!` and its story"))
            .collect(),
    );
}

/// A queue without a bound is where memory goes when something is slow.
#[test]
fn unbounded_queues_say_what_bounds_them() {
    const NEAR_LINES: usize = 12;
    let mut problems = vec![];
    for source in sources() {
        let lines: Vec<(usize, &str)> = source.lines_without_tests().collect();
        for (at, (line, text)) in lines.iter().enumerate() {
            let makes_one = code(text).contains("unbounded_channel(") || code(text).contains("unbounded(");
            let near = &lines[at.saturating_sub(NEAR_LINES)..=at];
            let says = near
                .iter()
                .any(|(_, l)| l.contains("//") && l.to_lowercase().contains("bound"));
            if makes_one && !says {
                problems.push(source.at(
                    *line,
                    "an unbounded queue: a comment before it says what bounds it",
                ));
            }
        }
    }
    report(problems);
}

/// Every script of a `testscripts` or `transcripts` folder is run: something beside the folder reads all of it.
#[test]
fn every_script_is_run() {
    let is_script = |path: &PathBuf| {
        path.iter()
            .any(|part| part == "testscripts" || part == "transcripts")
    };
    let scripts: Vec<PathBuf> = files("src")
        .into_iter()
        .chain(files("tests"))
        .filter(is_script)
        .collect();
    let mut problems = vec![];
    for folder in scripts.iter().map(|script| script.parent().unwrap()) {
        let beside = folder
            .ancestors()
            .find(|a| a.ends_with("testscripts") || a.ends_with("transcripts"));
        let (name, owner) = (
            beside.unwrap().file_name().unwrap(),
            beside.unwrap().parent().unwrap(),
        );
        let runs = |path: &PathBuf| {
            let text = fs::read_to_string(root().join(path)).unwrap_or_default();
            path.extension().is_some_and(|e| e == "rs") && text.contains(&*name.to_string_lossy())
        };
        let readers = files(owner.to_str().unwrap());
        if !readers.iter().any(runs) {
            problems.push(format!(
                "{}: no file of {} runs it",
                folder.display(),
                owner.display()
            ));
        }
    }
    problems.dedup();
    report(problems);
}

#[test]
fn paths_are_found_in_code() {
    let text = "use crate::raft::{Index, Term};\nuse crate::{\n    kv::{self, Store},\n    node,\n};\n\
                // crate::server\nlet x = crate::wire::decode(raftline::base::x);\n";
    let mut used = modules_used(text);
    used.sort();
    let expected = [(1, "raft"), (2, "kv"), (2, "node"), (7, "base"), (7, "wire")];
    assert_eq!(used, expected.map(|(line, name)| (line, name.to_string())));
    assert!(begins_function("    pub(crate) async fn f() {") && !begins_function("let fn_name = 1;"));
}
