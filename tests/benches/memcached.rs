//! A hit compared with a bare multi-get of the same keys, with the same client on the same servers.
//!
//! Compare the figures of one run with each other, not with those of another run.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use groupcache_core::{Address, Backend, Cache, Entry, Group, Groups, Key, Loaded, Served};
use groupcache_memcached::MemcachedBackend;
use groupcache_memcached::memcache::exp::{AsyncMetaClient, Get, Router};
use groupcache_tests::memcached_server::MemcachedServers;
use tokio::runtime::Runtime;

#[path = "beside/mod.rs"]
mod beside;

const CONNECTIONS: usize = 64;

fn hit(criterion: &mut Criterion) {
    let mut bench = criterion.benchmark_group("hit");
    bench.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for servers in [1, 3] {
        // One thread each. With several threads, chance decides which connections share one.
        let Some(servers) = MemcachedServers::start(servers, &["-m", "256", "-t", "1"]) else { return };
        hit_on(&servers, &mut bench);
    }
    bench.finish();
}

fn hit_on(servers: &MemcachedServers, bench: &mut BenchmarkGroup<'_, WallTime>) {
    let runtime = Runtime::new().expect("a runtime");
    let time_limit = Duration::from_secs(10);
    let backend = MemcachedBackend::builder(servers.url())
        .max_connections(CONNECTIONS)
        .connect_time_limit(time_limit)
        .response_time_limit(time_limit);
    let cache = Cache::builder(backend.build().expect("builds")).read_time_limit(time_limit).build();
    for (kibibytes, groups, concurrency) in
        [(1, 1, 1), (1, 1, 64), (1, 1, 256), (64, 1, 1), (64, 1, 64), (64, 1, 256), (1, 4, 64), (1, 16, 64)]
    {
        let address = Address {
            key: Key::of(&(kibibytes, groups)).expect("a key"),
            groups: (0..groups).map(|id| Group::new("book").with("id", id)).collect(),
        };
        runtime.block_on(store(cache.backend(), &address, kibibytes * 1024));
        let count = servers.0.len();
        let name = format!("{count}_servers/{kibibytes}_KiB/{groups}_groups/{concurrency}_at_once");

        let keys = stored_keys(&address);
        let client = runtime.block_on(bare_client(servers, &keys));
        let get = move || {
            let (client, keys) = (client.clone(), Arc::clone(&keys));
            async move {
                let answers = client.run_many(keys.iter().map(Get::new)).await.expect("answers");
                assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|got| got.hit())));
            }
        };
        let address = Arc::new(address);
        let own = cache.clone();
        let read = move || {
            let (cache, address) = (own.clone(), Arc::clone(&address));
            async move {
                let load = || async { Err::<Loaded<()>, _>("a miss") };
                let outcome =
                    cache.read(&address, |entry| Some(entry.body().clone()), load).await.expect("a hit");
                assert!(matches!(outcome.served, Served::Entry(..)));
            }
        };
        beside::compare(bench, &name, &runtime, concurrency, ("bare_multi_get", get), read);
    }
}

/// Routes each key to the server that has it.
struct Found(HashMap<Vec<u8>, usize>);

impl Router for Found {
    fn route(&self, key: &[u8], _: &[String]) -> usize {
        self.0[key]
    }
}

async fn bare_client(servers: &MemcachedServers, keys: &[String]) -> AsyncMetaClient {
    let on = |key: &String| {
        let has = |reply: String| reply.starts_with("HD");
        servers.0.iter().position(|server| has(server.command(&format!("mg {key} s\r\nmn"), "MN")))
    };
    let found = keys.iter().map(|key| (key.clone().into_bytes(), on(key).expect("on one of them"))).collect();
    AsyncMetaClient::builder()
        .router(Found(found))
        .max_connections(Some(CONNECTIONS))
        .max_idle(CONNECTIONS)
        .connect_timeout(Some(Duration::from_secs(10)))
        .io_timeout(Some(Duration::from_secs(10)))
        .connect_multiple_async(servers.0.iter().map(|server| ("127.0.0.1", server.port())))
        .await
        .expect("connects")
}

/// The names that the backend gives them.
fn stored_keys(address: &Address) -> Arc<Vec<String>> {
    let hex = |hash: [u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let entry = format!("groupcache:e:{}", hex(address.key.hash()));
    let groups = address.groups.iter().map(|group| format!("groupcache:g:{}", hex(group.hash())));
    Arc::new(std::iter::once(entry).chain(groups).collect())
}

async fn store(backend: &MemcachedBackend, address: &Address, bytes: usize) {
    let groups: &Groups = &address.groups;
    let vector = backend.mint(groups).await.expect("mints").vector;
    let body = Bytes::from(vec![b'x'; bytes]);
    let entry = Entry::new(address.key.clone(), groups.clone(), vector, body, Duration::ZERO);
    backend.store(&Arc::new(entry), None).await.expect("stores");
}

criterion_group!(benches, hit);
criterion_main!(benches);
