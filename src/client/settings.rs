//! CONFIG GET and SET: what can be seen of the configuration by Redis's names and by those of the file, and what can be
//! changed while the node runs. What is changed so holds until the node stops: the configuration is a file.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use super::reply::{Response, value};
use super::table::err;
use super::{Options, Service, slowlog};
use crate::base::glob::Glob;
use crate::kv::{Error, Reply};

/// The longest idle timeout, Redis's.
const TIMEOUT_MAX_S: u64 = i32::MAX as u64;

/// The options that can change while the node runs.
#[derive(Debug)]
pub(crate) struct Settings {
    max_connections: AtomicUsize,
    idle_timeout_ms: AtomicU64,
}

impl Settings {
    /// As the options say.
    pub(crate) fn new(options: &Options) -> Settings {
        let idle_timeout_ms = u64::try_from(options.idle_timeout.as_millis()).unwrap_or(u64::MAX);
        Settings {
            max_connections: AtomicUsize::new(options.max_connections),
            idle_timeout_ms: AtomicU64::new(idle_timeout_ms),
        }
    }

    /// `limits.max_connections`, or what CONFIG SET maxclients made of it.
    pub(crate) fn max_connections(&self) -> usize {
        self.max_connections.load(Ordering::Relaxed)
    }

    /// `limits.idle_timeout`, or what CONFIG SET timeout made of it; zero is never.
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms.load(Ordering::Relaxed))
    }
}

/// One setting.
struct Setting {
    /// Redis's name for it, or the section and key of the file.
    name: &'static str,
    /// What it is now.
    get: Get,
    /// Changes it; says what is wrong with the value. `None`: it can't change while the node runs.
    set: Option<Set>,
}

const fn fixed(name: &'static str, get: Get) -> Setting {
    Setting { name, get, set: None }
}

/// In the order of CONFIG GET.
const SETTINGS: &[Setting] = &[
    fixed("appendfsync", |service| fsync(service, "always", "no")),
    fixed("appendonly", |_| "yes".into()),
    fixed("cluster-enabled", |_| "no".into()),
    fixed("databases", |_| "1".into()),
    fixed("latency-tracking", |_| "yes".into()),
    fixed("limits.idle_timeout", |service| {
        format!("{}ms", service.settings.idle_timeout().as_millis())
    }),
    fixed("limits.max_connections", |service| {
        service.settings.max_connections().to_string()
    }),
    fixed("limits.max_memory", |service| {
        service.options.max_memory_bytes.to_string()
    }),
    fixed("limits.max_pending", |service| {
        service.options.max_pending.to_string()
    }),
    fixed("limits.max_request", |service| {
        service.options.max_request_bytes.to_string()
    }),
    fixed("limits.request_timeout", |service| {
        format!("{}ms", service.options.request_timeout.as_millis())
    }),
    Setting {
        name: "maxclients",
        get: |service| service.settings.max_connections().to_string(),
        set: Some(set_max_connections),
    },
    fixed("maxmemory", |service| {
        service.options.max_memory_bytes.to_string()
    }),
    fixed("maxmemory-policy", |_| "noeviction".into()),
    fixed("port", |service| service.options.tcp_port.to_string()),
    fixed("proto-max-bulk-len", |service| {
        service.options.max_request_bytes.to_string()
    }),
    fixed("save", |_| String::new()),
    Setting {
        name: "slowlog-log-slower-than",
        get: |service| {
            let threshold = service.slowlog().threshold_micros;
            threshold.map_or("-1".into(), |micros| micros.to_string())
        },
        set: Some(|service, micros| {
            service.slowlog().threshold_micros = u64::try_from(micros).ok();
            Ok(())
        }),
    },
    Setting {
        name: "slowlog-max-len",
        get: |service| service.slowlog().len_max().to_string(),
        set: Some(|service, len| match usize::try_from(len) {
            Ok(len) if len <= slowlog::LEN_MAX => {
                service.slowlog().set_len_max(len);
                Ok(())
            }
            _ => Err("argument must be between 0 and 4096"),
        }),
    },
    fixed("storage.fsync", |service| fsync(service, "true", "false")),
    fixed("tcp-keepalive", |_| {
        super::accept::KEEPALIVE.as_secs().to_string()
    }),
    Setting {
        name: "timeout",
        get: |service| service.settings.idle_timeout().as_secs().to_string(),
        set: Some(|service, seconds| match u64::try_from(seconds) {
            Ok(seconds) if seconds <= TIMEOUT_MAX_S => {
                let ms = &service.settings.idle_timeout_ms;
                ms.store(seconds * 1000, Ordering::Relaxed);
                Ok(())
            }
            _ => Err("argument must be between 0 and 2147483647"),
        }),
    },
];

fn fsync(service: &Service, on: &str, off: &str) -> String {
    if service.options.fsync { on } else { off }.into()
}

/// What the file allowed is the upper bound: file descriptors were provided for so many.
fn set_max_connections(service: &Service, count: i64) -> Result<(), &'static str> {
    match usize::try_from(count) {
        Ok(count @ 1..) if count <= service.options.max_connections => {
            service.settings.max_connections.store(count, Ordering::Relaxed);
            Ok(())
        }
        _ => Err("argument must be between 1 and limits.max_connections of the configuration file"),
    }
}

/// CONFIG GET: the settings whose names match one of the patterns, which are in small letters.
pub(crate) fn matching(service: &Service, patterns: &[Vec<u8>]) -> Response {
    let globs: Vec<Glob> = patterns.iter().map(|pattern| Glob::new(pattern)).collect();
    let is_asked = |setting: &&Setting| globs.iter().any(|glob| glob.matches(setting.name.as_bytes()));
    let found = SETTINGS.iter().filter(is_asked);
    Response::map(found.map(|setting| (setting.name, value((setting.get)(service)))))
}

/// CONFIG SET: all of them, or none.
///
/// # Errors
/// As Redis says it: which setting could not be set, and why. None was.
pub(crate) fn set(service: &Service, pairs: &[(String, String)]) -> Result<Reply, Error> {
    let settings: Vec<_> = pairs
        .iter()
        .map(|(name, _)| changeable(name))
        .collect::<Result<_, _>>()?;
    let mut before = Vec::new();
    for ((get, set), (name, text)) in settings.into_iter().zip(pairs) {
        before.push((set, get(service)));
        if let Err(why) = set_to(service, set, text) {
            for (set, old) in before.into_iter().rev() {
                // It was taken before, so it is taken again.
                let _ = set_to(service, set, &old);
            }
            return Err(failure(name, why));
        }
    }
    Ok(Reply::Ok)
}

type Get = fn(&Service) -> String;
type Set = fn(&Service, i64) -> Result<(), &'static str>;

/// How the setting of this name is read and changed.
fn changeable(name: &str) -> Result<(Get, Set), Error> {
    let Some(setting) = SETTINGS.iter().find(|setting| setting.name == name) else {
        let text = format!("Unknown option or number of arguments for CONFIG SET - '{name}'");
        return Err(err(text));
    };
    let why = "it can't change while the node runs: change it in the configuration file and restart the node";
    let set = setting.set.ok_or_else(|| failure(name, why))?;
    Ok((setting.get, set))
}

fn set_to(service: &Service, set: Set, text: &str) -> Result<(), &'static str> {
    let number = text
        .parse()
        .map_err(|_| "argument couldn't be parsed into an integer")?;
    set(service, number)
}

fn failure(name: &str, why: &str) -> Error {
    err(format!(
        "CONFIG SET failed (possibly related to argument '{name}') - {why}"
    ))
}
