//! The numbers of INCRBYFLOAT: decimals with 17 digits behind the point, added exactly.
//!
//! Redis adds in the C compiler's `long double` and prints 17 digits behind the point, so that 0.1 and 0.2 make
//! 0.3. Replicas must agree to the last digit whatever they run on, so here the decimals themselves are added:
//! the same where Redis shows what a user expects, and without the noise where Redis shows some (1000 and 0.1
//! make 1000.1, not 1000.09999999999999998). In exchange a number has at most 21 digits before the point.

use std::fmt;

/// Digits behind the point; what is behind them is rounded away.
const PLACES: i64 = 17;

/// Digits before the point, at most.
const WHOLE_DIGITS_MAX: i64 = 21;

/// One, as a count of 10^-17.
const ONE: u128 = 10u128.pow(PLACES as u32);

/// The first number that is too large; it fits into 127 bits.
const LIMIT: u128 = ONE * 10u128.pow(WHOLE_DIGITS_MAX as u32);

/// A decimal, as a count of 10^-17.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal(i128);

/// Why a text is no decimal, or a sum is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NoDecimal {
    /// It is no number.
    Malformed,
    /// It is infinite.
    Infinite,
    /// It has too many digits before the point.
    TooLarge,
}

impl NoDecimal {
    /// The sentence for the client, Redis's where it has one.
    pub(super) fn text(self) -> &'static str {
        match self {
            NoDecimal::Malformed => "value is not a valid float",
            NoDecimal::Infinite => "increment would produce NaN or Infinity",
            NoDecimal::TooLarge => "a float has at most 21 digits before the point",
        }
    }
}

impl Decimal {
    pub(super) const ZERO: Decimal = Decimal(0);

    /// The number in a text as C's `strtold` reads it, but neither blanks in front nor hexadecimal.
    pub(super) fn parse(text: &[u8]) -> Result<Decimal, NoDecimal> {
        let (negative, rest) = match text.split_first() {
            Some((b'-', rest)) => (true, rest),
            Some((b'+', rest)) => (false, rest),
            _ => (false, text),
        };
        if [&b"inf"[..], b"infinity"]
            .iter()
            .any(|word| rest.eq_ignore_ascii_case(word))
        {
            return Err(NoDecimal::Infinite);
        }
        let (mantissa, exponent) = match split_at_byte(rest, |byte| matches!(byte, b'e' | b'E')) {
            (mantissa, Some(exponent)) => (mantissa, parse_exponent(exponent)?),
            (mantissa, None) => (mantissa, 0),
        };
        let (whole, fraction) = split_at_byte(mantissa, |byte| byte == b'.');
        let fraction = fraction.unwrap_or_default();
        let mut digits = whole.iter().chain(fraction);
        if whole.is_empty() && fraction.is_empty() || !digits.clone().all(u8::is_ascii_digit) {
            return Err(NoDecimal::Malformed);
        }
        // How many of the digits stand before the point.
        let mut point = exponent.saturating_add(whole.len() as i64);
        while digits.clone().next() == Some(&b'0') {
            digits.next();
            point -= 1;
        }
        let units = count_units(digits.map(|digit| u128::from(digit - b'0')), point)?;
        let units = i128::try_from(units).map_err(|_| NoDecimal::TooLarge)?;
        in_range(if negative { -units } else { units })
    }

    /// The exact sum.
    pub(super) fn add(self, other: Decimal) -> Result<Decimal, NoDecimal> {
        in_range(self.0.saturating_add(other.0))
    }
}

fn in_range(units: i128) -> Result<Decimal, NoDecimal> {
    if units.unsigned_abs() < LIMIT {
        Ok(Decimal(units))
    } else {
        Err(NoDecimal::TooLarge)
    }
}

/// No exponent, no zeros at the end, no zero with a minus: what Redis stores.
impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sign, units) = (if self.0 < 0 { "-" } else { "" }, self.0.unsigned_abs());
        write!(f, "{sign}{}", units / ONE)?;
        let fraction = format!("{:017}", units % ONE);
        match fraction.trim_end_matches('0') {
            "" => Ok(()),
            digits => write!(f, ".{digits}"),
        }
    }
}

