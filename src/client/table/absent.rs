//! What Redis has and raftline has not: the error says so, and what is here instead.
//!
//! It begins as Redis's error for an unknown command, by which programs find out what a server can do.

/// A family of commands that are not here.
struct Family {
    /// The sentence after the name.
    instead: &'static str,
    /// Their names.
    names: &'static [&'static str],
}

/// What is said of this command, given in any case; `None` if nobody knows it.
pub(super) fn instead(name: &[u8]) -> Option<&'static str> {
    let has = |family: &&Family| {
        family
            .names
            .iter()
            .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
    };
    FAMILIES.iter().find(has).map(|family| family.instead)
}

const FAMILIES: &[Family] = &[
    Family {
        instead: "there are no hashes here: a key holds one string, and PREFIX lists the keys that begin alike",
        names: &[
            "HDEL",
            "HEXISTS",
            "HEXPIRE",
            "HEXPIREAT",
            "HEXPIRETIME",
            "HGET",
            "HGETALL",
            "HGETDEL",
            "HGETEX",
            "HINCRBY",
            "HINCRBYFLOAT",
            "HKEYS",
            "HLEN",
            "HMGET",
            "HMSET",
            "HPERSIST",
            "HPEXPIRE",
            "HPEXPIREAT",
            "HPEXPIRETIME",
            "HPTTL",
            "HRANDFIELD",
            "HSCAN",
            "HSET",
            "HSETEX",
            "HSETNX",
            "HSTRLEN",
            "HTTL",
            "HVALS",
        ],
    },
    Family {
        instead: "there are no lists here: a key holds one string; number the keys (INCR) and read them in order with \
                  PREFIX",
        names: &[
            "BLMOVE",
            "BLMPOP",
            "BLPOP",
            "BRPOP",
            "BRPOPLPUSH",
            "LINDEX",
            "LINSERT",
            "LLEN",
            "LMOVE",
            "LMPOP",
            "LPOP",
            "LPOS",
            "LPUSH",
            "LPUSHX",
            "LRANGE",
            "LREM",
            "LSET",
            "LTRIM",
            "RPOP",
            "RPOPLPUSH",
            "RPUSH",
            "RPUSHX",
            "SORT",
            "SORT_RO",
        ],
    },
    Family {
        instead: "there are no sets here: a key holds one string; make each member a key and list them with PREFIX",
        names: &[
            "SADD",
            "SCARD",
            "SDIFF",
            "SDIFFSTORE",
            "SINTER",
            "SINTERCARD",
            "SINTERSTORE",
            "SISMEMBER",
            "SMEMBERS",
            "SMISMEMBER",
            "SMOVE",
            "SPOP",
            "SRANDMEMBER",
            "SREM",
            "SSCAN",
            "SUNION",
            "SUNIONSTORE",
        ],
    },
    Family {
        instead: "there are no sorted sets here: keys are in byte order; begin them with the score and use RANGE",
        names: &[
            "BZMPOP",
            "BZPOPMAX",
            "BZPOPMIN",
            "ZADD",
            "ZCARD",
            "ZCOUNT",
            "ZDIFF",
            "ZDIFFSTORE",
            "ZINCRBY",
            "ZINTER",
            "ZINTERCARD",
            "ZINTERSTORE",
            "ZLEXCOUNT",
            "ZMPOP",
            "ZMSCORE",
            "ZPOPMAX",
            "ZPOPMIN",
            "ZRANDMEMBER",
            "ZRANGE",
            "ZRANGEBYLEX",
            "ZRANGEBYSCORE",
            "ZRANGESTORE",
            "ZRANK",
            "ZREM",
            "ZREMRANGEBYLEX",
            "ZREMRANGEBYRANK",
            "ZREMRANGEBYSCORE",
            "ZREVRANGE",
            "ZREVRANGEBYLEX",
            "ZREVRANGEBYSCORE",
            "ZREVRANK",
            "ZSCAN",
            "ZSCORE",
            "ZUNION",
            "ZUNIONSTORE",
        ],
    },
    Family {
        instead: "there are no streams here: FEED tells of every change in its order, from any revision on",
        names: &[
            "XACK",
            "XADD",
            "XAUTOCLAIM",
            "XCLAIM",
            "XDEL",
            "XGROUP",
            "XINFO",
            "XLEN",
            "XPENDING",
            "XRANGE",
            "XREAD",
            "XREADGROUP",
            "XREVRANGE",
            "XSETID",
            "XTRIM",
        ],
    },
    Family {
        instead: "there are no geographic indexes here: a key holds one string",
        names: &[
            "GEOADD",
            "GEODIST",
            "GEOHASH",
            "GEOPOS",
            "GEORADIUS",
            "GEORADIUSBYMEMBER",
            "GEORADIUSBYMEMBER_RO",
            "GEORADIUS_RO",
            "GEOSEARCH",
            "GEOSEARCHSTORE",
        ],
    },
    Family {
        instead: "there are no operations on bits, and no HyperLogLog: a key holds one string",
        names: &[
            "BITCOUNT",
            "BITFIELD",
            "BITFIELD_RO",
            "BITOP",
            "BITPOS",
            "GETBIT",
            "LCS",
            "PFADD",
            "PFCOUNT",
            "PFDEBUG",
            "PFMERGE",
            "PFSELFTEST",
            "SETBIT",
        ],
    },
    Family {
        instead: "there are no scripts here: SET with NX, IFEQ or IFREV, and MULTI with WATCH decide and write \
                  in one step",
        names: &[
            "EVAL",
            "EVALSHA",
            "EVALSHA_RO",
            "EVAL_RO",
            "FCALL",
            "FCALL_RO",
            "FUNCTION",
            "SCRIPT",
        ],
    },
    Family {
        instead: "there is no publish and subscribe here: FEED tells of every change of a key, none lost",
        names: &[
            "PSUBSCRIBE",
            "PUBLISH",
            "PUBSUB",
            "PUNSUBSCRIBE",
            "SPUBLISH",
            "SSUBSCRIBE",
            "SUBSCRIBE",
            "SUNSUBSCRIBE",
            "UNSUBSCRIBE",
        ],
    },
    Family {
        instead: "nodes find each other by RAFT ADD and RAFT REMOVE, and replicate by themselves",
        names: &[
            "FAILOVER",
            "MIGRATE",
            "PSYNC",
            "REPLCONF",
            "REPLICAOF",
            "SENTINEL",
            "SLAVEOF",
            "SYNC",
        ],
    },
    Family {
        instead: "there is one database, number 0; raftline backup copies it while the nodes run",
        names: &["DUMP", "MOVE", "RESTORE", "RESTORE-ASKING", "SWAPDB"],
    },
    Family {
        instead: "nobody sees the commands of others: SLOWLOG keeps the slow ones, INFO commandstats counts all",
        names: &["MONITOR"],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_absent_is_named_once_and_not_in_the_table() {
        let mut all: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
        for name in &all {
            assert!(super::super::find(name.as_bytes()).is_none(), "{name} is here");
            assert!(instead(name.to_ascii_lowercase().as_bytes()).is_some());
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(instead(b"NOSUCH").is_none());
    }
}
