//! Addresses as people write them: `host:port`.

use std::net::{Ipv6Addr, SocketAddr};

/// Whether this is `host:port` with a port of at least `port_min`; the host is a name, an IPv4 address, or an IPv6
/// address in brackets.
pub fn is_address(text: &str, port_min: u16) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let host_is_good = match host.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .is_some_and(|host| host.parse::<Ipv6Addr>().is_ok()),
        None => {
            (1..=253).contains(&host.len())
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte))
        }
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    host_is_good && digits && port.parse::<u16>().is_ok_and(|port| port >= port_min)
}

/// Whether the host is `0.0.0.0` or `[::]`, which one can listen on but not connect to.
pub fn is_unspecified(text: &str) -> bool {
    text.parse::<SocketAddr>()
        .is_ok_and(|address| address.ip().is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_and_what_is_none() {
        for good in ["h:1", "10.0.0.1:7239", "[::1]:65535", "a-b.c_d:7"] {
            assert!(is_address(good, 1), "{good}");
        }
        for bad in [
            "", "h", "h:", ":7", "h:0", "h:65536", "::1:7", "[x]:7", "[::1:7", "a b:7", "h:+7",
        ] {
            assert!(!is_address(bad, 1), "{bad}");
        }
        assert!(is_address("h:0", 0));
        assert!(is_unspecified("0.0.0.0:7") && is_unspecified("[::]:7") && !is_unspecified("h:7"));
    }
}
