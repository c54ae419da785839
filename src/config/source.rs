//! Where values come from: a tree of items, each with its key and its place, and the list of what is wrong.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::ConfigError;

/// Variables that begin so and contain [`SEPARATOR`] set keys.
const PREFIX: &str = "RAFTLINE_";
/// What stands between section and key in a variable's name.
const SEPARATOR: &str = "__";

/// Where a value stands. Orders as problems are shown: by line, then the environment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// The file as a whole.
    File,
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
}

/// A TOML value that knows where its parts stand.
#[derive(Clone, Debug)]
enum Value {
    String(String),
    /// Digits and radix.
    Integer(String, u32),
    Float(String),
    Boolean(bool),
    Datetime(String),
    /// Elements, each after where it stands.
    List(Vec<(Range<usize>, Value)>),
    /// Keys, where they stand, and their values.
    Table(Vec<(String, Range<usize>, Value)>),
}

/// A value with its key and place.
#[derive(Clone, Debug)]
pub(super) struct Item {
    /// The whole key: `raft.max_inflight`, `cluster.members[2].id`.
    pub key: String,
    place: Place,
    /// `None` for a variable that is no TOML value; it can still be a bare string.
    value: Option<Value>,
    /// A variable's text.
    raw: Option<String>,
}

/// The keys of one table, as yet unread.
#[derive(Debug)]
pub(super) struct Table {
    key: String,
    place: Place,
    items: BTreeMap<String, Item>,
}

/// The file, the environment, and what was found wrong with them.
pub(super) struct Source {
    file: String,
    line_ends: Vec<usize>,
    root: Table,
    /// By section and key.
    environment: BTreeMap<(String, String), Item>,
    /// Where each key that was read stands, for checks across keys.
    places: BTreeMap<String, Place>,
    problems: Vec<(Place, String)>,
}

impl Source {
    /// Parses the file and picks the variables that set keys.
    pub(super) fn new(
        file: &str,
        text: &str,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Source, ConfigError> {
        let mut source = Source {
            file: file.into(),
            line_ends: text.match_indices('\n').map(|(at, _)| at).collect(),
            root: Table {
                key: String::new(),
                place: Place::File,
                items: BTreeMap::new(),
            },
            environment: environment
                .into_iter()
                .filter_map(|(name, value)| variable(name, value))
                .collect(),
            places: BTreeMap::new(),
            problems: Vec::new(),
        };
        match DeTable::parse(text) {
            Ok(table) => {
                let table = Value::table(table.get_ref());
                source.root.items = source.items("", &Place::File, &table);
                Ok(source)
            }
            Err(error) => {
                let place = error.span().map_or(Place::File, |span| source.line(&span));
                let text = format!("this is not TOML: {}", error.message());
                source.problems.push((place, text));
                Err(ConfigError {
                    problems: source.into_problems(),
                })
            }
        }
    }

    /// Takes a section with its variables; `known` are the keys it may have.
    pub(super) fn section(&mut self, name: &str, known: &[&str]) -> Table {
        let mut table = match self.root.items.remove(name) {
            None => Table {
                key: name.into(),
                place: Place::File,
                items: BTreeMap::new(),
            },
            Some(item) => self.table(&item, known).unwrap_or(Table {
                key: name.into(),
                place: item.place,
                items: BTreeMap::new(),
            }),
        };
        for key in known {
            if let Some(item) = self.environment.remove(&(name.into(), (*key).into())) {
                table.items.insert((*key).into(), item);
            }
        }
        table
    }

    /// The keys of an item that must be a table with no key but the `known` ones.
    pub(super) fn table(&mut self, item: &Item, known: &[&str]) -> Option<Table> {
        let Some(Value::Table(table)) = &item.value else {
            self.refuse(item, &format!("a table with the keys {}", known.join(", ")));
            return None;
        };
        let (items, unknown): (BTreeMap<_, _>, BTreeMap<_, _>) = self
            .items(&item.key, &item.place, table)
            .into_iter()
            .partition(|(key, _)| known.contains(&key.as_str()));
        for item in unknown.into_values() {
            let text = format!("{}: unknown key, expected one of {}", item.key, known.join(", "));
            self.problems.push((item.place, text));
        }
        Some(Table {
            key: item.key.clone(),
            place: item.place.clone(),
            items,
        })
    }

    /// The elements of an item that must be a list.
    pub(super) fn list(&mut self, item: &Item, expected: &str) -> Option<Vec<Item>> {
        let Some(Value::List(elements)) = &item.value else {
            self.refuse(item, expected);
            return None;
        };
        let numbered = elements.iter().enumerate();
        Some(
            numbered
                .map(|(at, (span, value))| {
                    let key = format!("{}[{}]", item.key, at + 1);
                    self.item(key, &item.place, span, value)
                })
                .collect(),
        )
    }

    /// Reads a key; `None` where it is absent, or wrong and complained of.
    pub(super) fn read<T>(
        &mut self,
        table: &mut Table,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Item) -> Option<T>,
    ) -> Option<T> {
        let item = self.take(table, key)?;
        let value = read(&item);
        if value.is_none() {
            self.refuse(&item, expected);
        }
        value
    }

