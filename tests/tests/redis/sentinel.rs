//! The Redis backend with Sentinel.

use std::time::Duration;

use groupcache_core::{Cache, ErrorKind};
use groupcache_redis::{RedisBackend, RedisBackendBuilder};
use groupcache_tests::history::{Plan, run};
use groupcache_tests::process::{free_port, new_directory};
use groupcache_tests::redis_server::RedisServer;
use groupcache_tests::turns;
use tokio::time::sleep;

const NAME: &str = "main";

/// A primary, a replica and three sentinels.
struct Watched {
    servers: [RedisServer; 2],
    sentinels: Vec<RedisServer>,
}

impl Watched {
    fn start() -> Option<Self> {
        let quick = ["--repl-diskless-sync-delay", "0"];
        let primary = RedisServer::start(&quick)?;
        let replica = RedisServer::start(&quick)?;
        replica.run_command::<()>(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
        replica.wait_until("the replica is connected", |server| {
            server.info("replication", "master_link_status").as_deref() == Some("up")
        });
        let configuration = format!(
            "sentinel monitor {NAME} 127.0.0.1 {} 2\nsentinel down-after-milliseconds {NAME} 400\n\
             sentinel failover-timeout {NAME} 2000\nsentinel parallel-syncs {NAME} 1\n",
            primary.port()
        );
        let sentinels: Option<Vec<_>> = (0..3)
            .map(|_| {
                let directory = new_directory();
                let file = directory.join("sentinel.conf");
                std::fs::write(&file, &configuration).expect("written");
                RedisServer::start_in(directory, &[file.to_str().expect("a path"), "--sentinel"])
            })
            .collect();
        let watched = Self { servers: [primary, replica], sentinels: sentinels? };
        for sentinel in &watched.sentinels {
            sentinel.wait_until("the sentinels know each other", |sentinel| {
                let known = sentinel.info("sentinel", "master0").unwrap_or_default();
                known.contains("slaves=1") && known.contains("sentinels=3")
            });
        }
        Some(watched)
    }

    fn builder(&self) -> RedisBackendBuilder {
        RedisBackend::builder("redis://primary/0").sentinel(NAME, self.sentinels.iter().map(RedisServer::url))
    }

    fn primary_port(&self) -> u16 {
        let command = format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}");
        let (_, port): (String, u16) = self.sentinels[0].run_command(&command);
        port
    }

    /// Crashes or pauses the primary until the sentinels have replaced it.
    async fn fail_over(&mut self, crash: bool) {
        let old = self.primary_port();
        let at = usize::from(self.servers[1].port() == old);
        if crash {
            self.servers[at].kill();
        } else {
            self.servers[at].pause();
        }
        while self.primary_port() == old {
            sleep(Duration::from_millis(20)).await;
        }
        // The old primary returns only after all sentinels have seen it down.
        sleep(Duration::from_secs(2)).await;
        if crash {
            self.servers[at].restart();
        } else {
            self.servers[at].resume();
        }
        // The sentinels make it a replica.
        self.servers[at].wait_until("the old primary follows the new one", |server| {
            // The sentinels close all connections to it at that moment.
            let info = server.try_command::<String>("INFO replication");
            info.is_ok_and(|info| info.contains("master_link_status:up"))
        });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stale_read_across_failovers_and_reads_continue() {
    let _turn = turns::history().await;
    let Some(mut watched) = Watched::start() else { return };
    let plan = Plan { rows: 500, pages: 1, ..Plan::default() };
    let caches: Vec<_> =
        (0..3).map(|_| Cache::builder(watched.builder().build().expect("builds")).build()).collect();
    let faults = async {
        for crash in [true, false, true] {
            sleep(Duration::from_millis(500)).await;
            watched.fail_over(crash).await;
        }
    };
    let report = run(&caches, plan, faults).await;
    report.assert_sound(&plan);
    assert!(report.failed > 0, "no invalidation failed during a failover: {report}");
    for cache in &caches {
        cache.invalidate(groupcache_core::Group::new("row")).await.expect("the caches use the new primary");
    }
}

/// The connection to the old primary stays open, as it does when the primary is disconnected from its
/// sentinels but not from this process.
#[tokio::test]
async fn a_backend_follows_when_the_sentinels_move_the_primary() {
    let Some(watched) = Watched::start() else { return };
    let Some(other) = RedisServer::start(&[]) else { return };
    let backend = watched.builder().watch_interval(Duration::from_millis(100)).build().expect("builds");
    let cache = Cache::builder(backend).build();
    let group = || groupcache_core::Group::new("g");
    cache.invalidate(group()).await.expect("acknowledged");
    // The first is the trial of the permission.
    assert_eq!(watched.servers[0].calls("set"), 2);
    for sentinel in &watched.sentinels {
        sentinel.run_command::<()>(&format!("SENTINEL REMOVE {NAME}"));
        sentinel.run_command::<()>(&format!("SENTINEL MONITOR {NAME} 127.0.0.1 {} 2", other.port()));
    }
    for _ in 0..100 {
        cache.invalidate(group()).await.expect("acknowledged by the old or the new primary");
        if other.calls("set") > 1 {
            return;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("the backend still uses the old primary");
}

#[tokio::test]
async fn the_error_names_what_is_wrong_with_the_sentinels() {
    let Some(watched) = Watched::start() else { return };
    let urls = || watched.sentinels.iter().map(RedisServer::url);
    let unknown = RedisBackend::builder("redis://primary").sentinel("other", urls()).build().expect("builds");
    let error = unknown.connect().await.expect_err("not known");
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`other`") && error.to_string().contains("`sentinel`"), "{error}");

    // The first sentinel does not reply, and the backend uses the next one.
    watched.sentinels[0].pause();
    watched.builder().build().expect("builds").connect().await.expect("uses the next sentinel");
    watched.sentinels[0].resume();

    let none = format!("redis://127.0.0.1:{}", free_port());
    let none = RedisBackend::builder("redis://primary").sentinel(NAME, [none]).build().expect("builds");
    let error = none.connect().await.expect_err("no sentinel");
    assert!(error.is_transient() && error.to_string().contains("sentinel"), "{error}");
}
