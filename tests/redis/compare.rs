//! When two replies are the same.

use crate::Reply;
use crate::generate::Request;

/// How far two times that are told may be apart, in seconds: the two servers were not asked at the same moment.
/// Times that are set are further apart.
const SLACK_S: i64 = 5_000;

/// Whether ours is what Redis answers.
pub fn alike(request: &Request, theirs: &Reply, ours: &Reply) -> bool {
    let name = request.words[0].to_ascii_uppercase();
    let theirs = &if request.is_line {
        as_line(theirs)
    } else {
        theirs.clone()
    };
    if theirs == ours {
        return true;
    }
    match name.as_slice() {
        b"TTL" | b"EXPIRETIME" => close(theirs, ours, SLACK_S),
        b"PTTL" | b"PEXPIRETIME" => close(theirs, ours, SLACK_S * 1000),
        b"KEYS" | b"SCAN" => sorted(theirs) == sorted(ours) || same_error(theirs, ours),
        b"EXEC" => same_list(theirs, ours),
        b"SET" => same_error(theirs, ours) || is_other_mistake(theirs, ours),
        b"HELLO" => same_greeting(theirs, ours) || same_error(theirs, ours),
        _ => same_error(theirs, ours),
    }
}

/// A syntax error says more here than there.
fn same_error(theirs: &Reply, ours: &Reply) -> bool {
    match (theirs, ours) {
        (Reply::Line(b'-', theirs), Reply::Line(b'-', ours)) => {
            theirs == b"ERR syntax error" && ours.starts_with(b"ERR syntax error")
        }
        _ => false,
    }
}

/// Of a wrong number and a wrong word ours tells the first, and Redis the word.
fn is_other_mistake(theirs: &Reply, ours: &Reply) -> bool {
    let is = |reply: &Reply, text: &str| *reply == Reply::Line(b'-', text.into());
    is(theirs, "ERR syntax error")
        && (is(ours, "ERR value is not an integer or out of range")
            || is(ours, "ERR invalid expire time in 'set' command"))
}

fn close(theirs: &Reply, ours: &Reply, slack: i64) -> bool {
    let number = |reply: &Reply| match reply {
        Reply::Line(b':', text) => String::from_utf8_lossy(text).parse::<i64>().ok(),
        _ => None,
    };
    match (number(theirs), number(ours)) {
        (Some(theirs), Some(ours)) => theirs > 0 && ours > 0 && (theirs - ours).abs() <= slack,
        _ => same_error(theirs, ours),
    }
}

/// What the commands of a transaction were answered. Times in milliseconds are the only large numbers in it.
fn same_list(theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::List(b'*', theirs), Reply::List(b'*', ours)) = (theirs, ours) else {
        return false;
    };
    let same = |(theirs, ours): (&Reply, &Reply)| {
        theirs == ours || close(theirs, ours, SLACK_S) || close_ms(theirs, ours)
    };
    theirs.len() == ours.len() && theirs.iter().zip(ours).all(same)
}

fn close_ms(theirs: &Reply, ours: &Reply) -> bool {
    matches!(theirs, Reply::Line(b':', text) if text.len() > 8) && close(theirs, ours, SLACK_S * 1000)
}

/// Server, version and the connection's number are one's own.
fn same_greeting(theirs: &Reply, ours: &Reply) -> bool {
    let (Reply::List(kind, theirs), Reply::List(other, ours)) = (theirs, ours) else {
        return false;
    };
    let names = |pairs: &[Reply]| pairs.iter().step_by(2).cloned().collect::<Vec<_>>();
    let protocol = |pairs: &[Reply]| pairs.get(5).cloned();
    kind == other && names(theirs) == names(ours) && protocol(theirs) == protocol(ours)
}

/// Keys in one order, wherever they are in the reply.
fn sorted(reply: &Reply) -> Reply {
    match reply {
        Reply::List(kind, items) => {
            let mut items: Vec<Reply> = items.iter().map(sorted).collect();
            items.sort_by_key(|item| format!("{item:?}"));
            Reply::List(*kind, items)
        }
        other => other.clone(),
    }
}

/// A reply of Redis as the line dialect writes it.
fn as_line(reply: &Reply) -> Reply {
    match reply {
        Reply::Bulk(_, bytes) => {
            let mut line = Vec::new();
            raftline::base::escape::escape(bytes, &mut line);
            Reply::Line(b'+', line)
        }
        Reply::Null(_) => Reply::Null(b'_'),
        Reply::List(_, items) => Reply::List(b'*', items.iter().map(as_line).collect()),
        line => line.clone(),
    }
}

/// For people.
pub fn shown(reply: &Reply) -> String {
    match reply {
        Reply::Line(kind, text) => format!("{}{}", char::from(*kind), text.escape_ascii()),
        Reply::Bulk(kind, bytes) => format!("{}\"{}\"", char::from(*kind), bytes.escape_ascii()),
        Reply::Null(kind) => format!("{}nothing", char::from(*kind)),
        Reply::List(kind, items) => {
            let items: Vec<String> = items.iter().map(shown).collect();
            format!("{}[{}]", char::from(*kind), items.join(" "))
        }
    }
}
