//! Data folders that can't be relied on: damaged, different from the others, too full, or given up by RAFT REBUILD.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use raftline::kv::{Command, decode_entry, encode_entry};
use raftline::raft::{Batch, NodeId, Payload};
use raftline::storage::fs::RealFs;
use raftline::storage::{Options, Storage};

use crate::client::Reply;
use crate::harness::{Cluster, SOON, let_pass, wait_for, wait_until};
use crate::membership::{assert_not_ready, change, wait_for_page};
use crate::snapshots::{churn, put, small_log};
use crate::workload::{Writers, meanwhile};

const LOST_DATA: &str = "this node has lost data and fetches it anew from the others";

/// The files of one folder with this ending, in the order of their names.
fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect();
    paths.sort();
    paths
}

/// Turns a few bits round in the middle of what is written in a file.
fn damage(path: &Path) {
    let bytes = fs::read(path).unwrap();
    let written = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    let at = written / 2;
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(&[!bytes[at], !bytes[at + 1]], at as u64)
        .unwrap();
}

/// Damages the middle of the log of a node that has ended.
fn damage_log(cluster: &Cluster, id: u64) {
    let segments = files(&cluster.data_folder(id).join("log"), "log");
    damage(&segments[segments.len() / 2]);
}

/// Each write waits for the one before, so that the log has a batch for each.
fn write_one_by_one(cluster: &Cluster, count: usize) {
    let mut client = cluster.client(cluster.leader());
    for n in 0..count {
        put(&mut client, &format!("SET one:{n} {n}"));
    }
}

/// Two of three nodes run, and one of them is recovering: that one's vote would be the second (trap 3.31).
fn assert_no_vote_of(cluster: &Cluster, recovering: u64, other: u64) {
    const TIME: Duration = Duration::from_secs(3); // several election timeouts
    wait_for_page(cluster, recovering, LOST_DATA);
    let term = cluster.status(recovering).expect("it runs").term;
    let_pass(TIME);
    for id in [recovering, other] {
        let status = cluster.status(id).expect("it runs");
        assert_ne!(status.role, "leader", "{status:?}");
        assert_eq!(cluster.call(id, "SET a b").code(), Some("CLUSTERDOWN"));
    }
    let status = cluster.status(recovering).expect("it runs");
    assert_eq!((status.term, status.role.as_str()), (term, "follower"));
    assert_not_ready(cluster, recovering, LOST_DATA);
}

/// A node that has recovered is one of the two that are needed.
fn assert_votes_again(cluster: &mut Cluster, id: u64) {
    wait_until("a node that has recovered", SOON, || {
        let page = cluster.page(id);
        if page.contains("all is well") {
            Ok(())
        } else {
            Err(page)
        }
    });
    change(cluster, id, "RAFT VERIFY");
    let leader = cluster.leader();
    let gone = if leader == id {
        cluster.ids_without(id)[0]
    } else {
        leader
    };
    cluster.kill_9(gone);
    let rest = cluster.ids_without(gone);
    let leader = cluster.leader_among(&rest);
    put(&mut cluster.client(leader), "SET with:two of:three");
    cluster.restart(gone);
    cluster.whole();
}

#[test]
fn trap_3_31_damage_in_the_log_costs_the_vote_until_all_is_fetched_again() {
    let mut cluster = Cluster::start(3);
    write_one_by_one(&cluster, 300);
    cluster.whole();
    let leader = cluster.leader();
    let (damaged, other) = (cluster.ids_without(leader)[0], cluster.ids_without(leader)[1]);
    cluster.kill_9(damaged);
    cluster.kill_9(leader);
    damage_log(&cluster, damaged);
    cluster.restart(damaged);
    assert_no_vote_of(&cluster, damaged, other);
    // Not by starting again either.
    cluster.kill_9(damaged);
    cluster.restart(damaged);
    assert_no_vote_of(&cluster, damaged, other);
    cluster.restart(leader);
    cluster.whole();
    let aside = files(&cluster.data_folder(damaged).join("damaged"), "log");
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert_eq!(cluster.log_lines(damaged, &["the data folder is damaged"]), 1);
    assert_votes_again(&mut cluster, damaged);
    assert_eq!(cluster.call(damaged, "GET one:299"), Reply::text("299"));
}

