//! Random conversations, from a seed. What `docs/protocol.md` says to be different on purpose is not asked for.

use raftline::base::rng::Rng;

/// What one connection sends in one piece. The commands of a step belong together.
#[derive(Clone, Debug)]
pub struct Step {
    /// 0 or 1.
    pub connection: usize,
    pub requests: Vec<Request>,
}

/// One command and how it is written.
#[derive(Clone, Debug)]
pub struct Request {
    pub words: Vec<Vec<u8>>,
    /// As a line, not as an array.
    pub is_line: bool,
}

/// Few, so that commands meet.
const KEYS: [&[u8]; 6] = [b"a", b"b", b"key:1", b"key:2", b"\0\xff\r\n", b"*"];
const VALUES: [&[u8]; 20] = [
    b"",
    b"0",
    b"1",
    b"-1",
    b"10",
    b"007",
    b" 1",
    b"1 ",
    b"+1",
    b"1.5",
    b"-0.25",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"9223372036854775808",
    b"hello",
    b"Hello World",
    b"\0\x01\xff\xfe",
    b"a\r\nb",
    b"nan",
    b"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz",
];
const INTEGERS: [&str; 14] = [
    "0",
    "1",
    "-1",
    "2",
    "5",
    "-3",
    "100",
    "9223372036854775807",
    "-9223372036854775808",
    "9223372036854775808",
    "abc",
    "",
    "1.0",
    "01",
];
/// Sums of these are exact in binary and in decimal.
const SMALL: [&str; 11] = [
    "0.5", "-0.25", "3", "1e2", "-1.5", "0", "1000000", "abc", "", "inf", "1 ",
];
const PATTERNS: [&[u8]; 12] = [
    b"*",
    b"a",
    b"key:*",
    b"key:?",
    b"key:[12]",
    b"key:[^1]",
    b"[a-b]",
    b"\\*",
    b"*1",
    b"?",
    b"",
    b"[",
];
const NAMES: [&str; 4] = ["app", "a-b.c", "", "two words"];

