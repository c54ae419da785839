//! Redis glob patterns: `*`, `?`, `[abc]`, `[a-z]`, `[^a]`, and `\` before a byte that stands for itself.
//!
//! On bytes, and with the corners of Redis 7's `stringmatchlen`: a `]` right after `[` ends an empty class,
//! which matches nothing; a class that is never closed ends with the pattern; the ends of a range may be
//! given in either order; a `\` that is the last byte stands for itself.
//!
//! Redis once took exponential time for patterns of many stars (CVE-2022-36021). Here only the last star
//! seen is ever tried again, which is enough, because the shortest match of everything before it leaves
//! the most for what follows. The time is at most (length of the text)² / 4 steps, whatever the pattern.

/// A pattern, made ready once to be matched against many texts.
#[derive(Clone, Debug)]
pub struct Glob {
    tokens: Vec<Token>,
    /// How many bytes a text must have: one for each token that is not a star.
    least: usize,
}

#[derive(Clone, Debug)]
enum Token {
    /// `*`: any bytes, also none. Never two in a row.
    Star,
    /// `?`: any one byte.
    Any,
    /// This byte.
    Byte(u8),
    /// One byte of a set.
    Class(Box<Class>),
}

/// A set of bytes: bit `b % 64` of word `b / 64`.
#[derive(Clone, Debug, Default)]
struct Class([u64; 4]);

impl Glob {
    /// Reads a pattern; every byte string is one.
    pub fn new(pattern: &[u8]) -> Glob {
        let mut tokens = Vec::with_capacity(pattern.len().min(64));
        let mut rest = pattern;
        while let Some((&first, after)) = rest.split_first() {
            rest = after;
            let token = match first {
                b'*' if matches!(tokens.last(), Some(Token::Star)) => continue,
                b'*' => Token::Star,
                b'?' => Token::Any,
                b'[' => {
                    let (class, after) = Class::parse(rest);
                    rest = after;
                    Token::Class(Box::new(class))
                }
                b'\\' => match rest.split_first() {
                    Some((&escaped, after)) => {
                        rest = after;
                        Token::Byte(escaped)
                    }
                    None => Token::Byte(b'\\'),
                },
                byte => Token::Byte(byte),
            };
            tokens.push(token);
        }
        let least = tokens.iter().filter(|t| !matches!(t, Token::Star)).count();
        Glob { tokens, least }
    }

    /// Whether the whole text matches.
    pub fn matches(&self, text: &[u8]) -> bool {
        if text.len() < self.least {
            return false;
        }
        let (mut token, mut at) = (0, 0);
        // After the last star seen: the token behind it, and where in the text to try that one next.
        let mut retry: Option<(usize, usize)> = None;
        // What the tokens behind the last star need at least; fewer bytes than that left is the end.
        let mut needed = self.least;
        loop {
            match (self.tokens.get(token), text.get(at)) {
                (None, None) => return true,
                (Some(Token::Star), _) => {
                    let since_last_star = token - retry.map_or(0, |(behind, _)| behind);
                    needed = needed.saturating_sub(since_last_star);
                    token += 1;
                    retry = Some((token, at));
                    if token == self.tokens.len() {
                        return true;
                    }
                }
                (Some(one), Some(&byte)) if one.takes(byte) => {
                    token += 1;
                    at += 1;
                }
                _ => {
                    let Some((behind, from)) = retry else {
                        return false;
                    };
                    let from = from + 1;
                    if text.len().saturating_sub(from) < needed {
                        return false;
                    }
                    (token, at) = (behind, from);
                    retry = Some((behind, from));
                }
            }
        }
    }

    /// The bytes that every matching text begins with.
    pub fn prefix(&self) -> Vec<u8> {
        let bytes = self.tokens.iter().map_while(|token| match token {
            Token::Byte(byte) => Some(*byte),
            _ => None,
        });
        bytes.collect()
    }
}

impl Token {
    /// Whether this is a token for one byte, and for this one.
    fn takes(&self, byte: u8) -> bool {
        match self {
            Token::Star => false,
            Token::Any => true,
            Token::Byte(expected) => *expected == byte,
            Token::Class(class) => class.contains(byte),
        }
    }
}

impl Class {
    /// Reads what follows a `[`; also gives what comes after the class.
    fn parse(pattern: &[u8]) -> (Class, &[u8]) {
        let (negated, mut rest) = match pattern.split_first() {
            Some((b'^', after)) => (true, after),
            _ => (false, pattern),
        };
        let mut class = Class::default();
        loop {
            rest = match rest {
                [] => break,
                [b'\\', escaped, after @ ..] => {
                    class.insert(*escaped, *escaped);
                    after
                }
                [b']', after @ ..] => {
                    rest = after;
                    break;
                }
                [from, b'-', to, after @ ..] => {
                    class.insert(*from.min(to), *from.max(to));
                    after
                }
                [byte, after @ ..] => {
                    class.insert(*byte, *byte);
                    after
                }
            };
        }
        if negated {
            class.0 = class.0.map(|word| !word);
        }
        (class, rest)
    }

