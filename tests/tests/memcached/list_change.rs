//! The list of memcached servers changes while readers and writers run, by the documented procedure and
//! without one of its steps.

use std::sync::Arc;
use std::time::Duration;

use groupcache_core::backend::{
    EntryView, LeaseName, LeaseOwner, LeaseRequest, Leased, Lookup, Minted, TimeLeft,
};
use groupcache_core::{Backend, Cache, Entry, Group, Groups, Key, Result};
use groupcache_memcached::{MemcachedBackend, MemcachedBackendBuilder};
use groupcache_tests::history::{Plan, Report, finds_stale_reads, operations, run};
use groupcache_tests::memcached_server::{MemcachedServer, MemcachedServers, url_of};
use groupcache_tests::process::have;
use groupcache_tests::turns;
use tokio::sync::RwLock;
use tokio::time::sleep;

/// The backend of a process, which a restart replaces. A restart waits for the operations in flight.
#[derive(Debug, Clone)]
struct Process(Arc<RwLock<MemcachedBackend>>);

impl Process {
    fn start(builder: MemcachedBackendBuilder) -> Self {
        Self(Arc::new(RwLock::new(builder.build().expect("builds"))))
    }

    async fn restart(&self, builder: MemcachedBackendBuilder) {
        *self.0.write().await = builder.build().expect("builds");
    }
}

