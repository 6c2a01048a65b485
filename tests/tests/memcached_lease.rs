//! Of several processes that miss the same page, one computes it: real processes, which are this very
//! test program run again, on three memcached servers.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use groupcache_core::{Cache, EntryOptions, Group, Groups};
use groupcache_memcached::MemcachedBackend;
use groupcache_tests::memcached::MemcachedServers;
use tokio::time::Instant;

const SERVERS: &str = "GROUPCACHE_TEST_LEASE_SERVERS";
const READERS: usize = 10_000;
const LEASE_SECONDS: &str = "GROUPCACHE_TEST_LEASE_SECONDS";
const COMPUTATION: Duration = Duration::from_millis(1_500);
const PATIENCE: Duration = Duration::from_secs(60);

/// One test at a time: each keeps the machine busy.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

fn cache(servers: &str, lease: Duration) -> Cache<MemcachedBackend> {
    // The machine may be slow; what is tested here is not the time limits.
    let backend =
        MemcachedBackend::builder(servers).connect_time_limit(PATIENCE).response_time_limit(PATIENCE);
    Cache::builder(backend.build().expect("builds"))
        .read_time_limit(PATIENCE)
        .options(EntryOptions::new().lease(lease))
        .build()
}

fn groups() -> Groups {
    (0..3).map(|id| Group::new("row").with("id", id)).collect()
}

/// One of the processes: a third of the readers. Nothing where no test has started it.
#[test]
fn one_of_the_processes() {
    let Ok(servers) = std::env::var(SERVERS) else { return };
    let seconds = std::env::var(LEASE_SECONDS).ok().and_then(|seconds| seconds.parse().ok());
    let lease = Duration::from_secs(seconds.expect("seconds"));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async move {
        let cache = cache(&servers, lease);
        cache.backend().connect().await.expect("connects");
        let computations = Arc::new(AtomicU64::new(0));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..READERS.div_ceil(3) {
            let (cache, computations) = (cache.clone(), Arc::clone(&computations));
            readers.spawn(async move {
                let load = || async {
                    computations.fetch_add(1, Ordering::SeqCst);
                    println!("\ncomputing");
                    tokio::time::sleep(COMPUTATION).await;
                    Ok::<_, std::convert::Infallible>(std::process::id())
                };
                let Ok(value) = cache.get_or_load("page", groups(), load).await;
                value
            });
        }
        let values = readers.join_all().await;
        assert!(values.iter().all(|value| *value == values[0]), "readers disagree");
        println!("\nread {} computed {}", values[0], computations.load(Ordering::SeqCst));
    });
}

struct Process {
    child: Child,
    /// What it says, and when.
    says: Receiver<String>,
}

impl Process {
    fn start(servers: &str, lease: Duration) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("a path"));
        command.args(["--exact", "one_of_the_processes", "--nocapture"]).env(SERVERS, servers);
        command.env(LEASE_SECONDS, lease.as_secs().to_string());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("starts");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let (sender, says) = channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                if (line == "computing" || line.starts_with("read ")) && sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, says }
    }

    /// What its readers read, and how many computations it made.
    fn outcome(&self) -> (u32, u64) {
        loop {
            let said = self.says.recv_timeout(PATIENCE).expect("it says what it read");
            if let Some((read, computed)) =
                said.strip_prefix("read ").and_then(|rest| rest.split_once(" computed "))
            {
                return (read.parse().expect("a number"), computed.parse().expect("a number"));
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _already_gone = self.child.kill();
        let _already_gone = self.child.wait();
    }
}

fn start_three(servers: &MemcachedServers, lease: Duration) -> Vec<Process> {
    (0..3).map(|_| Process::start(&servers.url(), lease)).collect()
}

#[test]
fn ten_thousand_first_requests_in_three_processes_are_one_computation_also_after_an_invalidation() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lease = Duration::from_secs(30);
    let mut pages = Vec::new();
    for round in 0..2 {
        let outcomes: Vec<_> = start_three(&servers, lease).iter().map(Process::outcome).collect();
        let computed: u64 = outcomes.iter().map(|(_, computed)| computed).sum();
        assert_eq!(computed, 1, "round {round}: {outcomes:?}");
        assert!(outcomes.iter().all(|(read, _)| *read == outcomes[0].0), "{outcomes:?}");
        pages.push(outcomes[0].0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let invalidated =
            async { cache(&servers.url(), lease).invalidate(Group::new("row").with("id", 1)).await };
        runtime.block_on(invalidated).expect("acknowledged");
    }
    assert_ne!(pages[0], pages[1], "what was invalidated is computed anew");
}

#[test]
fn if_the_process_that_computes_is_killed_another_does_within_the_time_of_the_lease() {
    let Some(servers) = MemcachedServers::start(3, &[]) else { return };
    let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let lease = Duration::from_secs(5);
    let mut processes = start_three(&servers, lease);
    let began = Instant::now();
    let winner = loop {
        let computing = processes.iter().position(|process| process.says.try_recv().is_ok());
        if let Some(winner) = computing {
            break winner;
        }
        assert!(began.elapsed() < PATIENCE, "nobody computes");
        std::thread::sleep(Duration::from_millis(5));
    };
    drop(processes.swap_remove(winner));
    let killed = Instant::now();
    let outcomes: Vec<_> = processes.iter().map(Process::outcome).collect();
    let took = killed.elapsed();
    assert_eq!(outcomes.iter().map(|(_, computed)| computed).sum::<u64>(), 1, "{outcomes:?}");
    assert_eq!(outcomes[0].0, outcomes[1].0);
    // The store counts in seconds; the pauses between two looks come on top, and the computation itself.
    assert!(took < lease + Duration::from_secs(2) + COMPUTATION, "{took:?}");
}
