//! Whole connections against a fake node.

use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::client::Options;
use crate::client::fake::Fake;

fn fake() -> Fake {
    Fake::start(Options::default(), Duration::ZERO)
}

async fn read_line(stream: &mut (impl AsyncReadExt + Unpin)) -> String {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.push(stream.read_u8().await.unwrap());
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).unwrap()
}

#[tokio::test]
async fn half_closing_clients_get_every_answer() {
    let fake = fake();
    assert_eq!(fake.talk("SET a 1\nGET a\nGET b\n").await, "+OK\r\n+1\r\n_\r\n");
    assert_eq!(
        fake.talk("PING\nGET a").await,
        "+PONG\r\n-ERR the last line does not end with a line feed; it was not executed\r\n"
    );
    assert_eq!(fake.talk("").await, "");
    assert_eq!(fake.talk("*2\r\n$3\r\nGET\r\n").await, "");
}

#[tokio::test]
async fn pipelines_keep_the_order_of_the_program() {
    let mut fake = Fake::start(Options::default(), Duration::from_millis(5));
    let input = "SET a 1\nINCR a\nINCR a\nPING\nGET a\nSTRLEN a\nSET a x\nGET a\nECHO hi\n";
    assert_eq!(
        fake.talk(input).await,
        "+OK\r\n:2\r\n:3\r\n+PONG\r\n+3\r\n:1\r\n+OK\r\n+x\r\n+hi\r\n"
    );
    let mut batches = Vec::new();
    while let Ok(size) = fake.batches.try_recv() {
        batches.push(size);
    }
    assert_eq!(batches, [3, 2, 1, 1], "runs of one kind travel together");
}

#[tokio::test]
async fn more_requests_than_may_be_under_way() {
    let fake = fake();
    let input = "INCR n\n".repeat(5000);
    let output = fake.talk(input).await;
    assert_eq!(output.lines().count(), 5000);
    assert!(output.ends_with(":5000\r\n"));
}

#[tokio::test]
async fn each_reply_comes_in_the_dialect_of_its_request() {
    let fake = fake();
    let resp = "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$2\r\nx\n\r\n";
    assert_eq!(
        fake.talk(format!(
            "{resp}GET a\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n"
        ))
        .await,
        "+OK\r\n+x\\n\r\n$2\r\nx\n\r\n$-1\r\n"
    );
    let hello = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";
    let output = fake
        .talk(format!("{hello}*2\r\n$3\r\nGET\r\n$1\r\nb\r\nHELLO 9\n"))
        .await;
    assert!(
        output.starts_with("%7\r\n$6\r\nserver\r\n$5\r\nredis\r\n"),
        "{output}"
    );
    assert!(output.contains("$5\r\nproto\r\n:3\r\n"));
    assert!(
        output.ends_with("*0\r\n_\r\n-NOPROTO unsupported protocol version\r\n"),
        "{output}"
    );
}

#[tokio::test]
async fn lists_of_keys() {
    let fake = fake();
    fake.talk("MSET a 1 ab 2 b 3 c 4\n").await;
    assert_eq!(fake.talk("RANGE a b\n").await, "*4\r\n+a\r\n+1\r\n+ab\r\n+2\r\n");
    assert_eq!(
        fake.talk("RANGE a z KEYS LIMIT 3\n").await,
        "*3\r\n+a\r\n+ab\r\n+b\r\n"
    );
    assert_eq!(fake.talk("RANGE b a\n").await, "*0\r\n");
    assert_eq!(fake.talk("PREFIX a KEYS\n").await, "*2\r\n+a\r\n+ab\r\n");
    assert_eq!(fake.talk("KEYS *b\n").await, "*2\r\n+ab\r\n+b\r\n");
    assert_eq!(
        fake.talk("SCAN 0 COUNT 100 MATCH a*\n").await,
        "*2\r\n+0\r\n*2\r\n+a\r\n+ab\r\n"
    );
    assert_eq!(fake.talk("SCAN 0 TYPE hash\n").await, "*2\r\n+0\r\n*0\r\n");
    assert_eq!(fake.talk("DBSIZE\n").await, ":4\r\n");
}

