//! What a hit costs beside a bare `MGET` of the same keys, with the same client on the same server.
//! Compare the figures of one run with each other, not with those of another.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use groupcache_core::{Address, Backend, Cache, Entry, Group, Groups, Key, Loaded, Served};
use groupcache_redis::RedisBackend;
use groupcache_redis::redis::{self, Cmd, Value, aio::MultiplexedConnection};
use groupcache_tests::servers::RedisServer;
use tokio::runtime::Runtime;
use tokio::time::Instant;

fn hit(criterion: &mut Criterion) {
    let Some(server) = RedisServer::start(&[]) else { return };
    let runtime = Runtime::new().expect("a runtime");
    let connection = runtime.block_on(connect(&server));
    let backend = RedisBackend::builder(server.url()).build().expect("builds");
    let cache = Cache::builder(backend).soft_time_limit(Duration::from_secs(10)).build();

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
        runtime.block_on(fill(cache.backend(), &address, kibibytes * 1024));
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
        measure(&mut bench, &format!("bare_mget/{name}"), &runtime, concurrency, mget.clone());
        let address = Arc::new(address);
        let own = cache.clone();
        let read = move || {
            let (cache, address) = (own.clone(), Arc::clone(&address));
            async move {
                let load = || async { Err::<Loaded<()>, _>("a miss") };
                let (served, _) =
                    cache.read(&address, |entry| Some(entry.body().clone()), load).await.expect("a hit");
                assert!(matches!(served, Served::Entry(..)));
            }
        };
        measure(&mut bench, &format!("groupcache/{name}"), &runtime, concurrency, read.clone());
        let share = if kibibytes == 1 { 8192 } else { 1024 } / concurrency.max(8);
        let ratio = runtime.block_on(throughput_beside(concurrency, share, mget, read));
        println!("hit/{name}: {ratio:.2} of the throughput of a bare MGET, measured in turns");
    }
    bench.finish();
}

/// The median of many short turns of one after the other, so that whatever else the machine does
/// meanwhile troubles both alike. Long enough for the start of the tasks not to count.
async fn throughput_beside<One, Other>(
    concurrency: usize,
    share: usize,
    bare: impl Fn() -> One + Clone + Send + 'static,
    measured: impl Fn() -> Other + Clone + Send + 'static,
) -> f64
where
    One: Future<Output = ()> + Send + 'static,
    Other: Future<Output = ()> + Send + 'static,
{
    let mut ratios = Vec::new();
    for _ in 0..61 {
        let before = run(concurrency, share, bare.clone()).await;
        let took = run(concurrency, share, measured.clone()).await;
        let after = run(concurrency, share, bare.clone()).await;
        ratios.push((before + after).as_secs_f64() / 2.0 / took.as_secs_f64());
    }
    ratios.sort_by(f64::total_cmp);
    ratios[ratios.len() / 2]
}

/// How long it takes that many tasks to do it that many times each.
async fn run<Fut: Future<Output = ()> + Send + 'static>(
    concurrency: usize,
    share: usize,
    once: impl Fn() -> Fut + Clone + Send + 'static,
) -> Duration {
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..concurrency {
        let once = once.clone();
        tasks.spawn(async move {
            for _ in 0..share {
                once().await;
            }
        });
    }
    tasks.join_all().await;
    began.elapsed()
}

/// As many tasks as `concurrency` that do it again and again.
fn measure<Fut: Future<Output = ()> + Send + 'static>(
    bench: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    runtime: &Runtime,
    concurrency: usize,
    once: impl Fn() -> Fut + Clone + Send + 'static,
) {
    bench.bench_function(name, |bencher| {
        bencher.iter_custom(|iterations| {
            let share = usize::try_from(iterations).unwrap_or(usize::MAX).div_ceil(concurrency);
            let took = runtime.block_on(run(concurrency, share, once.clone()));
            // Some more than asked for.
            let done = f64::from(u32::try_from(share * concurrency).expect("not that many"));
            took.mul_f64(iterations as f64 / done)
        });
    });
}

async fn connect(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a client");
    let options = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    client.get_multiplexed_async_connection_with_config(&options).await.expect("connects")
}

/// What the backend calls them.
fn stored_keys(address: &Address) -> Arc<Vec<String>> {
    let hex = |hash: [u8; 32]| hash.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let entry = format!("groupcache:e:{}", hex(address.key.hash()));
    let groups = address.groups.iter().map(|group| format!("groupcache:g:{}", hex(group.hash())));
    Arc::new(std::iter::once(entry).chain(groups).collect())
}

async fn fill(backend: &RedisBackend, address: &Address, bytes: usize) {
    let groups: &Groups = &address.groups;
    let vector = backend.mint(groups).await.expect("mints").vector;
    let body = Bytes::from(vec![b'x'; bytes]);
    let entry = Entry::new(address.key.clone(), groups.clone(), vector, body, Duration::ZERO);
    backend.store(&Arc::new(entry), None).await.expect("stores");
}

criterion_group!(benches, hit);
criterion_main!(benches);