#[deny(clippy::missing_trait_methods)]
impl Backend for Process {
    fn name(&self) -> &'static str {
        "process"
    }

    async fn lookup(&self, key: &Key, groups: &[Group], time_left: TimeLeft) -> Result<Lookup> {
        self.0.read().await.lookup(key, groups, time_left).await
    }

    fn lookup_now(&self, _: &Key, _: &mut dyn FnMut(EntryView<'_>)) {}

    async fn lookup_many(&self, requests: &[(Key, Groups)]) -> Result<Vec<Lookup>> {
        self.0.read().await.lookup_many(requests).await
    }

    async fn mint(&self, groups: &[Group]) -> Result<Minted> {
        self.0.read().await.mint(groups).await
    }

    async fn lease(&self, request: &LeaseRequest<'_>) -> Result<Leased> {
        self.0.read().await.lease(request).await
    }

    async fn release(&self, lease: &LeaseName, owner: LeaseOwner) -> Result<()> {
        self.0.read().await.release(lease, owner).await
    }

    async fn bump(&self, groups: &[Group]) -> Result<()> {
        self.0.read().await.bump(groups).await
    }

    async fn store(&self, entry: &Arc<Entry>, time_to_live: Option<Duration>) -> Result<()> {
        self.0.read().await.store(entry, time_to_live).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.0.read().await.delete(key).await
    }

    // The lock is asynchronous, so this cannot forward. The backend applies its own default.
    fn default_time_to_live(&self) -> Option<Duration> {
        None
    }
}

/// Three processes on one list of servers.
struct Service {
    processes: Vec<Process>,
    caches: Vec<Cache<Process>>,
}

impl Service {
    fn start(url: &str) -> Self {
        let processes: Vec<_> = (0..3).map(|_| Process::start(MemcachedBackend::builder(url))).collect();
        let caches = processes.iter().map(|process| Cache::builder(process.clone()).build()).collect();
        Self { processes, caches }
    }

    /// Restarts one process after the other, with a pause after each.
    async fn roll_out(&self, builder: impl Fn() -> MemcachedBackendBuilder) {
        for process in &self.processes {
            process.restart(builder()).await;
            sleep(Duration::from_millis(150)).await;
        }
    }

    /// Changes the list by the documented procedure.
    async fn change(&self, old: &str, new: &str, when_all_bump_both: impl FnOnce()) {
        self.roll_out(|| MemcachedBackend::builder(old).overlap(new)).await;
        when_all_bump_both();
        self.roll_out(|| MemcachedBackend::builder(new).overlap(old)).await;
        self.roll_out(|| MemcachedBackend::builder(new)).await;
    }
}

/// Pages that are seldom read, so that an entry that returns is old.
fn plan(operations: u64) -> Plan {
    Plan { rows: 60, pages: 16, operations, time_limit: Duration::from_secs(180), ..Plan::default() }
}

/// Two servers and the one that joins them.
fn servers() -> Option<([MemcachedServer; 3], String, String)> {
    let MemcachedServers(all) = MemcachedServers::start(3, &[])?;
    let all: [MemcachedServer; 3] = all.try_into().expect("three");
    let (two, three) = (url_of(&all[..2]), url_of(&all));
    Some((all, two, three))
}

fn flush(servers: &[MemcachedServer]) {
    servers.iter().for_each(MemcachedServer::flush_all);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_joins_and_leaves_without_a_stale_read() {
    let _turn = turns::history().await;
    let Some((servers, two, three)) = servers() else { return };
    let service = Service::start(&two);
    let plan = plan(operations(15_000));
    let changes = async {
        for round in 0..2 {
            sleep(Duration::from_millis(200)).await;
            // The server has to be empty when it joins.
            servers[2].flush_all();
            // Keys move to the server that joins and to no other, so no other has to be flushed.
            service.change(&two, &three, || {}).await;
            println!("joined in round {round}");
            // When it leaves, the others get back keys that they had before, so they have to be flushed.
            service.change(&three, &two, || flush(&servers[..2])).await;
        }
    };
    run(&service.caches, plan, changes).await.assert_sound(&plan);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_replaces_another_under_a_new_key_prefix_without_a_flush() {
    let _turn = turns::history().await;
    let Some((servers, two, three)) = servers() else { return };
    let lists = [two, url_of(&servers[1..]), three];
    let service = Service::start(&lists[0]);
    service.roll_out(|| MemcachedBackend::builder(&lists[0]).key_prefix("0")).await;
    let plan = plan(operations(15_000));
    let changes = async {
        for round in 0..3 {
            let (old, new) = (&lists[round % 3], &lists[(round + 1) % 3]);
            let (old_prefix, new_prefix) = (round.to_string(), (round + 1).to_string());
            let [before, after] = [(old, &old_prefix), (new, &new_prefix)]
                .map(|(list, prefix)| move || MemcachedBackend::builder(list).key_prefix(prefix));
            service.roll_out(|| before().overlap(new).overlap_key_prefix(&new_prefix)).await;
            service.roll_out(|| after().overlap(old).overlap_key_prefix(&old_prefix)).await;
            service.roll_out(after).await;
        }
    };
    run(&service.caches, plan, changes).await.assert_sound(&plan);
}

mod the_check_finds {
    //! A missing step, which the check must find.

    use super::*;

    fn short() -> Plan {
        Plan { time_limit: Duration::from_secs(20), ..plan(3_000) }
    }

    async fn rolled(mut steps: impl AsyncFnMut(&Service)) -> Report {
        let Some((servers, two, three)) = servers() else { panic!("no memcached") };
        let service = Service::start(&two);
        let changes = async {
            for _ in 0..2 {
                flush(&servers);
                service.roll_out(|| MemcachedBackend::builder(&two)).await;
                service.roll_out(|| MemcachedBackend::builder(&three)).await;
            }
            steps(&service).await;
        };
        run(&service.caches, short(), changes).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_overlap_at_all() {
        let _turn = turns::history().await;
        if have("memcached") {
            finds_stale_reads(async || rolled(async |_| {}).await).await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn an_overlap_in_which_some_already_read_from_the_new_list() {
        let _turn = turns::history().await;
        let skipped = async || {
            let Some((servers, two, three)) = servers() else { panic!("no memcached") };
            let service = Service::start(&two);
            let changes = async {
                for _ in 0..3 {
                    flush(&servers);
                    service.roll_out(|| MemcachedBackend::builder(&two)).await;
                    // The first step is missing.
                    service.roll_out(|| MemcachedBackend::builder(&three).overlap(&two)).await;
                    service.roll_out(|| MemcachedBackend::builder(&two)).await;
                }
            };
            run(&service.caches, short(), changes).await
        };
        if have("memcached") {
            finds_stale_reads(async || skipped().await).await;
        }
    }

    /// A server joins, everything is invalidated, and it leaves again, without other readers. Returns how
    /// many of 300 pages are old then.
    async fn old_pages_after(back: impl AsyncFn(&Service, &[MemcachedServer], &str, &str)) -> Option<usize> {
        let (servers, two, three) = servers()?;
        let service = Service::start(&two);
        let cache = &service.caches[0];
        let row = |id: u64| Group::new("row").with("id", id);
        let read = async |id: u64, value: u64| {
            let load = || async move { Ok::<_, std::convert::Infallible>(value) };
            let Ok(value) = cache.get_or_load(&("page", id), row(id), load).await;
            value
        };
        for id in 0..300 {
            read(id, 1).await;
        }
        while cache.stats().stores < 300 {
            tokio::task::yield_now().await;
        }
        service.change(&two, &three, || {}).await;
        let all: Groups = (0..300).map(row).collect();
        cache.invalidate(all).await.expect("acknowledged");
        back(&service, &servers, &three, &two).await;
        let mut old = 0;
        for id in 0..300 {
            old += usize::from(read(id, 2).await == 1);
        }
        Some(old)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn servers_that_return_with_their_old_data() {
        let _turn = turns::history().await;
        let not_flushed =
            async |service: &Service, _: &[_], old: &str, new: &str| service.change(old, new, || {}).await;
        let Some(old) = old_pages_after(not_flushed).await else { return };
        assert!(old > 0, "no old page");
        let flushed = async |service: &Service, servers: &[MemcachedServer], old: &str, new: &str| {
            service.change(old, new, || flush(&servers[..2])).await;
        };
        assert_eq!(old_pages_after(flushed).await, Some(0));
        let new_prefix = async |service: &Service, _: &[_], old: &str, new: &str| {
            let after = || MemcachedBackend::builder(new).key_prefix("new");
            service.roll_out(|| MemcachedBackend::builder(old).overlap(new).overlap_key_prefix("new")).await;
            service.roll_out(|| after().overlap(old).overlap_key_prefix("groupcache")).await;
            service.roll_out(after).await;
        };
        assert_eq!(old_pages_after(new_prefix).await, Some(0));
    }
}