#[tokio::test]
async fn long_walks_count_first_and_give_every_key() {
    let fake = fake();
    let keys: Vec<String> = (0..5000).map(|k| format!("key:{k:05}")).collect();
    for piece in keys.chunks(500) {
        let pairs: Vec<String> = piece.iter().map(|key| format!("{key} v")).collect();
        assert_eq!(fake.talk(format!("MSET {}\n", pairs.join(" "))).await, "+OK\r\n");
    }
    let output = fake.talk("KEYS *\nPING\n").await;
    let expected: String = keys.iter().map(|key| format!("+{key}\r\n")).collect();
    assert_eq!(output, format!("*5000\r\n{expected}+PONG\r\n"));
    let output = fake.talk("PREFIX key: LIMIT 2000\n").await;
    assert!(output.starts_with("*4000\r\n+key:00000\r\n+v\r\n"));
    assert_eq!(output.lines().count(), 4001);
    assert_eq!(fake.talk("KEYS *77\n").await.lines().count(), 51);
    // SCAN in steps, while keys that were seen go away.
    let (mut cursor, mut seen) = ("0".to_string(), Vec::new());
    loop {
        let output = fake.talk(format!("SCAN {cursor} COUNT 700\n")).await;
        let mut lines = output.lines();
        assert_eq!(lines.next(), Some("*2"));
        cursor = lines.next().unwrap()[1..].to_string();
        let step: Vec<String> = lines.skip(1).map(|key| key[1..].to_string()).collect();
        fake.talk(format!("DEL {}\n", step.join(" "))).await;
        seen.extend(step);
        if cursor == "0" {
            break;
        }
    }
    assert_eq!(seen, keys);
    assert!(
        fake.talk("SCAN 17\n")
            .await
            .starts_with("-ERR this node does not know that cursor")
    );
}

#[tokio::test]
async fn errors_keep_or_close_the_connection_as_they_should() {
    let fake = fake();
    let output = fake.talk("GET \"a\nFOO\nGET\nPING\n").await;
    let lines: Vec<&str> = output.lines().collect();
    assert!(lines[0].starts_with("-ERR unbalanced quotes in request: the quote at column 5"));
    assert!(lines[1].starts_with("-ERR unknown command 'FOO'"));
    assert_eq!(lines[2], "-ERR wrong number of arguments for 'get' command");
    assert_eq!(lines[3], "+PONG");
    for closing in ["GET / HTTP/1.1\r\n", "Host: a\r\n", "*1\r\nx\r\n", "\x16\x03\x01"] {
        let output = fake.talk(format!("PING\n{closing}PING\n")).await;
        assert!(output.starts_with("+PONG\r\n-ERR "), "{output}");
        assert_eq!(output.lines().count(), 2, "{output}");
    }
    assert_eq!(fake.talk("QUIT\nPING\n").await, "+OK\r\n");
}