#[test]
fn trap_3_31_damage_in_the_snapshots_is_fetched_again() {
    let mut cluster = small_log(3).start();
    churn(&cluster, 1, 2000, 100);
    let damaged = cluster.follower();
    wait_for("a snapshot, and a log that begins later", SOON, || {
        let status = cluster.status(damaged)?;
        (status.snapshot_index > 1000 && status.first_index > 500).then_some(())
    });
    cluster.kill_9(damaged);
    let folder = cluster.data_folder(damaged).join("snapshots");
    let snapshots: Vec<PathBuf> = fs::read_dir(&folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    snapshots.iter().for_each(|path| damage(path));
    churn(&cluster, cluster.ids_without(damaged)[0], 100, 100);
    cluster.restart(damaged);
    cluster.whole();
    assert_eq!(cluster.log_lines(damaged, &["the data folder is damaged"]), 1);
    let aside = fs::read_dir(cluster.data_folder(damaged).join("damaged")).unwrap();
    assert!(aside.count() > snapshots.len(), "the snapshots and the log");
    assert_votes_again(&mut cluster, damaged);
}

#[test]
fn damage_where_nobody_else_has_the_data_is_not_started_from() {
    let mut cluster = Cluster::start(1);
    write_one_by_one(&cluster, 100);
    cluster.kill_9(1);
    damage_log(&cluster, 1);
    let before = fs::read(&files(&cluster.data_folder(1).join("log"), "log")[0]).unwrap();
    cluster.restart(1);
    assert_eq!(cluster.ended(1).code(), Some(1));
    let said = cluster.log_lines(1, &["raftline: ", "/log/", "This is damage", "does not start"]);
    assert_eq!(said, 1, "one clear message");
    let after = fs::read(&files(&cluster.data_folder(1).join("log"), "log")[0]).unwrap();
    assert!(before == after, "the damaged log is all there is to learn from");
}

#[test]
fn raft_rebuild_fetches_everything_again_while_clients_write() {
    let mut cluster = Cluster::start(3);
    write_one_by_one(&cluster, 200);
    let leader = cluster.leader();
    let refused = cluster.call(leader, "RAFT REBUILD");
    assert!(matches!(refused.code(), Some("ERR")), "{refused:?}");
    let rebuilt = cluster.ids_without(leader)[0];
    assert_eq!(cluster.call(rebuilt, "RAFT REBUILD"), Reply::ok());
    // Not 2, with which systemd would not start it again.
    assert_eq!(cluster.ended(rebuilt).code(), Some(1));
    assert_eq!(
        cluster.log_lines(
            rebuilt,
            &["raftline: as RAFT REBUILD asks", "start this node again"]
        ),
        1
    );
    let others: Vec<u64> = cluster.ids_without(rebuilt);
    // With the other follower gone, nothing is decided by somebody who has forgotten everything.
    let other = cluster.ids_without(leader)[1];
    cluster.kill_9(leader);
    cluster.restart(rebuilt);
    assert_no_vote_of(&cluster, rebuilt, other);
    cluster.restart(leader);
    cluster.leader_among(&others);
    cluster.whole();
    assert!(!files(&cluster.data_folder(rebuilt).join("damaged"), "log").is_empty());
    assert_votes_again(&mut cluster, rebuilt);

    // And again, with clients at work that notice nothing.
    let leader = cluster.leader();
    let rebuilt = cluster.ids_without(leader)[0];
    let others = cluster.ids_without(rebuilt);
    let addresses: Vec<_> = others.iter().map(|id| cluster.client_address(*id)).collect();
    let writers = Writers::new(&addresses, 4);
    meanwhile(
        4,
        |n| writers.write(n),
        || {
            writers.wait_for_more(50);
            assert_eq!(cluster.call(rebuilt, "RAFT REBUILD"), Reply::ok());
            assert_eq!(cluster.ended(rebuilt).code(), Some(1));
            writers.wait_for_more(50);
            cluster.restart(rebuilt);
            cluster.caught_up(rebuilt);
            writers.wait_for_more(50);
        },
    );
    assert_eq!(
        writers.failed(),
        0,
        "the leader and a majority were there all the time"
    );
    cluster.whole();
    writers.assert_all_there(&cluster, rebuilt);
    assert_votes_again(&mut cluster, rebuilt);
}

/// Has the log of a node that has ended say something else than the others', as a mistake in memory would: every
/// checksum fits.
fn falsify(cluster: &Cluster, id: u64) {
    let options = Options {
        dir: cluster.data_folder(id),
        node_id: NodeId(id),
        segment_size_bytes: 1 << 20,
        fsync: true,
    };
    let (mut storage, found) = Storage::open(RealFs, &options, 1).unwrap();
    let mut entries = found.entries;
    let falsified = entries.iter_mut().rev().find_map(|entry| {
        let Payload::Command(bytes) = &mut entry.payload else {
            return None;
        };
        let (time_ms, command) = decode_entry(bytes.clone()).unwrap();
        let Command::Set { .. } = command else {
            return None;
        };
        let wrong = Command::MultiSet {
            pairs: vec![("one:99".into(), "not what it was".into())],
        };
        *bytes = encode_entry(time_ms, &wrong);
        Some(())
    });
    falsified.expect("a write");
    let batch = Batch {
        entries,
        ..Batch::default()
    };
    storage.persist(&batch).unwrap();
}

#[test]
fn a_node_whose_state_differs_stops_serving_until_it_is_rebuilt() {
    const DIFFERS: &str = "the state of this node differs from the leader's";
    let mut cluster = Cluster::start(3);
    write_one_by_one(&cluster, 100);
    cluster.whole();
    let wrong = cluster.follower();
    cluster.kill_9(wrong);
    falsify(&cluster, wrong);
    cluster.restart(wrong);
    wait_for_page(&cluster, wrong, DIFFERS);
    assert_not_ready(&cluster, wrong, DIFFERS);
    assert_eq!(cluster.log_lines(wrong, &["the state here differs"]), 1);
    for request in ["GET one:99", "SET a b", "RAFT VERIFY"] {
        let reply = cluster.call(wrong, request);
        assert_eq!(reply.code(), Some("CLUSTERDOWN"), "{request}: {reply:?}");
    }
    let others = cluster.ids_without(wrong);
    let leader = cluster.leader_among(&others);
    for id in &others {
        assert_eq!(cluster.call(*id, "GET one:99"), Reply::text("99"));
        let Reply::Error { message, .. } = cluster.call(*id, "RAFT VERIFY") else {
            panic!("the states differ")
        };
        let named = format!("data folder of node {wrong} ");
        assert!(
            message.contains("the states differ at index") && message.contains(&named),
            "{message}"
        );
    }
    // Starting again does not make it right.
    cluster.kill_9(wrong);
    cluster.restart(wrong);
    wait_for_page(&cluster, wrong, DIFFERS);
    assert_eq!(cluster.call(wrong, "RAFT REBUILD"), Reply::ok());
    assert_eq!(cluster.ended(wrong).code(), Some(1));
    assert_eq!(cluster.call(leader, "SET a b"), Reply::ok());
    cluster.restart(wrong);
    cluster.whole();
    assert_eq!(cluster.call(wrong, "GET one:99"), Reply::text("99"));
    assert_votes_again(&mut cluster, wrong);
}

#[test]
fn without_room_on_the_disk_writes_are_refused_and_the_rest_goes_on() {
    const TOO_FULL: &str = "less than storage.min_free_space";
    let (some, more) = ("min_free_space = \"0\"", "min_free_space = \"1024TiB\"");
    let mut cluster = Cluster::builder(3)
        .set("storage", "segment_size = \"1MiB\"")
        .set("storage", some)
        .start();
    assert_eq!(cluster.call(1, "SET a b"), Reply::ok());
    for id in cluster.ids() {
        cluster.kill_9(id);
        cluster.reconfigure(id, some, more);
        cluster.restart(id);
    }
    for _ in 0..2 {
        let leader = cluster.leader();
        for id in cluster.ids() {
            wait_until("a write that is refused", SOON, || {
                match cluster.call(id, "SET a c") {
                    reply if reply.code() == Some("READONLY") => Ok(()),
                    reply => Err(reply),
                }
            });
            assert!(matches!(cluster.call(id, "GET a"), Reply::Text(_)));
            wait_for_page(&cluster, id, TOO_FULL);
        }
        assert_eq!(cluster.call(leader, "RAFT TRANSFER"), Reply::ok());
    }
    for id in cluster.ids() {
        cluster.kill_9(id);
        cluster.reconfigure(id, more, some);
        cluster.restart(id);
    }
    cluster.leader();
    assert_eq!(cluster.call(1, "SET a d"), Reply::ok());
    cluster.whole();
}