    fn insert(&mut self, from: u8, to: u8) {
        for byte in from..=to {
            if let Some(word) = self.0.get_mut(usize::from(byte / 64)) {
                *word |= 1 << (byte % 64);
            }
        }
    }

    fn contains(&self, byte: u8) -> bool {
        let word = self.0.get(usize::from(byte / 64)).copied().unwrap_or(0);
        (word >> (byte % 64)) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::rng::Rng;

    #[test]
    fn table() {
        let rows: &[(&str, &str, bool)] = &[
            ("", "", true),
            ("", "a", false),
            ("a", "", false),
            ("*", "", true),
            ("*", "anything", true),
            ("**", "x", true),
            ("a*", "a", true),
            ("a*", "ba", false),
            ("*a", "ba", true),
            ("*a", "ab", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyyd", false),
            ("*ab", "aab", true),
            ("*aab*b", "aaabb", true),
            ("h?llo", "hello", true),
            ("h?llo", "hllo", false),
            ("h[ae]llo", "hallo", true),
            ("h[ae]llo", "hillo", false),
            ("h[^e]llo", "hallo", true),
            ("h[^e]llo", "hello", false),
            ("h[a-c]llo", "hbllo", true),
            ("h[c-a]llo", "hbllo", true),
            ("h[a-c]llo", "hdllo", false),
            ("[a\\-c]", "-", true),
            ("[a\\-c]", "b", false),
            ("[\\]]", "]", true),
            ("[]", "]", false),
            ("[]a", "a", false),
            ("[^]a", "xa", true),
            ("[ab", "b", true),
            ("[ab", "c", false),
            ("[", "[", false),
            ("[^", "x", true),
            ("[a-", "-", true),
            ("[a-]", "]", true),
            ("[a-]", "_", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("\\", "\\", true),
            ("a\\", "a\\", true),
            ("\\?a", "?a", true),
            ("*\\", "x\\", true),
            ("user:*:name", "user:1:2:name", true),
            ("user:*:name", "user:1:nam", false),
        ];
        for (pattern, text, expected) in rows {
            let found = Glob::new(pattern.as_bytes()).matches(text.as_bytes());
            assert_eq!(found, *expected, "{pattern} against {text}");
        }
        assert!(Glob::new(b"[\x80-\xff]").matches(b"\xc3"));
        assert!(!Glob::new(b"[^\x80-\xff]").matches(b"\xc3"));
    }

    #[test]
    fn a_prefix_is_what_stands_before_the_first_choice() {
        for (pattern, expected) in [
            ("user:*", "user:"),
            ("a\\*b?", "a*b"),
            ("*", ""),
            ("abc", "abc"),
            ("[a]b", ""),
        ] {
            assert_eq!(Glob::new(pattern.as_bytes()).prefix(), expected.as_bytes());
        }
    }

    /// Would take longer than the age of the universe if stars were tried in all combinations.
    #[test]
    fn pathological_patterns_end() {
        let text = vec![b'a'; 4096];
        let stars = b"a*".repeat(2000);
        assert!(!Glob::new(&[&stars, &b"b"[..]].concat()).matches(&text));
        assert!(Glob::new(&stars).matches(&text));
        let classes = b"*[a-z]".repeat(2000);
        assert!(!Glob::new(&[&classes, &b"[^a]"[..]].concat()).matches(&text));
        let half = [&b"*"[..], &[b'a'; 2048], b"b"].concat();
        assert!(!Glob::new(&half).matches(&text));
        assert!(Glob::new(&[b'*'; 1 << 20]).matches(&text));
        assert!(!Glob::new(&[b'?'; 1 << 20]).matches(&text));
    }

    /// The plain definition, exponential and all.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern, text) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => (0..=text.len()).any(|skip| naive(rest, &text[skip..])),
            ([b'?', rest @ ..], [_, after @ ..]) => naive(rest, after),
            ([byte, rest @ ..], [first, after @ ..]) => byte == first && naive(rest, after),
            _ => false,
        }
    }

    #[test]
    fn agrees_with_the_plain_definition() {
        let mut rng = Rng::new(1);
        for _ in 0..20_000 {
            let mut word = |letters: &[u8], most: u64| -> Vec<u8> {
                let length = rng.below(most);
                let mut letter = || letters[rng.below(letters.len() as u64) as usize];
                (0..length).map(|_| letter()).collect()
            };
            let (pattern, text) = (word(b"ab*?", 8), word(b"ab", 10));
            assert_eq!(
                Glob::new(&pattern).matches(&text),
                naive(&pattern, &text),
                "{pattern:?} {text:?}"
            );
        }
    }
}
