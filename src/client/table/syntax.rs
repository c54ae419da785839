//! The arguments of a command, as `COMMAND DOCS` tells them to programs, read from the syntax of its row.
//!
//! A syntax is words between blanks. A word in capitals is written as it is; one in small letters stands for a value.
//! `[…]` may be left out, `a|b` is one of them, and `…` repeats what stands before it in the same brackets.

use std::iter::{Copied, Peekable};
use std::slice;

use crate::client::reply::{Response, value};
use crate::kv::Reply;

/// One argument.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Argument {
    /// `key`, `string`, `integer`, `pure-token`, `oneof` or `block`, as Redis names them.
    kind: &'static str,
    name: String,
    /// The word in capitals before the value, or the word itself.
    token: Option<String>,
    is_optional: bool,
    repeats: bool,
    /// What it consists of.
    parts: Vec<Argument>,
}

/// The arguments in this syntax, as `COMMAND DOCS` lists them.
pub(super) fn arguments(syntax: &str) -> Response {
    Response::List(parse(syntax).iter().map(describe).collect())
}

fn parse(syntax: &str) -> Vec<Argument> {
    let spaced = syntax.replace('[', " [ ").replace(']', " ] ").replace('|', " | ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    sequence(&mut words.iter().copied().peekable())
}

type Words<'a> = Peekable<Copied<slice::Iter<'a, &'a str>>>;

/// What stands before the next closing bracket, or the end.
fn sequence(words: &mut Words<'_>) -> Vec<Argument> {
    let mut all = Vec::new();
    while let Some(word) = words.next() {
        match word {
            "]" => break,
            "…" => {
                if let Some(last) = all.last_mut() {
                    let last: &mut Argument = last;
                    last.repeats = true;
                }
            }
            "|" => {}
            word => all.push(choice(word, words)),
        }
    }
    all
}

/// One argument, or several of which one is to be chosen.
fn choice(word: &str, words: &mut Words<'_>) -> Argument {
    let mut parts = vec![single(word, words)];
    while words.next_if_eq(&"|").is_some() {
        let Some(word) = words.next() else { break };
        parts.push(single(word, words));
    }
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        last => {
            parts.extend(last);
            let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
            Argument {
                kind: "oneof",
                name: names.join("-or-"),
                parts,
                ..Argument::default()
            }
        }
    }
}

/// What is in brackets, a word with its value, or a value.
fn single(word: &str, words: &mut Words<'_>) -> Argument {
    if word == "[" {
        let mut parts = sequence(words);
        let inner = match parts.pop() {
            Some(only) if parts.is_empty() => only,
            last => {
                parts.extend(last);
                Argument {
                    kind: "block",
                    name: parts.first().map(|part| part.name.clone()).unwrap_or_default(),
                    parts,
                    ..Argument::default()
                }
            }
        };
        return Argument {
            is_optional: true,
            ..inner
        };
    }
    if is_value(word) {
        return value_of(word);
    }
    let token = Some(word.to_owned());
    match words.next_if(|next| is_value(next)) {
        Some(next) => Argument {
            token,
            ..value_of(next)
        },
        None => Argument {
            kind: "pure-token",
            name: word.to_ascii_lowercase(),
            token,
            ..Argument::default()
        },
    }
}

fn is_value(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
}

fn value_of(name: &str) -> Argument {
    let kind = match name {
        "key" => "key",
        "n" | "s" | "ms" | "id" | "count" | "cursor" | "seconds" | "milliseconds" => "integer",
        "pattern" => "pattern",
        _ => "string",
    };
    Argument {
        kind,
        name: name.into(),
        ..Argument::default()
    }
}

fn describe(argument: &Argument) -> Response {
    let mut fields: Vec<(&'static str, Response)> = vec![
        ("name", value(argument.name.as_str()).into()),
        ("type", value(argument.kind).into()),
    ];
    if argument.kind == "key" {
        fields.push(("key_spec_index", Reply::Integer(0).into()));
    }
    if let Some(token) = &argument.token {
        fields.push(("token", value(token.as_str()).into()));
    }
    let flags = [(argument.is_optional, "optional"), (argument.repeats, "multiple")];
    let flags = flags.into_iter().filter(|(is_set, _)| *is_set);
    let flags: Vec<Response> = flags.map(|(_, flag)| Reply::Text(flag.into()).into()).collect();
    if !flags.is_empty() {
        fields.push(("flags", Response::Set(flags)));
    }
    if !argument.parts.is_empty() {
        let parts = argument.parts.iter().map(describe);
        fields.push(("arguments", Response::List(parts.collect())));
    }
    Response::map(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The arguments as a text: `kind name`, a token before it, `?` optional, `…` repeats.
    fn shown(syntax: &str) -> String {
        let all = parse(syntax);
        all.iter().map(show).collect::<Vec<_>>().join(", ")
    }

    fn show(argument: &Argument) -> String {
        let parts: Vec<String> = argument.parts.iter().map(show).collect();
        let inner = if parts.is_empty() {
            argument.name.clone()
        } else {
            format!("({})", parts.join(" "))
        };
        let token = argument
            .token
            .as_ref()
            .map(|token| format!("{token} "))
            .unwrap_or_default();
        let optional = if argument.is_optional { "?" } else { "" };
        let repeats = if argument.repeats { "…" } else { "" };
        format!("{token}{}:{inner}{optional}{repeats}", argument.kind)
    }

    #[test]
    fn syntaxes_become_arguments() {
        assert_eq!(shown(""), "");
        assert_eq!(shown("key value"), "key:key, string:value");
        assert_eq!(shown("key …"), "key:key…");
        assert_eq!(
            shown("key [NX|XX|IFEQ old] [EX s|KEEPTTL] [GET]"),
            "key:key, oneof:(NX pure-token:nx XX pure-token:xx IFEQ string:old)?, \
             oneof:(EX integer:s KEEPTTL pure-token:keepttl)?, GET pure-token:get?"
        );
        assert_eq!(
            shown("[2|3 [SETNAME name]]"),
            "block:(oneof:(string:2 string:3) SETNAME string:name?)?"
        );
        assert_eq!(shown("[a [b"), "block:(string:a string:b?)?");
        assert_eq!(shown("] | …"), "");
    }
}