#[tokio::test]
async fn the_limit_of_a_request() {
    let fake = fake();
    let value = "x".repeat((1 << 20) - 6);
    assert_eq!(
        fake.talk(format!("SET a {value}\nSTRLEN a\n")).await,
        "+OK\r\n:1048570\r\n"
    );
    let output = fake.talk(format!("SET a {value}x\nPING\n")).await;
    assert_eq!(
        output,
        "-ERR the line is longer than 1048576 bytes (limits.max_request)\r\n"
    );
    // A line without an end is refused while it arrives, and the client can read why.
    let mut client = fake.connect();
    let mut refused = false;
    for _ in 0..40 {
        if client.write_all(&[b'x'; 1 << 16]).await.is_err() {
            refused = true;
            break;
        }
    }
    assert!(
        refused
            || read_line(&mut client)
                .await
                .starts_with("-ERR the line is longer")
    );
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_cut_and_bounded() {
    let options = Options {
        stall_timeout: Duration::from_millis(50),
        ..Options::default()
    };
    let fake = Fake::start(options, Duration::ZERO);
    let value = "x".repeat(60_000);
    fake.talk(format!("SET a {value}\n")).await;
    let mut client = fake.connect_with(4096);
    let request = "GET a\n".repeat(500);
    let ended = timeout(Duration::from_secs(5), async {
        while client.write_all(request.as_bytes()).await.is_ok() {}
    });
    assert!(ended.await.is_ok(), "the server closes the connection");
    assert_eq!(fake.service.counters().connections(), 0);
}

#[tokio::test]
async fn idle_clients_are_closed() {
    let options = Options {
        idle_timeout: Duration::from_millis(30),
        ..Options::default()
    };
    let fake = Fake::start(options, Duration::ZERO);
    let mut client = fake.connect();
    client.write_all(b"PING\n").await.unwrap();
    assert_eq!(read_line(&mut client).await, "+PONG");
    let end = timeout(Duration::from_secs(5), client.read(&mut [0; 10])).await;
    assert_eq!(end.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_client_can_be_killed_and_hears_its_own_end() {
    let fake = fake();
    let mut victim = fake.connect();
    victim.write_all(b"CLIENT ID\n").await.unwrap();
    assert_eq!(read_line(&mut victim).await, ":1");
    assert_eq!(fake.talk("CLIENT KILL ID 1\n").await, ":1\r\n");
    assert_eq!(victim.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(fake.service.counters().killed(), 1);
    let output = fake.talk("CLIENT KILL TYPE normal SKIPME no\nPING\n").await;
    assert_eq!(output, ":1\r\n", "what follows is not served");
}

#[tokio::test]
async fn the_idle_timeout_can_change_while_the_node_runs() {
    let fake = fake();
    assert_eq!(fake.talk("CONFIG SET timeout 1\n").await, "+OK\r\n");
    let mut client = fake.connect();
    let end = timeout(Duration::from_secs(20), client.read(&mut [0; 10])).await;
    assert_eq!(end.unwrap().unwrap(), 0);
    assert_eq!(fake.service.counters().idle_closed(), 1);
}

/// While others hold more than all may together, small requests are served, large ones refused or not read.
#[tokio::test]
async fn all_connections_together_have_a_bound() {
    let options = Options {
        buffered_max_bytes: 100_000,
        stall_timeout: Duration::from_millis(200),
        ..Options::default()
    };
    let fake = Fake::start(options, Duration::ZERO);
    let value = "x".repeat(150_000);
    let mut hoarder = fake.connect();
    hoarder
        .write_all(format!("SET a {value}").as_bytes())
        .await
        .unwrap();
    assert_eq!(fake.talk("SET b 1\nGET b\n").await, "+OK\r\n+1\r\n");
    assert_eq!(
        fake.talk("KEYS *\n")
            .await
            .split_once(' ')
            .map(|(code, _)| code.to_owned()),
        Some("-BUSY".to_owned())
    );
    assert!(
        read_line(&mut hoarder)
            .await
            .starts_with("-BUSY the connections of this node hold more")
    );
    assert_eq!(hoarder.read(&mut [0; 10]).await.unwrap(), 0);
    assert_eq!(fake.talk("KEYS *\n").await, "*1\r\n+b\r\n");
    assert_eq!(fake.service.buffered_bytes(), 0);
}

#[tokio::test]
async fn shutdown_answers_what_is_under_way() {
    let fake = Fake::start(Options::default(), Duration::from_millis(50));
    let mut client = fake.connect();
    client.write_all(b"SET a 1\nGET a\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    fake.shutdown.cancel();
    assert_eq!(read_line(&mut client).await, "+OK");
    assert_eq!(
        read_line(&mut client).await,
        "-READONLY the node is shutting down; nothing was done"
    );
    assert_eq!(client.read(&mut [0; 10]).await.unwrap(), 0);
}

#[tokio::test]
async fn full_queues_are_busy_and_stopped_nodes_say_so() {
    let (node, queue) = crate::node::Node::channel(1);
    let service = crate::client::Service::new(node, Options::default());
    let shutdown = tokio_util::sync::CancellationToken::new();
    let ends = |client: &str| crate::client::Ends {
        client: client.into(),
        local: String::new(),
    };
    let (mut first, server) = tokio::io::duplex(1024);
    tokio::spawn(crate::client::serve_connection(
        service.clone(),
        server,
        ends("a"),
        shutdown.clone(),
    ));
    first.write_all(b"GET a\n").await.unwrap();
    tokio::task::yield_now().await;
    let (mut second, server) = tokio::io::duplex(1024);
    tokio::spawn(crate::client::serve_connection(
        service,
        server,
        ends("b"),
        shutdown,
    ));
    second.write_all(b"PING\nGET a\n").await.unwrap();
    assert_eq!(read_line(&mut second).await, "+PONG");
    assert!(read_line(&mut second).await.starts_with("-BUSY "));
    drop(queue);
    second.write_all(b"SET a 1\n").await.unwrap();
    assert!(
        read_line(&mut second)
            .await
            .starts_with("-READONLY the node is shutting down; nothing was")
    );
}

#[tokio::test]
async fn pages_are_lists_of_lines() {
    let fake = fake();
    let info = fake.talk("INFO replication\n").await;
    assert!(info.contains("\r\n+role:master\r\n"), "{info}");
    let resp = fake.talk("*1\r\n$4\r\nINFO\r\n").await;
    assert!(
        resp.starts_with('$') && resp.contains("\r\nredis_version:"),
        "{resp}"
    );
    let status = fake.talk("STATUS\n").await;
    assert!(
        status.contains("+PROBLEM: the disk is slow; buy a faster one\r\n"),
        "{status}"
    );
    assert!(
        fake.talk("RAFT STATUS\n")
            .await
            .starts_with("+{\"cluster\":\"test\",\"node\":1,\"role\":\"leader\"")
    );
    assert!(fake.talk("RAFT MEMBERS\n").await.starts_with(
        "*3\r\n*5\r\n:1\r\n+leader\r\n+10.0.0.1:7239\r\n+10.0.0.1:7238\r\n:7\r\n*5\r\n:2\r\n+voter\r\n"
    ));
    assert_eq!(fake.talk("RAFT TRANSFER 2\n").await, "+OK\r\n");
    assert!(fake.talk("HELP get\n").await.starts_with("*1\r\n+GET key - "));
    assert!(fake.talk("HELP\n").await.contains("+RANGE from to"));
}

#[tokio::test]
async fn what_client_libraries_say_first() {
    let fake = fake();
    let output = fake
        .talk(
            "CLIENT SETINFO LIB-NAME redis-py\nCLIENT SETNAME me\nCLIENT GETNAME\nCLIENT ID\nSELECT 0\nSELECT 1\n\
             CONFIG GET save\nCONFIG GET appendonly\nAUTH x\nCLIENT MAINT_NOTIFICATIONS ON\nREAD stale\nRESET\n",
        )
        .await;
    let lines: Vec<&str> = output.split("\r\n").collect();
    assert_eq!(
        lines[..6],
        ["+OK", "+OK", "+me", ":1", "+OK", "-ERR DB index is out of range"]
    );
    assert_eq!(lines[6..12], ["*2", "+save", "+", "*2", "+appendonly", "+yes"]);
    assert!(lines[12].starts_with("-ERR AUTH called"));
    assert!(lines[13].starts_with("-ERR unknown subcommand"));
    assert_eq!(lines[14..16], ["+OK", "+RESET"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_bytes_bring_a_connection_down(input in prop::collection::vec(
        prop_oneof![
            Just(b"SET a 1\nGET a\n".to_vec()),
            Just(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n".to_vec()),
            Just(b"SCAN 0\nKEYS *\nHELLO 3\n".to_vec()),
            prop::collection::vec(any::<u8>(), 0..20),
        ],
        0..10,
    )) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let fake = fake();
            fake.talk(input.concat()).await;
            assert_eq!(fake.talk("PING\n").await, "+PONG\r\n");
        });
    }
}

#[tokio::test]
async fn a_transaction_travels_as_one_write_between_others() {
    let mut fake = Fake::start(Options::default(), Duration::from_millis(5));
    let input = "SET a 1\nMULTI\nINCR a\nGET a\nEXEC\nSET b 1\nGET a\n";
    assert_eq!(
        fake.talk(input).await,
        "+OK\r\n+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n:2\r\n+2\r\n+OK\r\n+2\r\n"
    );
    let mut batches = Vec::new();
    while let Ok(size) = fake.batches.try_recv() {
        batches.push(size);
    }
    assert_eq!(batches, [3, 1], "two SETs and the transaction, then the GET");
}

#[tokio::test]
async fn another_clients_write_between_watch_and_exec_is_seen() {
    let fake = fake();
    let mut stream = fake.connect();
    stream.write_all(b"WATCH a\nMULTI\nSET a mine\n").await.unwrap();
    for expected in ["+OK", "+OK", "+QUEUED"] {
        assert_eq!(read_line(&mut stream).await, expected);
    }
    assert_eq!(fake.talk("SET a theirs\n").await, "+OK\r\n");
    stream.write_all(b"EXEC\nGET a\n").await.unwrap();
    assert_eq!(read_line(&mut stream).await, "_");
    assert_eq!(read_line(&mut stream).await, "+theirs");
}

async fn read_lines(stream: &mut (impl AsyncReadExt + Unpin), count: usize) -> String {
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(read_line(stream).await);
    }
    lines.join(" ")
}

#[tokio::test]
async fn events_leave_between_the_replies_in_each_dialect() {
    let fake = fake();
    let mut people = fake.connect();
    people.write_all(b"SET a 0\nFEED\nSET a 1\n").await.unwrap();
    assert_eq!(
        read_lines(&mut people, 3).await,
        "+OK +OK +OK",
        "the write before it is not fed"
    );
    assert_eq!(read_lines(&mut people, 5).await, ">4 :2 +set +a +1");
    let (mut resp2, mut resp3) = (fake.connect(), fake.connect());
    resp2
        .write_all(b"*3\r\n$4\r\nFEED\r\n$4\r\nFROM\r\n$1\r\n2\r\n")
        .await
        .unwrap();
    resp3
        .write_all(b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n")
        .await
        .unwrap();
    while read_line(&mut resp3).await != "*0" {}
    resp3.write_all(b"*1\r\n$4\r\nFEED\r\n").await.unwrap();
    assert_eq!(read_line(&mut resp2).await, "+OK");
    assert_eq!(read_line(&mut resp3).await, "+OK");
    people.write_all(b"DEL a\n").await.unwrap();
    assert_eq!(read_lines(&mut people, 6).await, ":1 >4 :3 +del +a _");
    assert_eq!(read_lines(&mut resp2, 6).await, "*4 :3 +del $1 a $-1");
    assert_eq!(read_lines(&mut resp3, 6).await, ">4 :3 +del $1 a _");
}

#[tokio::test]
async fn a_client_that_closed_its_sending_half_still_hears_its_feed() {
    let fake = fake();
    let (mut reader, mut writer) = tokio::io::split(fake.connect());
    writer.write_all(b"FEED\n").await.unwrap();
    writer.shutdown().await.unwrap();
    assert_eq!(read_line(&mut reader).await, "+OK");
    assert_eq!(fake.talk("SET a 1\n").await, "+OK\r\n");
    assert_eq!(read_lines(&mut reader, 5).await, ">4 :1 +set +a +1");
    assert_eq!(fake.talk("FEED\nUNFEED\n").await, "+OK\r\n+OK\r\n");
}

#[tokio::test]
async fn an_idle_feed_says_how_far_it_has_read_and_is_not_closed_for_idling() {
    let options = Options {
        idle_timeout: Duration::from_millis(60),
        mark_interval: Duration::from_millis(200),
        ..Options::default()
    };
    let fake = Fake::start(options, Duration::ZERO);
    let mut client = fake.connect();
    client.write_all(b"FEED PREFIX p\n").await.unwrap();
    assert_eq!(read_line(&mut client).await, "+OK");
    assert_eq!(fake.talk("SET other 1\nSET other 2\n").await, "+OK\r\n+OK\r\n");
    // What was written may have come between two bookmarks.
    while read_lines(&mut client, 5).await != ">4 :2 +mark _ _" {}
    assert_eq!(read_lines(&mut client, 5).await, ">4 :2 +mark _ _");
}

#[tokio::test]
async fn a_feed_ends_with_a_reason_when_the_node_stops() {
    let fake = fake();
    let mut client = fake.connect();
    client.write_all(b"SET a 1\nFEED\n").await.unwrap();
    assert_eq!(read_lines(&mut client, 2).await, "+OK +OK");
    fake.shutdown.cancel();
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(
        rest,
        "-READONLY the node is shutting down: the feed ends; resume it on another node, FROM 1\r\n"
    );
}

#[tokio::test]
async fn a_slow_reader_is_told_and_cut_and_nobody_waits_for_it() {
    let fake = fake();
    let mut slow = fake.connect_with(256);
    slow.write_all(b"FEED\n").await.unwrap();
    assert_eq!(read_line(&mut slow).await, "+OK");
    let mut quick = fake.connect();
    quick.write_all(b"FEED PREFIX last\n").await.unwrap();
    assert_eq!(read_line(&mut quick).await, "+OK");
    // More than the history keeps.
    let value = "v".repeat(1 << 19);
    for _ in 0..40 {
        assert_eq!(fake.talk(format!("SET k {value}\n")).await, "+OK\r\n");
    }
    assert_eq!(fake.talk("SET last 1\n").await, "+OK\r\n");
    assert_eq!(read_lines(&mut quick, 5).await, ">4 :41 +set +last +1");
    let mut rest = String::new();
    slow.read_to_string(&mut rest).await.unwrap();
    let last = rest.lines().last().unwrap();
    assert!(
        last.starts_with("-COMPACTED the changes after revision "),
        "{last}"
    );
}

#[tokio::test]
async fn a_reader_that_reads_nothing_at_all_is_cut() {
    let options = Options {
        stall_timeout: Duration::from_millis(100),
        ..Options::default()
    };
    let fake = Fake::start(options, Duration::ZERO);
    let mut slow = fake.connect_with(256);
    slow.write_all(b"FEED\n").await.unwrap();
    assert_eq!(read_line(&mut slow).await, "+OK");
    assert_eq!(
        fake.talk(format!("SET k {}\n", "v".repeat(1000))).await,
        "+OK\r\n"
    );
    let cut = async {
        while fake.service.counters().connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), cut).await.unwrap();
    let mut rest = String::new();
    slow.read_to_string(&mut rest).await.unwrap();
    assert!(
        !rest.ends_with("\r\n"),
        "cut in the middle of what it did not read"
    );
}