/// A generator of conversations.
pub struct Generator {
    rng: Rng,
    /// Which connections are between MULTI and EXEC.
    queueing: [bool; 2],
    /// How many times of life were given, so that no two are the same: the two servers count from two moments.
    lives: u64,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator {
            rng: Rng::new(seed),
            queueing: [false; 2],
            lives: 0,
        }
    }

    /// A conversation, which begins with connections and servers as they are at their start.
    pub fn conversation(&mut self) -> Vec<Step> {
        self.queueing = [false; 2];
        let steps = 4 + self.rng.below(20);
        let mut all: Vec<Step> = (0..2)
            .filter(|_| self.rng.one_in(4))
            .map(|at| Step {
                connection: at,
                requests: vec![resp(words(&["HELLO", "3"]))],
            })
            .collect();
        all.extend((0..steps).map(|_| self.step()));
        all
    }

    fn step(&mut self) -> Step {
        let connection = usize::from(self.rng.one_in(4));
        let commands = match self.rng.below(14) {
            0 | 1 => self.transaction(connection),
            2 => vec![self.of_connection(connection)],
            3 => self.decimals(connection),
            // Redis counts what has expired until it looks at it.
            4 if !self.queueing[connection] => vec![
                [&[b"TOUCH".to_vec()][..], &KEYS.map(<[u8]>::to_vec)].concat(),
                words(&["DBSIZE"]),
            ],
            _ => (0..1 + self.rng.below(3))
                .map(|_| self.command(connection))
                .collect(),
        };
        let requests = commands.into_iter().map(|words| self.written(words)).collect();
        Step { connection, requests }
    }

    /// A line where the words allow it; now and then a command in small letters.
    fn written(&mut self, mut words: Vec<Vec<u8>>) -> Request {
        if self.rng.one_in(8) {
            words[0].make_ascii_lowercase();
        }
        let is_line = self.rng.one_in(10) && words.iter().all(|word| !word.contains(&b'\n'));
        Request { words, is_line }
    }

    fn transaction(&mut self, connection: usize) -> Vec<Vec<Vec<u8>>> {
        let key = self.key();
        match (self.queueing[connection], self.rng.below(8)) {
            (true, 0) => vec![words(&["MULTI"])],
            (true, 1) => vec![vec![b"WATCH".to_vec(), key]],
            (true, 2) => vec![words(&["UNWATCH"])],
            (true, 3) => {
                self.queueing[connection] = false;
                vec![words(&["DISCARD"])]
            }
            (true, _) => {
                self.queueing[connection] = false;
                vec![words(&["EXEC"])]
            }
            (false, 0) => vec![words(&["EXEC"])],
            (false, 1) => vec![words(&["DISCARD"])],
            (false, 2) => vec![words(&["UNWATCH"])],
            // Only what is there is watched: of what is not, Redis takes other things for a change.
            (false, 3 | 4) => vec![
                vec![b"SET".to_vec(), key.clone(), b"watched".to_vec()],
                vec![b"WATCH".to_vec(), key],
            ],
            (false, _) => {
                self.queueing[connection] = true;
                vec![words(&["MULTI"])]
            }
        }
    }

    fn of_connection(&mut self, connection: usize) -> Vec<Vec<u8>> {
        let queueing = self.queueing[connection];
        match self.rng.below(if queueing { 4 } else { 15 }) {
            0 => words(&["PING"]),
            1 => vec![b"PING".to_vec(), self.value()],
            2 => vec![b"ECHO".to_vec(), self.value()],
            3 => words(&["SELECT", "0"]),
            4 => words(&["SELECT", "abc"]),
            5 => words(&["SELECT", "99"]),
            6 => words(&["CLIENT", "GETNAME"]),
            7 => words(&["CLIENT", "SETNAME", NAMES[self.rng.below(4) as usize]]),
            8 => words(&["HELLO", "2"]),
            9 => words(&["HELLO", "3", "SETNAME", NAMES[self.rng.below(4) as usize]]),
            10 => words(&["HELLO", ["1", "4", "x", "3 "][self.rng.below(4) as usize]]),
            11 => words(&["RESET"]),
            12 => words(&["READONLY", "x"]),
            13 => words(&["CLIENT", "NOSUCH"]),
            _ => words(&["CLIENT", "GETNAME", "x"]),
        }
    }

    fn command(&mut self, connection: usize) -> Vec<Vec<u8>> {
        let queueing = self.queueing[connection];
        match self.rng.below(40) {
            0 => return self.wrong(queueing),
            1 if !queueing => return self.walk(),
            _ => {}
        }
        // What is queued is right, for what is wrong in it is refused at another time than in Redis.
        let mut command = match self.rng.below(10) {
            0..=2 => self.write(queueing),
            3 => self.set(queueing),
            4 => self.number(queueing),
            5 | 6 => self.expiry(queueing),
            7 => self.many(),
            _ => self.read(queueing),
        };
        if !queueing && self.rng.one_in(20) {
            match self.rng.below(3) {
                0 => drop(command.pop()),
                1 => command.push(b"1".to_vec()),
                _ => command.push(b"XX".to_vec()),
            }
            if command.is_empty() || is_told_elsewhere(&command) {
                return words(&["PING"]);
            }
        }
        command
    }

    /// What no server takes, or nobody knows.
    fn wrong(&mut self, queueing: bool) -> Vec<Vec<u8>> {
        let value = VALUES[self.rng.below(11) as usize].to_vec();
        // Redis finds out about the last one when it is carried out.
        match self.rng.below(if queueing { 4 } else { 5 }) {
            0 => vec![b"NOSUCH".to_vec(), value, b"b".to_vec()],
            1 => words(&["nosuch"]),
            2 => words(&["GET"]),
            3 => words(&["SET", "a"]),
            _ => words(&["MSET", "a", "1", "b"]),
        }
    }

    fn walk(&mut self) -> Vec<Vec<u8>> {
        let pattern = self.pick(&PATTERNS).to_vec();
        match self.rng.below(9) {
            0..=2 => vec![b"KEYS".to_vec(), pattern],
            3 => words(&["SCAN", "0", "COUNT", "1000"]),
            4 => [words(&["SCAN", "0", "COUNT", "1000", "MATCH"]), vec![pattern]].concat(),
            5 => words(&["SCAN", "0", "TYPE", "string", "COUNT", "1000"]),
            6 => words(&["SCAN", ["x", "1x"][self.rng.below(2) as usize]]),
            7 => words(&["SCAN", "0", "COUNT", ["0", "-1", "x"][self.rng.below(3) as usize]]),
            _ => words(&[["FLUSHALL", "FLUSHDB"][self.rng.below(2) as usize]]),
        }
    }

    fn write(&mut self, queueing: bool) -> Vec<Vec<u8>> {
        let (key, value) = (self.key(), self.value());
        match self.rng.below(14) {
            0 => vec![b"SETNX".to_vec(), key, value],
            1 => vec![b"GETSET".to_vec(), key, value],
            2 | 3 => vec![b"APPEND".to_vec(), key, value],
            4 => vec![b"SETEX".to_vec(), key, self.seconds(queueing), value],
            5 => vec![b"PSETEX".to_vec(), key, self.milliseconds(queueing), value],
            6 => vec![b"SETRANGE".to_vec(), key, self.offset(queueing), value],
            7 => vec![b"GETDEL".to_vec(), key],
            8 => vec![b"RENAME".to_vec(), key, self.key()],
            9 => vec![b"RENAMENX".to_vec(), key, self.key()],
            10 => {
                let to = self.key();
                // A key to itself is found to be wrong when it is queued.
                if queueing && to == key {
                    return words(&["PING"]);
                }
                let mut copy = vec![b"COPY".to_vec(), key, to];
                if self.rng.one_in(2) {
                    copy.push(b"REPLACE".to_vec());
                }
                copy
            }
            11 => vec![b"DEL".to_vec(), key, self.key()],
            12 => vec![b"UNLINK".to_vec(), key],
            _ => vec![b"PERSIST".to_vec(), key],
        }
    }

    fn set(&mut self, queueing: bool) -> Vec<Vec<u8>> {
        let mut command = vec![b"SET".to_vec(), self.key(), self.value()];
        if !queueing && self.rng.one_in(4) {
            // Any options, also those that exclude each other.
            for option in ["NX", "XX", "GET", "KEEPTTL", "FOO"] {
                if self.rng.one_in(3) {
                    command.push(option.into());
                }
            }
        } else {
            for options in [&["NX", "XX"][..], &["GET"], &["KEEPTTL"]] {
                if self.rng.one_in(4) {
                    command.push(self.pick(options).as_bytes().to_vec());
                }
            }
        }
        if command.last().is_none_or(|last| last != b"KEEPTTL") && self.rng.one_in(2) {
            self.add_expiry(&mut command, queueing);
        }
        command
    }

    fn add_expiry(&mut self, command: &mut Vec<Vec<u8>>, queueing: bool) {
        let (option, moment) = match self.rng.below(4) {
            0 => ("EX", self.seconds(queueing)),
            1 => ("PX", self.milliseconds(queueing)),
            2 => ("EXAT", self.time(1, queueing)),
            _ => ("PXAT", self.time(1000, queueing)),
        };
        command.extend([option.into(), moment]);
    }

    fn number(&mut self, queueing: bool) -> Vec<Vec<u8>> {
        let key = self.key();
        let by = if queueing { "7" } else { self.pick(&INTEGERS) };
        match self.rng.below(4) {
            0 => vec![b"INCR".to_vec(), key],
            1 => vec![b"DECR".to_vec(), key],
            2 => vec![b"INCRBY".to_vec(), key, by.into()],
            _ => vec![b"DECRBY".to_vec(), key, by.into()],
        }
    }

    /// Small numbers, for of the sums of others Redis tells more digits, or fewer.
    fn decimals(&mut self, connection: usize) -> Vec<Vec<Vec<u8>>> {
        let (key, first) = (self.key(), self.pick(&SMALL).as_bytes().to_vec());
        let mut commands = vec![vec![b"SET".to_vec(), key.clone(), first]];
        for _ in 0..1 + self.rng.below(3) {
            let by = if self.queueing[connection] {
                "0.5"
            } else {
                self.pick(&SMALL)
            };
            commands.push(vec![b"INCRBYFLOAT".to_vec(), key.clone(), by.into()]);
        }
        commands
    }

    fn expiry(&mut self, queueing: bool) -> Vec<Vec<u8>> {
        let key = self.key();
        let name = ["EXPIRE", "PEXPIRE", "EXPIREAT", "PEXPIREAT"][self.rng.below(4) as usize];
        match self.rng.below(8) {
            0 => return vec![b"TTL".to_vec(), key],
            1 => return vec![b"PTTL".to_vec(), key],
            2 => return vec![b"EXPIRETIME".to_vec(), key],
            3 => return vec![b"PEXPIRETIME".to_vec(), key],
            4 => {
                let mut command = vec![b"GETEX".to_vec(), key];
                match self.rng.below(3) {
                    0 => {}
                    1 => command.push(b"PERSIST".to_vec()),
                    // Redis looks at the time when it has found the key.
                    _ => self.add_expiry(&mut command, true),
                }
                return command;
            }
            _ => {}
        }
        let moment = match name {
            "EXPIRE" => self.seconds(queueing),
            "PEXPIRE" => self.milliseconds(queueing),
            "EXPIREAT" => self.time(1, queueing),
            _ => self.time(1000, queueing),
        };
        let mut command = vec![name.into(), key, moment];
        if self.rng.one_in(3) {
            command.push(self.pick(&["NX", "XX", "GT", "LT"]).into());
        }
        if !queueing && self.rng.one_in(6) {
            command.push(self.pick(&["NX", "XX", "GT", "LT", "FOO"]).into());
        }
        command
    }

    fn many(&mut self) -> Vec<Vec<u8>> {
        let name = self.pick(&["MGET", "EXISTS", "TOUCH", "DEL", "MSET", "MSETNX"]);
        let mut command = vec![name.into()];
        for _ in 0..1 + self.rng.below(4) {
            command.push(self.key());
            if name.starts_with("MSET") {
                command.push(self.value());
            }
        }
        command
    }

    fn read(&mut self, queueing: bool) -> Vec<Vec<u8>> {
        let key = self.key();
        let mut integer = || {
            if queueing {
                "1".into()
            } else {
                self.pick(&INTEGERS).into()
            }
        };
        let (from, to): (Vec<u8>, Vec<u8>) = (integer(), integer());
        match self.rng.below(8) {
            0 | 1 => vec![b"GETRANGE".to_vec(), key, from, to],
            2 => vec![b"SUBSTR".to_vec(), key, from, to],
            3 => vec![b"STRLEN".to_vec(), key],
            4 => vec![b"TYPE".to_vec(), key],
            _ => vec![b"GET".to_vec(), key],
        }
    }

    fn key(&mut self) -> Vec<u8> {
        self.pick(&KEYS).to_vec()
    }

    fn value(&mut self) -> Vec<u8> {
        self.pick(&VALUES).to_vec()
    }

    fn offset(&mut self, queueing: bool) -> Vec<u8> {
        let offsets = ["0", "1", "5", "20", "-1", "abc"];
        self.pick(if queueing { &offsets[..4] } else { &offsets }).into()
    }

    /// A day or more, far apart; or what is no time that a key can have.
    fn seconds(&mut self, queueing: bool) -> Vec<u8> {
        let wrong = ["0", "-1", "abc", "9223372036854775807", "9223372036854775808"];
        match self.rng.below(5) {
            0 if !queueing => self.pick(&wrong).into(),
            _ => self.life_s().to_string().into(),
        }
    }

    fn life_s(&mut self) -> u64 {
        self.lives += 1;
        100_000 * (1 + self.rng.below(4)) + 10 * (self.lives % 400)
    }

    fn milliseconds(&mut self, queueing: bool) -> Vec<u8> {
        match self.rng.below(5) {
            0 if !queueing => self.pick(&["0", "-1", "abc", "9223372036854775808"]).into(),
            _ => (self.life_s() * 1000).to_string().into(),
        }
    }

    /// A time long past, or far in the future, in seconds times `unit`.
    fn time(&mut self, unit: u64, queueing: bool) -> Vec<u8> {
        match self.rng.below(8) {
            0 if !queueing => self.pick(&["0", "-1", "abc", "9223372036854775808"]).into(),
            1 => unit.to_string().into(),
            _ => (unit * (4_000_000_000 + self.rng.below(4))).to_string().into(),
        }
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.rng.below(from.len() as u64) as usize]
    }
}

