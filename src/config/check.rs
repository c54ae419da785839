//! What must hold between keys.

use std::collections::BTreeMap;

use crate::base::address::is_unspecified;
use crate::base::units;

use super::source::Source;
use super::{Config, Member};

/// Complains of keys that are good alone and wrong together.
pub(super) fn config(source: &mut Source, config: &Config) {
    timers(source, config);
    listeners(source, config);
    // Complaints about members that could not all be read would mislead.
    if !source.is_wrong() {
        members(source, config);
    }
}

fn timers(source: &mut Source, config: &Config) {
    let raft = &config.raft;
    if raft.heartbeat_interval * 2 > raft.election_timeout {
        source.refuse_key(
            "raft.heartbeat_interval",
            &format!("\"{}\"", units::duration(raft.heartbeat_interval)),
            &format!(
                "at most half of raft.election_timeout, which is \"{}\": \
                 one lost heartbeat must not cost an election",
                units::duration(raft.election_timeout)
            ),
        );
    }
}

fn listeners(source: &mut Source, config: &Config) {
    let listen = &config.listen;
    let mut seen = BTreeMap::new();
    let named = [
        ("listen.client", Some(&listen.client)),
        ("listen.peer", Some(&listen.peer)),
        ("listen.admin", listen.admin.as_ref()),
    ];
    for (key, address) in named {
        let Some(address) = address.filter(|address| !address.ends_with(":0")) else {
            continue;
        };
        if let Some(other) = seen.insert(address, key) {
            let expected = format!("an address of its own: {other} has the same");
            source.refuse_key(key, &format!("\"{address}\""), &expected);
        }
    }
}

fn members(source: &mut Source, config: &Config) {
    let members = &config.cluster.members;
    let mut ids = BTreeMap::new();
    let mut addresses = BTreeMap::new();
    for (at, member) in members.iter().enumerate() {
        let key = format!("cluster.members[{}]", at + 1);
        if let Some(other) = ids.insert(member.id, at + 1) {
            let expected = format!("an id of its own: cluster.members[{other}] has the same");
            source.refuse_key(&format!("{key}.id"), &member.id.to_string(), &expected);
        }
        for (part, address) in [("peer", &member.peer), ("client", &member.client)] {
            let key = format!("{key}.{part}");
            if let Some(other) = addresses.insert(address, key.clone()) {
                let expected = format!("an address of its own: {other} has the same");
                source.refuse_key(&key, &format!("\"{address}\""), &expected);
            }
            if is_unspecified(address) {
                let expected = "an address that the other members can connect to";
                source.refuse_key(&key, &format!("\"{address}\""), expected);
            }
        }
    }
    membership(source, config, members);
}

fn membership(source: &mut Source, config: &Config, members: &[Member]) {
    const MEMBERS_MAX: usize = 64;
    if members.len() > MEMBERS_MAX {
        let expected = format!("at most {MEMBERS_MAX}");
        source.refuse_key(
            "cluster.members",
            &format!("{} members", members.len()),
            &expected,
        );
    }
    if config.cluster.join {
        if !members.is_empty() {
            let found = match members.len() {
                1 => "1 member".into(),
                count => format!("{count} members"),
            };
            let expected = "none with cluster.join = true: a node that joins learns the members from the cluster \
                            when RAFT ADD adds it; leave cluster.members out, or join";
            source.refuse_key("cluster.members", &found, expected);
        }
    } else if !members.iter().any(|member| member.id == config.node.id) {
        let ids: Vec<_> = members.iter().map(|member| member.id.to_string()).collect();
        let expected = match ids.is_empty() {
            true => "a member, but cluster.members is empty".into(),
            false => format!("the id of one of cluster.members, which are {}", ids.join(", ")),
        };
        source.refuse_key("node.id", &config.node.id.to_string(), &expected);
    }
}
