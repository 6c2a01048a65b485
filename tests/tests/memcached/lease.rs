//! Leases: of several processes that miss the same page, one loads it. The processes are this test program,
//! started again, on three memcached servers.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use groupcache_core::{Cache, EntryOptions, Group, Groups};
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::memcached_server::MemcachedServers;
use groupcache_tests::{process, turns};
use tokio::time::Instant;

const SERVERS: &str = "GROUPCACHE_TEST_LEASE_SERVERS";
const READERS: usize = 10_000;
const LEASE_SECONDS: &str = "GROUPCACHE_TEST_LEASE_SECONDS";
const LOAD_TIME: Duration = Duration::from_millis(1_500);
const TIME_LIMIT: Duration = Duration::from_secs(60);

fn cache(servers: &str, lease: Duration) -> Cache<MemcachedBackend> {
    // Long enough for a slow machine, as this does not test the time limits.
    let backend =
        MemcachedBackend::builder(servers).connect_time_limit(TIME_LIMIT).response_time_limit(TIME_LIMIT);
    Cache::builder(backend.build().expect("builds"))
        .read_time_limit(TIME_LIMIT)
        .options(EntryOptions::new().lease(lease))
        .build()
}

fn groups() -> Groups {
    (0..3).map(|id| Group::new("row").with("id", id)).collect()
}

/// The program of one process, which runs a third of the readers. Does nothing unless a test has started it.
#[test]
fn one_of_the_processes() {
    let Ok(servers) = std::env::var(SERVERS) else { return };
    let seconds = std::env::var(LEASE_SECONDS).ok().and_then(|seconds| seconds.parse().ok());
    let lease = Duration::from_secs(seconds.expect("seconds"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async move {
        let cache = cache(&servers, lease);
        cache.backend().connect().await.expect("connects");
        let loads = Arc::new(AtomicU64::new(0));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..READERS.div_ceil(3) {
            let (cache, loads) = (cache.clone(), Arc::clone(&loads));
            readers.spawn(async move {
                let load = || async {
                    loads.fetch_add(1, Ordering::SeqCst);
                    println!("\nloading");
                    tokio::time::sleep(LOAD_TIME).await;
                    Ok::<_, std::convert::Infallible>(std::process::id())
                };
                let Ok(value) = cache.get_or_load("page", groups(), load).await;
                value
            });
        }
        let values = readers.join_all().await;
        assert!(values.iter().all(|value| *value == values[0]), "readers disagree");
        println!("\nread {} loads {}", values[0], loads.load(Ordering::SeqCst));
    });
}

struct Process {
    child: Child,
    /// The lines that it prints.
    lines: Receiver<String>,
}

impl Process {
    fn start(servers: &str, lease: Duration) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.args(["--exact", "lease::one_of_the_processes", "--nocapture"]).env(SERVERS, servers);
        command.env(LEASE_SECONDS, lease.as_secs().to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let output = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.map_while(Result::ok) {
                if (line == "loading" || line.starts_with("read ")) && sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Returns the value that its readers read, and the number of its loads.
    fn outcome(&self) -> (u32, u64) {
        loop {
            let line = self.lines.recv_timeout(TIME_LIMIT).expect("it prints what it read");
            if let Some((read, loads)) =
                line.strip_prefix("read ").and_then(|rest| rest.split_once(" loads "))
            {
                return (read.parse().expect("a number"), loads.parse().expect("a number"));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        process::kill(&mut self.child);
    }
}

fn start_three(servers: &MemcachedServers, lease: Duration) -> Vec<Process> {
    (0..3).map(|_| Process::start(&servers.url(), lease)).collect()
}

#[test]
fn ten_thousand_first_requests_in_three_processes_are_one_load_also_after_an_invalidation() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let _turn = turns::blocking_timing();
    let lease = Duration::from_secs(30);
    let mut pages = Vec::new();
    for round in 0..2 {
        let outcomes: Vec<_> = start_three(&servers, lease).iter().map(Process::outcome).collect();
        let loads: u64 = outcomes.iter().map(|(_, loads)| loads).sum();
        assert_eq!(loads, 1, "round {round}: {outcomes:?}");
        assert!(outcomes.iter().all(|(read, _)| *read == outcomes[0].0), "{outcomes:?}");
        pages.push(outcomes[0].0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let invalidated =
            async { cache(&servers.url(), lease).invalidate(Group::new("row").with("id", 1)).await };
        runtime.block_on(invalidated).expect("acknowledged");
    }
    assert_ne!(pages[0], pages[1], "the page is loaded again after the invalidation");
}

#[test]
fn if_the_loading_process_is_killed_another_loads_within_the_duration_of_the_lease() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let _turn = turns::blocking_timing();
    let lease = Duration::from_secs(5);
    let mut processes = start_three(&servers, lease);
    let began = Instant::now();
    let winner = loop {
        let loading = processes.iter().position(|process| process.lines.try_recv().is_ok());
        if let Some(winner) = loading {
            break winner;
        }
        assert!(began.elapsed() < TIME_LIMIT, "no process loads");
        std::thread::sleep(Duration::from_millis(5));
    };
    drop(processes.swap_remove(winner));
    let killed = Instant::now();
    let outcomes: Vec<_> = processes.iter().map(Process::outcome).collect();
    let took = killed.elapsed();
    assert_eq!(outcomes.iter().map(|(_, loads)| loads).sum::<u64>(), 1, "{outcomes:?}");
    assert_eq!(outcomes[0].0, outcomes[1].0);
    // The store counts in seconds. The pauses between two lookups and the load itself are added.
    assert!(took < lease + Duration::from_secs(2) + LOAD_TIME, "{took:?}");
}