/// Whether an option with an operand may be there twice now, or a word is where only one of ours could be.
fn is_told_elsewhere(command: &[Vec<u8>]) -> bool {
    let name = command[0].as_slice();
    name == b"HELLO" || name == b"FLUSHALL"
}

fn words(words: &[&str]) -> Vec<Vec<u8>> {
    words.iter().map(|word| word.as_bytes().to_vec()).collect()
}

fn resp(words: Vec<Vec<u8>>) -> Request {
    Request {
        words,
        is_line: false,
    }
}

impl Request {
    /// As it is sent.
    pub fn bytes(&self) -> Vec<u8> {
        if self.is_line {
            return [self.shown().as_bytes(), b"\r\n"].concat();
        }
        let mut out = format!("*{}\r\n", self.words.len()).into_bytes();
        for word in &self.words {
            out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            out.extend_from_slice(word);
            out.extend_from_slice(b"\r\n");
        }
        out
    }

    /// As a line in which every other byte than a letter or a digit is escaped or between quotes.
    pub fn shown(&self) -> String {
        let shown: Vec<String> = self.words.iter().map(|word| shown(word)).collect();
        shown.join(" ")
    }
}

fn shown(word: &[u8]) -> String {
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-+.:*?".contains(byte);
    if !word.is_empty() && word.iter().all(is_plain) {
        return String::from_utf8_lossy(word).into_owned();
    }
    let mut out = Vec::new();
    raftline::base::escape::quote(word, &mut out);
    String::from_utf8(out).unwrap()
}
