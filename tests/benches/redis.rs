//! A hit compared with a bare `MGET` of the same keys, with the same client on the same server; and in a
//! cluster of three compared with a bare `GET` of each of the same keys, sent together by its cluster connection.
//!
//! Compare the figures of one run with each other, not with those of another run.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use groupcache_core::{Address, Backend, Cache, Entry, Group, Groups, Key, Loaded, Served};
use groupcache_redis::RedisBackend;
use groupcache_redis::redis::{self, Cmd, Value, aio::MultiplexedConnection};
use groupcache_tests::redis_cluster::RedisCluster;
use groupcache_tests::redis_server::RedisServer;
use tokio::runtime::Runtime;

#[path = "beside/mod.rs"]
mod beside;

fn hit(criterion: &mut Criterion) {
    let Some(server) = RedisServer::start(&[]) else { return };
    let runtime = Runtime::new().expect("a runtime");
    let connection = runtime.block_on(connect(&server));
    let backend = RedisBackend::builder(server.url()).build().expect("builds");
    let cache = Cache::builder(backend).read_time_limit(Duration::from_secs(10)).build();

    let mut bench = criterion.benchmark_group("hit");
    bench.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for (kibibytes, groups, concurrency) in [
        (1, 1, 1),
        (1, 1, 64),
        (1, 1, 256),
        (64, 1, 1),
        (64, 1, 64),
        (64, 1, 256),
        (1, 4, 64),
        (1, 16, 64),
        (1, 64, 64),
    ] {
        let address = Address {
            key: Key::of(&(kibibytes, groups)).expect("a key"),
            groups: (0..groups).map(|id| Group::new("book").with("id", id)).collect(),
        };
        runtime.block_on(store(cache.backend(), &address, kibibytes * 1024));
        let name = format!("{kibibytes}_KiB/{groups}_groups/{concurrency}_at_once");

        let keys = stored_keys(&address);
        let own = connection.clone();
        let mget = move || {
            let (mut connection, keys) = (own.clone(), Arc::clone(&keys));
            async move {
                let mut command = Cmd::new();
                command.arg("MGET").arg(&*keys);
                let answer = connection.send_packed_command(&command).await.expect("answers");
                assert!(matches!(answer, Value::Array(values) if values.len() == keys.len()));
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
        beside::compare(&mut bench, &name, &runtime, concurrency, ("bare_mget", mget), read);
    }
    bench.finish();
}

fn cluster_hit(criterion: &mut Criterion) {
    let Some(cluster) = RedisCluster::start(3, false) else { return };
    let runtime = Runtime::new().expect("a runtime");
    let urls: Vec<_> = cluster.nodes.iter().map(RedisServer::url).collect();
    let connect = async {
        let client = redis::cluster::ClusterClient::new(urls).expect("a client");
        client.get_async_connection().await.expect("connects")
    };
    let connection = runtime.block_on(connect);
    let backend = cluster.builder().build().expect("builds");
    let cache = Cache::builder(backend).read_time_limit(Duration::from_secs(10)).build();
    let addresses: Vec<_> = (0..500)
        .map(|id| Address {
            key: Key::of(&id).expect("a key"),
            groups: Group::new("book").with("id", id).into(),
        })
        .collect();
    for address in &addresses {
        runtime.block_on(store(cache.backend(), address, 1024));
    }
    let keys: Arc<Vec<_>> = Arc::new(addresses.iter().map(stored_keys).collect());
    let addresses = Arc::new(addresses);
    let next = Arc::new(AtomicUsize::new(0));
    let pick = move || next.fetch_add(1, Ordering::Relaxed) % 500;

    let mut bench = criterion.benchmark_group("cluster_hit");
    bench.sample_size(20).warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(2));
    for concurrency in [1, 64, 256] {
        let (own, keys, next) = (connection.clone(), Arc::clone(&keys), pick.clone());
        let gets = move || {
            let (connection, keys, next) = (own.clone(), Arc::clone(&keys), next());
            async move {
                let gets = keys[next].iter().map(|key| {
                    let mut connection = connection.clone();
                    async move { redis::cmd("GET").arg(key).query_async::<Value>(&mut connection).await }
                });
                let values = futures_util::future::try_join_all(gets).await.expect("answers");
                assert!(values.iter().all(|value| matches!(value, Value::BulkString(_))));
            }
        };
        let (own, addresses, next) = (cache.clone(), Arc::clone(&addresses), pick.clone());
        let read = move || {
            let (cache, addresses, next) = (own.clone(), Arc::clone(&addresses), next());
            async move {
                let load = || async { Err::<Loaded<()>, _>("a miss") };
                let outcome = cache.read(&addresses[next], |entry| Some(entry.body().clone()), load).await;
                assert!(matches!(outcome.expect("a hit").served, Served::Entry(..)));
            }
        };
        let name = format!("1_KiB/1_groups/{concurrency}_at_once");
        beside::compare(&mut bench, &name, &runtime, concurrency, ("bare_gets", gets), read);
    }
    bench.finish();
}

async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a client");
    let options = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&options).await.expect("connects")
}

/// The names that the backend gives them.
fn stored_keys(address: &Address) -> Arc<Vec<String>> {
    let hex = |hash: [u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let entry = format!("groupcache:e:{}", hex(address.key.hash()));
    let groups = address.groups.iter().map(|group| format!("groupcache:g:{}", hex(group.hash())));
    Arc::new(std::iter::once(entry).chain(groups).collect())
}

async fn store(backend: &RedisBackend, address: &Address, bytes: usize) {
    let groups: &Groups = &address.groups;
    let vector = backend.mint(groups).await.expect("mints").vector;
    let body = Bytes::from(vec![b'x'; bytes]);
    let entry = Entry::new(address.key.clone(), groups.clone(), vector, body, Duration::ZERO);
    backend.store(&Arc::new(entry), None).await.expect("stores");
}

criterion_group!(benches, hit, cluster_hit);
criterion_main!(benches);
