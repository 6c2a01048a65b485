//! A hit beside a bare moka `get`, and invalidations of groups of 1 and of 1,000,000 entries.
//!
//! Compare the figures of one run with each other, not with those of another run.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{
    BatchSize, BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime,
};
use groupcache_core::{Address, Backend, Cache, Entry, Error, Group, Groups, Key, Loaded, Served};
use groupcache_memory::MemoryBackend;
use serde::{Deserialize, Serialize};
use tokio::runtime::Runtime;

/// Returns a body on the heap, as real ones are.
fn body() -> Bytes {
    Bytes::from(vec![b'x'; 1024])
}

fn hit(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut bench = criterion.benchmark_group("hit");
    let key = Key::of(&("page", "/books/5", "")).expect("a key");

    // The same key and the same bytes without invalidation.
    let moka = moka::sync::Cache::builder().max_capacity(1 << 20).build();
    moka.insert(key.clone(), body());
    bench.bench_function("bare_moka_get", |bencher| bencher.iter(|| black_box(moka.get(black_box(&key)))));

    for count in [1, 4, 16] {
        let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
        let address = Address { key: key.clone(), groups: groups(count) };
        runtime.block_on(read(&cache, &address));
        measure_read_now(&mut bench, &format!("{count}_groups"), &cache, &address);
        bench.bench_function(format!("{count}_groups_async"), |bencher| {
            bencher.to_async(&runtime).iter(|| async { black_box(read(&cache, black_box(&address)).await) });
        });
    }
    bench.finish();
}

/// A row of a table.
#[derive(Clone, Serialize, Deserialize)]
struct Row {
    id: u32,
    title: String,
    author: String,
    year: u16,
}

fn rows(count: u32) -> Vec<Row> {
    let row = |id| Row { id, title: format!("Title {id}"), author: "Jane Austen".to_owned(), year: 1817 };
    (0..count).map(row).collect()
}

/// Hits of typed values. Each builds its key and its groups, which the bare `get` does not.
fn typed(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut bench = criterion.benchmark_group("typed_hit");
    let key = Key::of("title").expect("a key");
    let moka = moka::sync::Cache::builder().max_capacity(1 << 20).build();
    moka.insert(key.clone(), Arc::new("Emma".to_owned()));
    bench.bench_function("bare_moka_get", |bencher| bencher.iter(|| black_box(moka.get(black_box(&key)))));

    bench.bench_function("key_and_groups_only", |bencher| {
        bencher.iter(|| black_box((Key::of("title"), Groups::from(Group::new("book").with("id", 5)))));
    });
    let cache = Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build();
    let group = || Group::new("book").with("id", 5);
    let title = || cache.get_or_load_shared("title", group(), || async { Ok::<_, ()>("Emma".to_owned()) });
    bench.bench_function("shared_text", |bencher| {
        bencher.to_async(&runtime).iter(|| async { black_box(title().await) });
    });
    let title = || cache.get_or_load("title", group(), || async { Ok::<_, ()>("Emma".to_owned()) });
    bench.bench_function("text", |bencher| {
        bencher.to_async(&runtime).iter(|| async { black_box(title().await) });
    });
    let shared = || cache.get_or_load_shared("rows", group(), || async { Ok::<_, ()>(rows(100)) });
    bench.bench_function("shared_100_rows", |bencher| {
        bencher.to_async(&runtime).iter(|| async { black_box(shared().await) });
    });
    let copied = || cache.get_or_load("rows", group(), || async { Ok::<_, ()>(rows(100)) });
    bench.bench_function("100_rows", |bencher| {
        bencher.to_async(&runtime).iter(|| async { black_box(copied().await) });
    });
    bench.bench_function("load_of_100_rows", |bencher| {
        bencher.to_async(&runtime).iter(|| async {
            cache.insert("new rows", group(), || async { Ok::<_, Error>(rows(100)) }).await
        });
    });
    bench.finish();
}

fn invalidate(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut bench = criterion.benchmark_group("invalidate");
    bench.measurement_time(Duration::from_secs(3));
    for count in [1_u32, 1_000_000] {
        bench.bench_function(format!("group_of_{count}_entries"), |bencher| {
            let groups = Groups::from(Group::new("book"));
            let cache = runtime.block_on(cache_of(count, &groups));
            bencher.to_async(&runtime).iter_batched(
                || groups.clone(),
                |groups| async { cache.invalidate(groups).await.expect("invalidates") },
                BatchSize::SmallInput,
            );
        });
    }
    bench.finish();
}

/// Returns a cache with `count` entries of the same groups.
async fn cache_of(count: u32, groups: &Groups) -> Cache<MemoryBackend> {
    let backend = MemoryBackend::with_max_bytes(4 << 30);
    let minted = backend.mint(groups).await.expect("mints");
    for number in 0..count {
        let key = Key::of(&number).expect("a key");
        let body = Bytes::from_static(b"x");
        let entry = Entry::new(key, groups.clone(), minted.vector.clone(), body, Duration::ZERO);
        backend.store(&Arc::new(entry), None).await.expect("stores");
    }
    backend.run_pending_tasks();
    assert_eq!(backend.entry_count(), u64::from(count));
    Cache::builder(backend).build()
}

fn measure_read_now(
    bench: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    cache: &Cache<MemoryBackend>,
    address: &Address,
) {
    bench.bench_function(name, |bencher| {
        bencher.iter(|| black_box(cache.read_now(black_box(address), |entry| Some(entry.body().clone()))));
    });
    assert!(cache.read_now(address, |_| Some(())).is_some(), "misses were measured");
}

async fn read(cache: &Cache<MemoryBackend>, address: &Address) -> Bytes {
    let load = || async { Ok::<_, ()>(Loaded::store(Bytes::new(), body())) };
    match cache.read(address, |entry| Some(entry.body().clone()), load).await.map(|outcome| outcome.served) {
        Ok(Served::Entry(body, _) | Served::Loaded { value: body, .. }) => body,
        Err(()) => Bytes::new(),
    }
}

fn groups(count: u32) -> Groups {
    (0..count).map(|id| Group::new("book").with("id", id)).collect()
}

criterion_group!(benches, hit, typed, invalidate);
criterion_main!(benches);
