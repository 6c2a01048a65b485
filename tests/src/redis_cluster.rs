//! Redis Clusters that the tests start.

use std::time::Duration;

use groupcache_redis::redis::{self, Value};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};

use crate::process::free_port;
use crate::redis_server::RedisServer;

const SLOTS: u16 = 16_384;

/// Primaries that share the slots, and optionally a replica of each.
#[derive(Debug)]
pub struct RedisCluster {
    /// The primaries, then a replica of each in the same order. Failovers change their roles.
    pub nodes: Vec<RedisServer>,
    primaries: usize,
}

impl RedisCluster {
    /// Starts a cluster whose nodes consider each other dead after a second.
    ///
    /// Returns `None` if `redis-server` is not installed.
    ///
    /// # Panics
    ///
    /// Panics if the nodes do not form a cluster.
    #[must_use]
    pub fn start(primaries: usize, with_replicas: bool) -> Option<Self> {
        let count = if with_replicas { 2 * primaries } else { primaries };
        let mut nodes = Vec::new();
        let mut bus_ports = Vec::new();
        for _ in 0..count {
            let bus_port = free_port().to_string();
            nodes.push(RedisServer::start(&[
                "--cluster-enabled",
                "yes",
                "--cluster-port",
                &bus_port,
                "--cluster-node-timeout",
                "1000",
                "--cluster-replica-validity-factor",
                "0",
                "--cluster-require-full-coverage",
                "no",
                "--repl-diskless-sync-delay",
                "0",
            ])?);
            bus_ports.push(bus_port);
        }
        for (at, node) in nodes.iter().enumerate() {
            node.run_command::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1));
        }
        for (at, node) in nodes.iter().enumerate().take(primaries) {
            let first = at * usize::from(SLOTS) / primaries;
            let last = (at + 1) * usize::from(SLOTS) / primaries - 1;
            node.run_command::<()>(&format!("CLUSTER ADDSLOTSRANGE {first} {last}"));
        }
        for (node, bus_port) in nodes.iter().zip(&bus_ports).skip(1) {
            nodes[0].run_command::<()>(&format!("CLUSTER MEET 127.0.0.1 {} {bus_port}", node.port()));
        }
        let cluster = Self { nodes, primaries };
        for node in &cluster.nodes {
            node.wait_until("all nodes know each other", |node| {
                let info: String = node.run_command("CLUSTER INFO");
                info.contains(&format!("cluster_known_nodes:{count}\r")) && info.contains("cluster_state:ok")
            });
        }
        for (at, replica) in cluster.nodes.iter().enumerate().skip(primaries) {
            let primary = cluster.id(at - primaries);
            replica.run_command::<()>(&format!("CLUSTER REPLICATE {primary}"));
        }
        for replica in cluster.nodes.iter().skip(primaries) {
            wait_until_follows(replica);
        }
        for node in &cluster.nodes {
            node.wait_until("all nodes agree on the owners of slots", |node| {
                let Ok(Value::Array(ranges)) = node.try_command::<Value>("CLUSTER SLOTS") else { return false };
                // Each range names its first and last slot, its primary, and then its replicas.
                let complete = |range: &Value| matches!(range, Value::Array(parts) if parts.len() == 2 + count / primaries);
                ranges.len() == primaries && ranges.iter().all(complete)
            });
        }
        Some(cluster)
    }

    /// Returns a builder of a backend on all nodes.
    pub fn builder(&self) -> RedisBackendBuilder {
        RedisBackend::builder(self.nodes[0].url()).cluster(self.nodes[1..].iter().map(RedisServer::url))
    }

    /// Returns how many primaries the cluster was started with.
    #[must_use]
    pub const fn primaries(&self) -> usize {
        self.primaries
    }

    /// Returns the id of a node.
    #[must_use]
    pub fn id(&self, at: usize) -> String {
        self.nodes[at].run_command("CLUSTER MYID")
    }

    /// Returns whether a node is a primary now.
    #[must_use]
    pub fn is_primary(&self, at: usize) -> bool {
        self.nodes[at]
            .try_command::<String>("INFO replication")
            .is_ok_and(|info| info.contains("role:master"))
    }

    /// Returns the slot of a key.
    #[must_use]
    pub fn slot(&self, key: &str) -> u16 {
        self.nodes[0].run_command(&format!("CLUSTER KEYSLOT {key}"))
    }

    /// Returns the primary that reports to own a slot.
    ///
    /// # Panics
    ///
    /// Panics if no node does within ten seconds.
    #[must_use]
    pub fn owner(&self, slot: u16) -> usize {
        for _ in 0..1000 {
            let has = |at: &usize| self.is_primary(*at) && self.owns(*at, slot);
            if let Some(at) = (0..self.nodes.len()).find(has) {
                return at;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("no node owns slot {slot}");
    }

    /// Begins to migrate a slot. Its keys stay where they are.
    pub fn begin_migration(&self, slot: u16, from: usize, to: usize) {
        let (source, target) = (self.id(from), self.id(to));
        self.nodes[to].run_command::<()>(&format!("CLUSTER SETSLOT {slot} IMPORTING {source}"));
        self.nodes[from].run_command::<()>(&format!("CLUSTER SETSLOT {slot} MIGRATING {target}"));
    }

    /// Moves the keys of a slot whose migration has begun.
    pub fn move_keys(&self, slot: u16, from: usize, to: usize) {
        loop {
            let keys: Vec<String> =
                self.nodes[from].run_command(&format!("CLUSTER GETKEYSINSLOT {slot} 100"));
            if keys.is_empty() {
                return;
            }
            let port = self.nodes[to].port();
            let keys = keys.join(" ");
            // A key may expire meanwhile. The two spaces are the empty place of a single key.
            self.nodes[from]
                .run_command::<Value>(&format!("MIGRATE 127.0.0.1 {port}  0 5000 REPLACE KEYS {keys}"));
        }
    }

    /// Moves the keys of a slot back to its owner while the other node is still importing it.
    ///
    /// # Panics
    ///
    /// If they do not move.
    pub fn move_keys_back(&self, slot: u16, from: usize, to: usize) {
        // An owner that is moving a slot away would redirect to the other node for the keys.
        self.nodes[from].run_command::<()>(&format!("CLUSTER SETSLOT {slot} STABLE"));
        self.move_keys(slot, to, from);
    }

    /// Removes the keys of a slot from the node that is importing it.
    ///
    /// # Panics
    ///
    /// If the node refuses.
    pub fn remove_moved_keys(&self, slot: u16, to: usize) {
        let keys: Vec<String> = self.nodes[to].run_command(&format!("CLUSTER GETKEYSINSLOT {slot} 1000"));
        for key in keys {
            self.ask::<u64>(to, &format!("UNLINK {key}"));
        }
    }

    /// Runs a command on a node that is importing the slot of its key, as after `ASK`.
    ///
    /// # Panics
    ///
    /// If the node refuses.
    pub fn ask<T: redis::FromRedisValue>(&self, at: usize, command: &str) -> T {
        let client = redis::Client::open(self.nodes[at].url()).expect("a client");
        let mut connection = client.get_connection().expect("connects");
        let mut pipeline = redis::pipe();
        pipeline.cmd("ASKING").ignore();
        let mut words = command.split(' ');
        pipeline.cmd(words.next().unwrap_or_default());
        for word in words {
            pipeline.arg(word);
        }
        let (reply,) = pipeline.query::<(T,)>(&mut connection).expect("answers");
        reply
    }

    /// Ends the migration: gives the slot to its new owner.
    pub fn end_migration(&self, slot: u16, from: usize, to: usize) {
        let target = self.id(to);
        for at in [to, from] {
            self.nodes[at].run_command::<()>(&format!("CLUSTER SETSLOT {slot} NODE {target}"));
        }
    }

    /// Migrates a slot with its keys.
    pub fn migrate(&self, slot: u16, from: usize, to: usize) {
        self.begin_migration(slot, from, to);
        self.move_keys(slot, from, to);
        self.end_migration(slot, from, to);
    }

    /// Disconnects a replica from its primary, and prevents it from connecting again.
    pub fn cut_off_replica(&self, primary: usize) {
        self.nodes[primary].run_command::<()>("ACL SETUSER default -psync -sync");
        self.nodes[primary].run_command::<u64>("CLIENT KILL TYPE replica");
    }

    fn owns(&self, at: usize, slot: u16) -> bool {
        let own = self.nodes[at].try_command::<String>("CLUSTER NODES").unwrap_or_default();
        let Some(line) = own.lines().find(|line| line.contains("myself")) else { return false };
        line.split(' ').skip(8).filter(|range| !range.starts_with('[')).any(|range| {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let number = |text: &str| text.parse::<u16>().ok();
            number(first).zip(number(last)).is_some_and(|(first, last)| (first..=last).contains(&slot))
        })
    }
}

/// Waits until a replica is connected to its primary.
pub fn wait_until_follows(replica: &RedisServer) {
    replica.wait_until("the replica is connected", |replica| {
        let info: redis::RedisResult<String> = replica.try_command("INFO replication");
        info.is_ok_and(|info| info.contains("master_link_status:up"))
    });
}
