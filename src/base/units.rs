//! Durations ("150ms", "1h30m") and sizes ("64MiB") as people write them.
//!
//! Printing and parsing are inverse: what [`duration`] or [`size`] prints, [`parse_duration`] or
//! [`parse_size`] reads as the same value.

use std::time::Duration;

/// Names and nanoseconds of the units of time, largest first.
const TIME_UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Names and bytes of the units of size that are printed, largest first.
const SIZE_UNITS: [(&str, u64); 5] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

/// Names and bytes of the units of size that are read too: the powers of ten.
const DECIMAL_UNITS: [(&str, u64); 4] = [
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// Reads a duration: whole numbers, each with its unit (`d h m s ms us ns`), largest unit first, or a bare `0`.
/// `None` if it is anything else or does not fit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut total_ns: u128 = 0;
    let mut unit_before = u128::MAX;
    while !rest.is_empty() {
        let (number, after) = leading_number(rest)?;
        let unit_len = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (name, next) = after.split_at(unit_len);
        let &(_, unit_ns) = TIME_UNITS.iter().find(|(unit, _)| *unit == name)?;
        if unit_ns >= unit_before {
            return None;
        }
        unit_before = unit_ns;
        total_ns = total_ns.checked_add(u128::from(number).checked_mul(unit_ns)?)?;
        rest = next;
    }
    let seconds = u64::try_from(total_ns / 1_000_000_000).ok()?;
    let nanos = u32::try_from(total_ns % 1_000_000_000).ok()?;
    (!text.is_empty()).then(|| Duration::new(seconds, nanos))
}

/// Prints a duration as [`parse_duration`] reads it: `1h30m`, `150ms`, `0s`.
pub fn duration(value: Duration) -> String {
    let mut rest_ns = value.as_nanos();
    let mut text = String::new();
    for (name, unit_ns) in TIME_UNITS {
        let count = rest_ns / unit_ns;
        if count > 0 {
            text.push_str(&format!("{count}{name}"));
            rest_ns %= unit_ns;
        }
    }
    if text.is_empty() {
        text.push_str("0s");
    }
    text
}

/// Reads a size in bytes: a whole number and its unit (`B KiB MiB GiB TiB`, or `kB MB GB TB` for powers of ten);
/// without a unit it is bytes. `None` if it is anything else or does not fit.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, name) = leading_number(text)?;
    let name = name.strip_prefix(' ').unwrap_or(name);
    let unit_bytes = match name {
        "" => 1,
        _ => {
            SIZE_UNITS
                .iter()
                .chain(&DECIMAL_UNITS)
                .find(|(unit, _)| *unit == name)?
                .1
        }
    };
    number.checked_mul(unit_bytes)
}

/// Prints a size as [`parse_size`] reads it, in the largest unit that divides it: `64MiB`, `1500B`, `0`.
pub fn size(bytes: u64) -> String {
    match SIZE_UNITS
        .iter()
        .find(|(_, unit_bytes)| bytes > 0 && bytes.is_multiple_of(*unit_bytes))
    {
        Some((name, unit_bytes)) => format!("{}{name}", bytes / unit_bytes),
        None => "0".into(),
    }
}

/// The digits at the start as a number, and what follows them.
fn leading_number(text: &str) -> Option<(u64, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, rest) = text.split_at(end);
    Some((digits.parse().ok()?, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_and_printed() {
        for (text, ms, printed) in [
            ("150ms", 150, "150ms"),
            ("2s", 2_000, "2s"),
            ("1h", 3_600_000, "1h"),
            ("1h30m", 5_400_000, "1h30m"),
            ("90m", 5_400_000, "1h30m"),
            ("1500ms", 1_500, "1s500ms"),
            ("0", 0, "0s"),
            ("0s", 0, "0s"),
            ("36h", 129_600_000, "1d12h"),
            ("1000us", 1, "1ms"),
        ] {
            let value = parse_duration(text).expect(text);
            assert_eq!(value, Duration::from_millis(ms), "{text}");
            assert_eq!(duration(value), printed, "{text}");
            assert_eq!(parse_duration(printed), Some(value), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "5",
            "ms",
            "-1s",
            "1.5s",
            "1 s",
            "s1",
            "1s1s",
            "1ms1s",
            "1y",
            "1S",
            "99999999999999999999s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_read_and_printed() {
        for (text, bytes, printed) in [
            ("0", 0, "0"),
            ("0MiB", 0, "0"),
            ("64MiB", 64 << 20, "64MiB"),
            ("1024", 1024, "1KiB"),
            ("1500", 1500, "1500B"),
            ("1500B", 1500, "1500B"),
            ("1 GiB", 1 << 30, "1GiB"),
            ("1MB", 1_000_000, "1000000B"),
            ("1536KiB", 1536 << 10, "1536KiB"),
            ("2048GiB", 2 << 40, "2TiB"),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(size(bytes), printed, "{text}");
            assert_eq!(parse_size(printed), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in [
            "",
            "MiB",
            "-1",
            "1.5MiB",
            "1mib",
            "1M",
            "1K",
            "99999999TiB",
            "1  KiB",
            "1KiB ",
        ] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
