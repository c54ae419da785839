//! The stories of `testscripts/`: commands after `>`, each with the recorded output below it, `#` comments between.
//! The output tells what changed. `UPDATE=1 cargo test scripts` records anew; then read the difference.

use std::fmt::Write;
use std::{env, fs, path::Path};

use super::super::{Envelope, NodeId};
use super::show::{describe, states};
use super::world::World;

#[test]
fn scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/raft/testscripts");
    let mut paths: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let recorded = fs::read_to_string(&path).unwrap();
        let result = std::panic::catch_unwind(|| run(&recorded));
        let played = result.unwrap_or_else(|_| panic!("{name} fails"));
        if env::var_os("UPDATE").is_some() {
            fs::write(&path, played).unwrap();
        } else {
            for (i, (had, has)) in recorded.lines().zip(played.lines()).enumerate() {
                assert_eq!(has, had, "{name}, line {}", i + 1);
            }
            assert_eq!(
                played.lines().count(),
                recorded.lines().count(),
                "{name} ends elsewhere"
            );
        }
    }
}

fn run(script: &str) -> String {
    let mut world = World::new(3, 0);
    let mut played = String::new();
    for line in script
        .lines()
        .filter(|line| line.is_empty() || line.starts_with(['#', '>']))
    {
        played += line;
        played.push('\n');
        if let Some(command) = line.strip_prefix('>') {
            let before = states(&world);
            played += &execute(&mut world, &command.split_whitespace().collect::<Vec<_>>());
            for (state, _) in states(&world).iter().zip(before).filter(|(new, old)| *new != old) {
                writeln!(played, "{state}").unwrap();
            }
            for (id, ticket, index) in world.reads.drain(..) {
                writeln!(played, "{id}: read {ticket} may be answered at index {index}").unwrap();
            }
        }
    }
    played
}

/// Runs one command, and says what is to be said beside the changes of state.
fn execute(world: &mut World, words: &[&str]) -> String {
    let number = |i: usize| words[i].parse::<u64>().unwrap_or_else(|_| panic!("{words:?}"));
    let rest = |from: usize| (from..words.len()).map(number).collect::<Vec<u64>>();
    let on_link =
        |envelope: &Envelope| words.len() < 3 || (envelope.from.0, envelope.to.0) == (number(1), number(2));
    let mut said = String::new();
    match words[0] {
        "nodes" => *world = World::new(number(1), 0),
        "one-entry-each" => world.max_append_bytes = 1,
        "log" => world.preset(number(1), &rest(2)),
        "term" => world.preset_term(number(1), number(2)),
        "campaign" => world.campaign(number(1)),
        "tick" if words.len() > 2 => rest(2).into_iter().for_each(|id| world.tick_one(id, number(1))),
        "tick" => world.tick(number(1)),
        "pass" => world.pass(number(1)),
        "settle" => world.settle(),
        "deliver" => {
            let (now, later) = std::mem::take(&mut world.network).into_iter().partition(on_link);
            world.network = later;
            let now: Vec<Envelope> = now;
            for envelope in now {
                said += &describe(&envelope);
                world.arrive(envelope);
            }
        }
        "newest" => {
            let at = world
                .network
                .iter()
                .rposition(on_link)
                .expect("nothing is under way");
            said += &describe(&world.network[at]);
            world.deliver(at);
        }
        "repeat" => {
            let again: Vec<Envelope> = world
                .network
                .iter()
                .filter(|envelope| on_link(envelope))
                .cloned()
                .collect();
            world.network.extend(again);
        }
        "drop" => world.network.retain(|envelope| !on_link(envelope)),
        "network" => world
            .network
            .iter()
            .for_each(|envelope| said += &describe(envelope)),
        "cut" => world.cut(number(1), number(2)),
        "isolate" => world.isolate(number(1)),
        "heal" => world.heal(),
        "connect" => world.connect(number(1), number(2)),
        "closed" => world.closed(number(1), number(2)),
        "crash" => world.crash(number(1)),
        "restart" => world.restart(number(1)),
        "hold-disk" => world.server(number(1)).disk.is_held = true,
        "release-disk" => world.release_disk(number(1)),
        "snapshot" => world.take_snapshot(number(1), rest(2).first().copied().unwrap_or(0)),
        "hold-install" => world.server(number(1)).holds_install = true,
        "install" => world.release_install(number(1)),
        "persist" => world.persist(number(1)),
        "read" => world.read(number(1), number(2)),
        "propose" => match world.propose(number(1), words[2]) {
            Ok(id) => writeln!(said, "{}: {} is {id}", words[1], words[2]).unwrap(),
            Err(error) => writeln!(said, "{}: refused, {error:?}", words[1]).unwrap(),
        },
        "transfer" => {
            let target = (words.len() > 2).then(|| NodeId(number(2)));
            if let Err(error) = world.with(number(1), |raft| raft.transfer(target)) {
                writeln!(said, "{}: refused, {error:?}", words[1]).unwrap();
            }
        }
        "status" => states(world)
            .iter()
            .for_each(|state| writeln!(said, "{state}").unwrap()),
        "followers" => {
            for f in world.raft(number(1)).status().followers {
                writeln!(
                    said,
                    "{}: match {}, next {}, {} under way{}",
                    f.id,
                    f.match_index,
                    f.next_index,
                    f.inflight,
                    f.snapshot
                        .map_or(String::new(), |last| format!(", snapshot up to {last}"))
                )
                .unwrap();
            }
        }
        _ => panic!("no such command: {words:?}"),
    }
    said
}