/// The digits, of which the first is no zero and `point` stand before the point, in units of 10^-17.
fn count_units(mut digits: impl Iterator<Item = u128> + Clone, point: i64) -> Result<u128, NoDecimal> {
    if digits.clone().next().is_none() {
        return Ok(0);
    }
    if point > WHOLE_DIGITS_MAX {
        return Err(NoDecimal::TooLarge);
    }
    let Ok(kept) = usize::try_from(point + PLACES) else {
        return Ok(0);
    };
    let mut units = 0;
    for _ in 0..kept {
        units = units * 10 + digits.next().unwrap_or(0);
    }
    Ok(units + u128::from(digits.next() >= Some(5)))
}

/// A sign and digits; one that no 64 bits hold is as good as the largest that they do.
fn parse_exponent(text: &[u8]) -> Result<i64, NoDecimal> {
    let (negative, digits) = match text.split_first() {
        Some((b'-', digits)) => (true, digits),
        Some((b'+', digits)) => (false, digits),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(NoDecimal::Malformed);
    }
    let number = digits.iter().fold(0i64, |number, digit| {
        number.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
    });
    // Half of the range is left for the number of digits.
    let number = number.min(i64::MAX / 2);
    Ok(if negative { -number } else { number })
}

/// What is before the first such byte, and behind it if there is one.
fn split_at_byte(text: &[u8], is_it: impl Fn(u8) -> bool) -> (&[u8], Option<&[u8]>) {
    let mut parts = text.splitn(2, |byte| is_it(*byte));
    (parts.next().unwrap_or_default(), parts.next())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Decimal::parse(text.as_bytes()).map_or_else(|error| format!("{error:?}"), |number| number.to_string())
    }

    fn sum(a: &str, b: &str) -> String {
        let (a, b) = (
            Decimal::parse(a.as_bytes()).unwrap(),
            Decimal::parse(b.as_bytes()).unwrap(),
        );
        assert_eq!(a.add(b), b.add(a));
        a.add(b)
            .map_or_else(|error| format!("{error:?}"), |number| number.to_string())
    }

    #[test]
    fn texts_are_read_as_redis_reads_them() {
        for (text, expected) in [
            ("0", "0"),
            ("-0.0", "0"),
            ("+1", "1"),
            ("007", "7"),
            (".5", "0.5"),
            ("5.", "5"),
            ("-5.0e3", "-5000"),
            ("2E-2", "0.02"),
            ("1e+20", "100000000000000000000"),
            ("0e99999999999999999999", "0"),
            ("1e-99999999999999999999", "0"),
            ("1e-20", "0"),
            ("4e-18", "0"),
            ("5e-18", "0.00000000000000001"),
            ("0.123456789012345678", "0.12345678901234568"),
            ("0.00000000000000000000000000001e29", "1"),
            ("999999999999999999999", "999999999999999999999"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
        for text in [
            "", "+", "-", ".", "e5", "1e", "1e+", "1e1.0", "1 ", " 1", "1,5", "--1", "1.2.3", "0x10", "nan",
            "x",
        ] {
            assert_eq!(shown(text), "Malformed", "{text:?}");
        }
        for text in ["inf", "-INF", "+Infinity"] {
            assert_eq!(shown(text), "Infinite", "{text:?}");
        }
        for text in [
            "1e21",
            "-1000000000000000000000",
            "999999999999999999999.999999999999999999",
            "1e99999999999999999999",
        ] {
            assert_eq!(shown(text), "TooLarge", "{text:?}");
        }
    }

    #[test]
    fn sums_are_exact() {
        for (a, b, expected) in [
            ("0.1", "0.2", "0.3"),
            ("10.5", "0.1", "10.6"),
            ("1000", "0.1", "1000.1"),
            ("5.0e3", "2.0e2", "5200"),
            ("1", "-1.1", "-0.1"),
            ("1.1", "-1.1", "0"),
            ("-1.5", "-1.5", "-3"),
            ("17179869184", "1.5", "17179869185.5"),
            ("999999999999999999999", "1", "TooLarge"),
            ("-999999999999999999999", "-999999999999999999999", "TooLarge"),
        ] {
            assert_eq!(sum(a, b), expected, "{a} + {b}");
        }
    }
}
