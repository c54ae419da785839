//! Requests that are sent again until they are answered, and count once; and leases that outlive a leader.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::client::Reply;
use crate::harness::{Cluster, SOON, let_pass, wait_for};
use crate::workload::{Roaming, meanwhile};

/// Clients that count up one number, each step under a token or a number of its session.
struct Counters {
    clients: Vec<Mutex<Counter>>,
    /// What INCR has answered.
    answers: Mutex<Vec<i64>>,
    repeats: AtomicU64,
}

struct Counter {
    connection: Roaming,
    session: Option<i64>,
    done: u64,
}

impl Counters {
    fn new(cluster: &Cluster, count: usize) -> Counters {
        let counter = |n| {
            Mutex::new(Counter {
                connection: Roaming::new(&cluster.addresses(), n),
                session: None,
                done: 0,
            })
        };
        Counters {
            clients: (0..count).map(counter).collect(),
            answers: Mutex::default(),
            repeats: AtomicU64::new(0),
        }
    }

    /// One step of client number `n`: every second client uses a session.
    fn step(&self, n: usize) {
        let mut client = self.clients[n].lock().unwrap();
        if n % 2 == 1 && client.session.is_none() {
            client.session = Some(self.insist(&mut client, &format!("ONCE session:{n} SESSION OPEN")));
            return;
        }
        client.done += 1;
        let request = match client.session {
            Some(session) => format!("SEQ {session} {} INCR counter", client.done),
            None => format!("ONCE token:{n}:{} INCR counter", client.done),
        };
        let answer = self.insist(&mut client, &request);
        self.answers.lock().unwrap().push(answer);
    }

    /// Asks one node after the other until there is an answer.
    fn insist(&self, client: &mut Counter, request: &str) -> i64 {
        wait_for(request, SOON, || match client.connection.call(request) {
            Some(Reply::Integer(number)) => Some(number),
            Some(Reply::Error { code, message }) => {
                assert!(
                    code != "ERR" && code != "NOSESSION",
                    "{request}: {code} {message}"
                );
                self.repeats.fetch_add(1, Ordering::Relaxed);
                None
            }
            Some(other) => panic!("{request}: {other:?}"),
            None => {
                self.repeats.fetch_add(1, Ordering::Relaxed);
                None
            }
        })
    }

    fn wait_for_more(&self, count: usize) {
        let answered = || self.answers.lock().unwrap().len();
        let before = answered();
        wait_for("more answers", SOON, || {
            (answered() >= before + count).then_some(())
        });
    }
}

#[test]
fn leaders_are_killed_and_every_increment_counts_once() {
    let mut cluster = Cluster::start(3);
    let counters = Counters::new(&cluster, 6);
    meanwhile(
        6,
        |n| counters.step(n),
        || {
            for _ in 0..3 {
                counters.wait_for_more(100);
                let leader = cluster.leader();
                cluster.kill_9(leader);
                counters.wait_for_more(100);
                cluster.restart(leader);
                cluster.caught_up(leader);
            }
        },
    );
    cluster.whole();
    let answers = counters.answers.into_inner().unwrap();
    let count = answers.len() as i64;
    let different: BTreeSet<i64> = answers.into_iter().collect();
    assert_eq!(different, (1..=count).collect(), "each answer is another step");
    for id in cluster.ids() {
        assert_eq!(cluster.call(id, "GET counter"), Reply::text(count.to_string()));
    }
    let repeats = counters.repeats.into_inner();
    assert!(repeats > 0, "nothing was ever asked again");
}

#[test]
fn two_at_once_on_two_nodes_have_one_effect_and_equal_answers() {
    let cluster = Cluster::start(3);
    let leader = cluster.leader();
    let mut clients: Vec<_> = cluster.ids().into_iter().map(|id| cluster.client(id)).collect();
    for n in 1..=100 {
        for client in &mut clients {
            client.send(&format!("ONCE twin:{n} INCR counter")).unwrap();
        }
        for client in &mut clients {
            assert_eq!(client.receive().unwrap(), Reply::Integer(n));
        }
    }
    assert_eq!(cluster.call(leader, "GET counter"), Reply::text("100"));
}

/// The holder keeps its lease alive through the nodes that are left; nobody takes it away (trap 3.48).
#[test]
fn a_lease_that_is_kept_alive_outlives_its_leader_and_then_goes() {
    let mut cluster = Cluster::start(3);
    let leader = cluster.leader();
    let Reply::Integer(lease) = cluster.call(leader, "LEASE GRANT 5000") else {
        panic!("no lease");
    };
    let lock = format!("SET lock me NX LEASE {lease}");
    assert_eq!(cluster.call(leader, &lock), Reply::ok());
    cluster.kill_9(leader);
    let others = cluster.ids_without(leader);
    let keep_alive = format!("LEASE KEEPALIVE {lease}");
    wait_for("a new leader", SOON, || {
        (cluster.call(others[0], &keep_alive) == Reply::Integer(5000)).then_some(())
    });
    cluster.restart(leader);
    for _ in 0..5 {
        let_pass(Duration::from_millis(200));
        assert_eq!(cluster.call(others[1], &keep_alive), Reply::Integer(5000));
    }
    cluster.whole();
    wait_for("the end of the lease", SOON, || {
        (cluster.call(others[0], "GET lock") == Reply::Nothing).then_some(())
    });
    assert_eq!(cluster.call(leader, &lock).code(), Some("ERR"));
}