    /// Reads a key that must be there.
    pub(super) fn require<T>(
        &mut self,
        table: &mut Table,
        key: &str,
        expected: &str,
        read: impl FnOnce(&Item) -> Option<T>,
    ) -> Option<T> {
        if table.items.contains_key(key) {
            self.read(table, key, expected, read)
        } else {
            self.miss(table, key, expected);
            None
        }
    }

    /// Takes a key as it is.
    pub(super) fn take(&mut self, table: &mut Table, key: &str) -> Option<Item> {
        let item = table.items.remove(key)?;
        self.places.insert(item.key.clone(), item.place.clone());
        Some(item)
    }

    /// Complains that a key is not there.
    pub(super) fn miss(&mut self, table: &Table, key: &str, expected: &str) {
        let text = format!("{}.{key}: missing, expected {expected}", table.key);
        self.problems.push((table.place.clone(), text));
    }

    /// Complains of an item.
    pub(super) fn refuse(&mut self, item: &Item, expected: &str) {
        let text = format!("{}: found {item}, expected {expected}", item.key);
        self.problems.push((item.place.clone(), text));
    }

    /// Complains of a whole table.
    pub(super) fn refuse_table(&mut self, table: &Table, found: &str, expected: &str) {
        let text = format!("{}: found {found}, expected {expected}", table.key);
        self.problems.push((table.place.clone(), text));
    }

    /// Complains of a key that was read, or that has its default.
    pub(super) fn refuse_key(&mut self, key: &str, found: &str, expected: &str) {
        let section = key.split('.').next().unwrap_or(key);
        let place = self.places.get(key).or_else(|| self.places.get(section));
        let place = place.cloned().unwrap_or(Place::File);
        self.problems
            .push((place, format!("{key}: found {found}, expected {expected}")));
    }

    /// Complains of what nobody asked for: sections and variables that are not `known`.
    pub(super) fn refuse_rest(&mut self, known: &[&str]) {
        for (name, item) in std::mem::take(&mut self.root.items) {
            let text = format!("{name}: unknown section, expected one of {}", known.join(", "));
            self.problems.push((item.place, text));
        }
        for ((section, key), item) in std::mem::take(&mut self.environment) {
            let text = format!("unknown variable: the configuration has no key {section}.{key}");
            self.problems.push((item.place, text));
        }
    }

    /// Whether a section is in the file or a variable sets a key of it.
    pub(super) fn has_section(&self, name: &str) -> bool {
        self.root.items.contains_key(name) || self.environment.keys().any(|(section, _)| section == name)
    }

    /// Whether anything was wrong so far.
    pub(super) fn is_wrong(&self) -> bool {
        !self.problems.is_empty()
    }

    /// What is wrong, in the order of the file.
    pub(super) fn into_problems(mut self) -> Vec<String> {
        self.problems.sort_by(|a, b| a.0.cmp(&b.0));
        let file = &self.file;
        self.problems
            .iter()
            .map(|(place, text)| match place {
                Place::File => format!("{file}: {text}"),
                Place::Line(line) => format!("{file}:{line}: {text}"),
                Place::Variable(name) => format!("environment variable {name}: {text}"),
            })
            .collect()
    }

