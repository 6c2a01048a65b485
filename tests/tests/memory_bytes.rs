//! The bytes that the memory backend counts, compared with the bytes that the process allocates.
//!
//! This test has a binary of its own, as any other test in the process would allocate too.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::HeaderMap;
use axum::routing::get;
use groupcache_axum::Pages;
use groupcache_core::{Cache, Group, Groups};
use groupcache_memory::MemoryBackend;
use peak_alloc::PeakAlloc;
use tower::ServiceExt;

#[global_allocator]
static ALLOCATED: PeakAlloc = PeakAlloc;

const ENTRIES: usize = 2000;

/// Returns how many bytes the process allocates for each that the backend counts.
async fn allocated_per_counted(insert_all: impl AsyncFnOnce(Cache<MemoryBackend>)) -> f64 {
    let backend = MemoryBackend::with_max_bytes(1 << 30);
    let cache = Cache::builder(backend.clone()).build();
    let before = ALLOCATED.current_usage();
    insert_all(cache.clone()).await;
    // moka buffers new entries first.
    for _ in 0..10 {
        backend.run_pending_tasks();
    }
    assert_eq!(backend.entry_count(), ENTRIES as u64);
    let allocated = ALLOCATED.current_usage().saturating_sub(before);
    allocated as f64 / backend.size_bytes() as f64
}

/// Requests pages twice, the second time from memory. Each has this many headers and bytes of body and query.
async fn pages(headers: usize, body_bytes: usize, query_bytes: usize) -> f64 {
    allocated_per_counted(async |cache| {
        let pages = Pages::new(cache);
        let handler = move || async move {
            let mut all = HeaderMap::new();
            for number in 0..headers {
                let name: axum::http::HeaderName = format!("x-header-{number}").parse().expect("a name");
                all.insert(name, "a value of some length".parse().expect("a value"));
            }
            (all, "x".repeat(body_bytes))
        };
        let view = pages.tagged("all").named("page").wrap(handler);
        let app: Router = pages.router().route("/pages/{id}", get(view)).build().expect("a router");
        for number in 0..ENTRIES {
            for _ in 0..2 {
                let uri = format!("/pages/{number}?{}", "q".repeat(query_bytes));
                let request = Request::builder().uri(uri).body(Body::empty()).expect("a request");
                let response = app.clone().oneshot(request).await.expect("a response");
                to_bytes(response.into_body(), usize::MAX).await.expect("a body");
            }
        }
    })
    .await
}

/// Loads values of this many bytes, each with this many groups of its own whose names have this many bytes.
async fn values(bytes: usize, groups: usize, name_bytes: usize) -> f64 {
    allocated_per_counted(async |cache| {
        for number in 0..ENTRIES {
            let own = (0..groups)
                .map(|at| Group::new("x".repeat(name_bytes)).with("number", number).with("at", at));
            let value = || async { Ok::<_, ()>("x".repeat(bytes)) };
            cache.get_or_load(&number, Groups::from_iter(own), value).await.expect("a value");
        }
    })
    .await
}

#[tokio::test]
async fn no_more_is_allocated_than_is_counted_and_not_much_less() {
    let rows = [
        ("a page with few headers", pages(1, 500, 0).await),
        ("a page with many headers", pages(20, 500, 0).await),
        ("a page with a large body", pages(3, 50_000, 0).await),
        ("a page with a long query", pages(3, 500, 5_000).await),
        ("a small value", values(10, 1, 5).await),
        ("a large value", values(20_000, 1, 5).await),
        ("a value of many groups", values(10, 20, 5).await),
        ("a value of groups with long names", values(10, 3, 1_000).await),
    ];
    for (row, ratio) in rows {
        println!("{row}: {ratio:.2} bytes allocated for each byte counted");
    }
    for (row, ratio) in rows {
        assert!((0.7..1.15).contains(&ratio), "{row}: {ratio:.2}");
    }
}
