//! redis-rs with its default settings: redis-rs-client HOST PORT PROTOCOL basics|count.

use std::collections::HashSet;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;

use redis::{Client, Commands, Connection, ErrorKind, RedisResult, ServerErrorKind, cmd, pipe};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [host, port, protocol, what] = arguments.as_slice() else {
        panic!("HOST PORT PROTOCOL basics|count");
    };
    let client = Client::open(format!("redis://{host}:{port}/?protocol=resp{protocol}")).unwrap();
    let prefix = format!("redis-rs:{protocol}:");
    match what.as_str() {
        "basics" => basics(&client, &prefix).unwrap(),
        _ => count(&client, &prefix),
    }
}

fn basics(client: &Client, prefix: &str) -> RedisResult<()> {
    let mut connection = client.get_connection()?;
    values(&mut connection, prefix)?;
    pipelines(client, &mut connection, prefix)?;
    scans(&mut connection, prefix)?;
    errors(&mut connection, prefix)
}

fn values(connection: &mut Connection, prefix: &str) -> RedisResult<()> {
    let key = format!("{prefix}value");
    for value in [
        vec![],
        (0..=255).collect(),
        b"\r\n$-1\r\n".to_vec(),
        vec![b'x'; 500_000],
    ] {
        let () = connection.set(&key, &value)?;
        assert_eq!(connection.get::<_, Vec<u8>>(&key)?, value);
    }
    let absent = format!("{prefix}absent");
    assert_eq!(connection.get::<_, Option<String>>(&absent)?, None);
    assert!(!connection.set_nx::<_, _, bool>(&key, "no")?);
    let () = connection.set(&key, 1)?;
    assert_eq!(
        connection.mget::<_, Vec<Option<i64>>>(&[&key, &absent])?,
        [Some(1), None]
    );
    assert_eq!(connection.incr::<_, _, i64>(&key, 41)?, 42);
    assert!(connection.expire::<_, bool>(&key, 100)?);
    assert!((1..=100).contains(&connection.ttl::<_, i64>(&key)?));
    assert!(connection.persist::<_, bool>(&key)?);
    assert_eq!(connection.del::<_, i64>(&[&key, &absent])?, 1);
    Ok(())
}

fn pipelines(client: &Client, connection: &mut Connection, prefix: &str) -> RedisResult<()> {
    let key = format!("{prefix}piped");
    let mut pipeline = pipe();
    for n in 0..1000 {
        pipeline.set(&key, n).ignore().get(&key);
    }
    let replies: Vec<i64> = pipeline.query(connection)?;
    assert_eq!(replies, (0..1000).collect::<Vec<i64>>());
    let replies: (bool, i64, i64) = pipe()
        .atomic()
        .set(&key, 1)
        .incr(&key, 1)
        .get(&key)
        .query(connection)?;
    assert_eq!(replies, (true, 2, 2));
    let mut other = client.get_connection()?;
    let () = cmd("WATCH").arg(&key).query(connection)?;
    let () = other.set(&key, "another's")?;
    let refused: Option<(bool,)> = pipe().atomic().set(&key, "mine").query(connection)?;
    assert_eq!(refused, None);
    assert_eq!(other.get::<_, String>(&key)?, "another's");
    Ok(())
}

fn scans(connection: &mut Connection, prefix: &str) -> RedisResult<()> {
    let pairs: Vec<(String, i64)> = (0..300).map(|n| (format!("{prefix}scan:{n}"), n)).collect();
    let () = connection.mset(&pairs)?;
    let found: RedisResult<HashSet<String>> = connection.scan_match(format!("{prefix}scan:*"))?.collect();
    assert_eq!(found?, pairs.into_iter().map(|(key, _)| key).collect());
    Ok(())
}

fn errors(connection: &mut Connection, prefix: &str) -> RedisResult<()> {
    let key = format!("{prefix}text");
    let () = connection.set(&key, "text")?;
    let is_refusal = |reply: RedisResult<i64>, part: &str| {
        let error = reply.unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Server(ServerErrorKind::ResponseError),
            "{error}"
        );
        assert!(error.to_string().contains(part), "{error}");
    };
    is_refusal(connection.incr(&key, 1), "not an integer");
    is_refusal(cmd("NOSUCH").query(connection), "unknown command");
    Ok(())
}

/// Counts until its input ends, plain and under ONCE; prints how often it was answered, and how often not.
/// This library connects once: connecting again is its user's.
fn count(client: &Client, prefix: &str) {
    static ENDED: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).ok();
        ENDED.store(true, SeqCst);
    });
    let mut connection = None;
    let mut call = |words: &[&str]| -> RedisResult<i64> {
        let mut connected = match connection.take() {
            Some(connected) => connected,
            None => client.get_connection()?,
        };
        let reply = cmd(words[0]).arg(&words[1..]).query(&mut connected);
        let is_lost = |error: &redis::RedisError| error.is_io_error() || error.is_unrecoverable_error();
        if !reply.as_ref().is_err_and(is_lost) {
            connection = Some(connected);
        }
        reply
    };
    let (mut plain, mut once, mut errors) = (0, 0, 0);
    while !ENDED.load(SeqCst) {
        match call(&["INCR", &format!("{prefix}plain")]) {
            Ok(_) => plain += 1,
            Err(_) => errors += 1,
        }
        let token = format!("{prefix}{}", once + 1);
        while call(&["ONCE", &token, "INCR", &format!("{prefix}once")]).is_err() {
            errors += 1;
        }
        once += 1;
    }
    println!("{{\"plain\": {plain}, \"once\": {once}, \"errors\": {errors}}}");
}