    fn items(
        &self,
        parent: &str,
        place: &Place,
        table: &[(String, Range<usize>, Value)],
    ) -> BTreeMap<String, Item> {
        table
            .iter()
            .map(|(name, span, value)| {
                let key = match parent {
                    "" => name.clone(),
                    _ => format!("{parent}.{name}"),
                };
                (name.clone(), self.item(key, place, span, value))
            })
            .collect()
    }

    /// An item inside one at `parent`: on its own line, but all of a variable is that variable.
    fn item(&self, key: String, parent: &Place, span: &Range<usize>, value: &Value) -> Item {
        let place = match parent {
            Place::Variable(_) => parent.clone(),
            Place::File | Place::Line(_) => self.line(span),
        };
        Item {
            key,
            place,
            value: Some(value.clone()),
            raw: None,
        }
    }

    fn line(&self, span: &Range<usize>) -> Place {
        Place::Line(1 + self.line_ends.partition_point(|end| *end < span.start))
    }
}

impl Value {
    fn table(table: &DeTable<'_>) -> Vec<(String, Range<usize>, Value)> {
        let keys = table.iter();
        keys.map(|(key, value)| {
            (
                key.get_ref().to_string(),
                key.span(),
                Value::from(value.get_ref()),
            )
        })
        .collect()
    }
}

impl From<&DeValue<'_>> for Value {
    fn from(value: &DeValue<'_>) -> Value {
        match value {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Integer(number) => Value::Integer(number.as_str().into(), number.radix()),
            DeValue::Float(number) => Value::Float(number.as_str().into()),
            DeValue::Boolean(value) => Value::Boolean(*value),
            DeValue::Datetime(value) => Value::Datetime(value.to_string()),
            DeValue::Array(array) => {
                let elements = array.iter();
                Value::List(elements.map(|e| (e.span(), Value::from(e.get_ref()))).collect())
            }
            DeValue::Table(table) => Value::Table(Value::table(table)),
        }
    }
}

impl Item {
    /// A string; a variable may give it bare.
    pub(super) fn string(&self) -> Option<&str> {
        match &self.value {
            Some(Value::String(text)) => Some(text),
            _ => self.raw.as_deref(),
        }
    }

    /// A whole number from 0.
    pub(super) fn integer(&self) -> Option<u64> {
        match &self.value {
            Some(Value::Integer(digits, radix)) => u64::from_str_radix(digits, *radix).ok(),
            _ => None,
        }
    }

    /// A number, with or without a fraction.
    pub(super) fn number(&self) -> Option<f64> {
        match &self.value {
            Some(Value::Integer(number, 10) | Value::Float(number)) => number.parse().ok(),
            _ => None,
        }
    }

    /// True or false.
    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.value {
            Some(Value::Boolean(value)) => Some(*value),
            _ => None,
        }
    }
}

/// The value as a message shows it.
impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.value {
            Some(Value::String(text)) => write!(f, "{text:?}"),
            Some(Value::Integer(text, _) | Value::Float(text) | Value::Datetime(text)) => f.write_str(text),
            Some(Value::Boolean(value)) => value.fmt(f),
            Some(Value::List(_)) => f.write_str("a list"),
            Some(Value::Table(_)) => f.write_str("a table"),
            None => write!(f, "{:?}", self.raw.as_deref().unwrap_or_default()),
        }
    }
}

/// The item that a variable sets, by section and key; `None` for variables that mean something else.
fn variable(name: String, raw: String) -> Option<((String, String), Item)> {
    let (section, key) = name.strip_prefix(PREFIX)?.split_once(SEPARATOR)?;
    let (section, key) = (section.to_ascii_lowercase(), key.to_ascii_lowercase());
    let value = DeValue::parse(&raw).ok();
    let value = value.map(|value| Value::from(value.get_ref()));
    let item = Item {
        key: format!("{section}.{key}"),
        place: Place::Variable(name),
        value,
        raw: Some(raw),
    };
    Some(((section, key), item))
}
