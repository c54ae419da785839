//! The fenced blocks of a page.

use std::fs;
use std::path::Path;

/// One block.
pub struct Block {
    /// The page.
    pub page: String,
    /// The number of its first line in the page.
    pub line: usize,
    /// What it says behind the fence.
    pub kind: String,
    /// Its lines.
    pub lines: Vec<String>,
}

/// The blocks of a page, in order.
pub fn blocks(page: &str) -> Vec<Block> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = fs::read_to_string(&path).unwrap();
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (number, line) in (1..).zip(text.lines()) {
        match line.strip_prefix("```") {
            Some("") if is_open => is_open = false,
            Some(kind) => {
                assert!(
                    !is_open && !kind.is_empty(),
                    "{page}:{number}: what kind of block is it?"
                );
                is_open = true;
                blocks.push(Block {
                    page: page.to_owned(),
                    line: number + 1,
                    kind: kind.to_owned(),
                    lines: Vec::new(),
                });
            }
            None if is_open => blocks.last_mut().unwrap().lines.push(line.to_owned()),
            None => {}
        }
    }
    assert!(!is_open, "{page}: the last block has no end");
    blocks
}

impl Block {
    /// Where it stands.
    pub fn place(&self) -> String {
        format!("{}:{}", self.page, self.line)
    }

    /// A transcript as the runner takes it, its lines numbered as in the page.
    pub fn conversation(&self) -> String {
        conversation(self, self.lines.iter().cloned())
    }

    /// A session with a program as the runner takes it: what begins as a reply does, or is said by the program
    /// itself, must come, and all else is typed.
    pub fn dialog(&self) -> String {
        let is_reply = |line: &str| {
            let own = ["Trying ", "Connected to ", "Escape character is "];
            line.starts_with(['+', '-', ':', '_', '*', '>']) || own.iter().any(|own| line.starts_with(own))
        };
        let lines = self.lines.iter().enumerate().map(|(at, line)| match line {
            _ if at == 0 => "# the program's own line".to_owned(),
            line if is_reply(line) => format!("< {line}"),
            line => format!("> {line}"),
        });
        conversation(self, lines)
    }
}

/// Numbers that the node chooses are given names, and the lines their numbers in the page.
fn conversation(block: &Block, lines: impl Iterator<Item = String>) -> String {
    let mut text = "\n".repeat(block.line - 1);
    let mut known: Vec<String> = Vec::new();
    for mut line in lines {
        for number in &known {
            line = line.replace(number.as_str(), &format!("{{{number}}}"));
        }
        match line.strip_prefix("< :47") {
            Some(rest) if rest.len() == 2 => {
                known.push(format!("47{rest}"));
                text.push_str(&format!(":= 47{rest}\n"));
            }
            _ => text.push_str(&format!("{line}\n")),
        }
    }
    text
}
