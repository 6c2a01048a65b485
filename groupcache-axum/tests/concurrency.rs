//! Concurrent requests of one page.

mod common;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use axum::routing::get as axum_get;
use groupcache_axum::Pages;
use groupcache_core::{Cache, EntryOptions};
use groupcache_memory::MemoryBackend;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use common::{Runs, get, pages, send, status, text};

/// Counts its runs, and completes when notified.
async fn slow(State((runs, go_on)): State<(Runs, Arc<Notify>)>) -> String {
    let run = runs.next();
    go_on.notified().await;
    run.to_string()
}

fn app() -> (Router, Runs, Arc<Notify>) {
    app_with(EntryOptions::new())
}

fn app_with(options: EntryOptions) -> (Router, Runs, Arc<Notify>) {
    let (runs, go_on) = (Runs::default(), Arc::new(Notify::new()));
    let backend = MemoryBackend::with_max_bytes(16 << 20);
    let pages = Pages::new(Cache::builder(backend).options(options).build());
    let view = pages.tagged("t").wrap(slow);
    let router = pages.router().route("/page", axum_get(view)).build().unwrap();
    (router.with_state((runs.clone(), Arc::clone(&go_on))), runs, go_on)
}

async fn ran(runs: &Runs, count: u64) {
    let ran = async {
        while runs.count() < count {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ran).await.expect("the handler runs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_first_requests_run_the_handler_once() {
    let (app, runs, go_on) = app();
    let mut requests = JoinSet::new();
    for _ in 0..1000 {
        let app = app.clone();
        requests.spawn(async move { text(send(&app, get("/page")).await).await });
    }
    ran(&runs, 1).await;
    // Gives all requests time to join before the handler completes.
    tokio::time::sleep(Duration::from_millis(100)).await;
    go_on.notify_one();
    let bodies = requests.join_all().await;
    assert_eq!(bodies, vec!["1"; 1000]);
    assert_eq!(runs.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn if_the_request_that_loads_is_cancelled_its_run_goes_on_for_the_others() {
    let (app, runs, go_on) = app();
    let first = tokio::spawn({
        let app = app.clone();
        async move { drop(send(&app, get("/page")).await) }
    });
    ran(&runs, 1).await;
    let mut requests = JoinSet::new();
    for _ in 0..999 {
        let app = app.clone();
        requests.spawn(async move { text(send(&app, get("/page")).await).await });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.abort();
    drop(first.await);
    go_on.notify_one();
    let bodies =
        tokio::time::timeout(Duration::from_secs(10), requests.join_all()).await.expect("no request hangs");
    assert_eq!(bodies, vec!["1"; 999]);
    assert_eq!(runs.count(), 1);
}

/// The handler finishes the page after its only client has left. The next request finds it.
#[tokio::test]
async fn a_run_whose_only_client_leaves_goes_on() {
    let (app, runs, go_on) = app();
    let first = tokio::spawn({
        let app = app.clone();
        async move { drop(send(&app, get("/page")).await) }
    });
    ran(&runs, 1).await;
    first.abort();
    drop(first.await);
    go_on.notify_one();
    assert_eq!(text(send(&app, get("/page")).await).await, "1");
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn a_page_that_takes_longer_than_its_hard_timeout_is_a_504_and_there_for_later_requests() {
    let options = EntryOptions::new().load_hard_timeout(Duration::from_millis(20));
    let (app, runs, go_on) = app_with(options);
    let response = send(&app, get("/page")).await;
    assert_eq!(response.status(), StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(status(&response), "groupcache; fwd=uri-miss; detail=load-timeout");
    go_on.notify_one();
    tokio::task::yield_now().await;
    assert_eq!(text(send(&app, get("/page")).await).await, "1");
    assert_eq!(runs.count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_limit_of_zero_a_run_is_cancelled_with_its_request_and_another_takes_over() {
    let (app, runs, go_on) = app_with(EntryOptions::new().detached_load_time_limit(Duration::ZERO));
    let first = tokio::spawn({
        let app = app.clone();
        async move { drop(send(&app, get("/page")).await) }
    });
    ran(&runs, 1).await;
    let mut requests = JoinSet::new();
    for _ in 0..999 {
        let app = app.clone();
        requests.spawn(async move { text(send(&app, get("/page")).await).await });
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.abort();
    ran(&runs, 2).await;
    go_on.notify_one();
    let bodies =
        tokio::time::timeout(Duration::from_secs(10), requests.join_all()).await.expect("no request hangs");
    assert_eq!(bodies, vec!["2"; 999]);
    assert_eq!(runs.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panicking_handler_hangs_no_request() {
    async fn panics_once(State(runs): State<Runs>) -> String {
        let run = runs.next();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_ne!(run, 1, "the first run fails");
        run.to_string()
    }
    let (pages, runs) = (pages(), Runs::default());
    let view = pages.tagged("t").wrap(panics_once);
    let app = pages.router().route("/page", axum_get(view)).build().unwrap().with_state(runs.clone());
    let mut requests = JoinSet::new();
    for _ in 0..100 {
        let app = app.clone();
        requests.spawn(async move { text(send(&app, get("/page")).await).await });
    }
    let mut bodies = Vec::new();
    while let Some(joined) =
        tokio::time::timeout(Duration::from_secs(10), requests.join_next()).await.unwrap()
    {
        bodies.extend(joined.ok());
    }
    assert_eq!(bodies, vec!["2"; 99], "one request panicked, all others have the page of the second run");
    assert_eq!(runs.count(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_after_an_invalidation_does_not_join_a_run_from_before() {
    let (pages, runs, go_on) = (pages(), Runs::default(), Arc::new(Notify::new()));
    let view = pages.tagged("t").wrap(slow);
    let router = pages.router().route("/page", axum_get(view)).build().unwrap();
    let app = router.with_state((runs.clone(), Arc::clone(&go_on)));
    let spawn_request = || {
        let app = app.clone();
        tokio::spawn(async move { text(send(&app, get("/page")).await).await })
    };
    let before = spawn_request();
    ran(&runs, 1).await;
    pages.uncache_from_tag("t").await.unwrap();
    let after = spawn_request();
    go_on.notify_one();
    assert_eq!(before.await.unwrap(), "1");
    // The handler runs once at a time.
    ran(&runs, 2).await;
    go_on.notify_one();
    assert_eq!(after.await.unwrap(), "2");
    let now = send(&app, get("/page")).await;
    assert_eq!(status(&now), "groupcache; hit");
    assert_eq!(text(now).await, "2");
}

/// Returns how often the handler ran for this many concurrent requests if every run responds with `failure`,
/// and the application.
async fn runs_for(
    requests: usize,
    failure: impl IntoResponse + Clone + Send + Sync + 'static,
) -> (u64, Router) {
    let (pages, runs, go_on) = (pages(), Runs::default(), Arc::new(Notify::new()));
    let handler = {
        let (runs, go_on) = (runs.clone(), Arc::clone(&go_on));
        move || async move {
            if runs.next() == 1 {
                go_on.notified().await;
            }
            failure
        }
    };
    let app: Router =
        pages.router().route("/page", axum_get(pages.tagged("t").wrap(handler))).build().unwrap();
    let mut waiting = JoinSet::new();
    for _ in 0..requests {
        let app = app.clone();
        waiting.spawn(async move { send(&app, get("/page")).await });
    }
    ran(&runs, 1).await;
    // Gives all requests time to join before the handler completes.
    tokio::time::sleep(Duration::from_millis(100)).await;
    go_on.notify_one();
    let mut shared = 0;
    for response in waiting.join_all().await {
        shared += u64::from(status(&response) == "groupcache; fwd=uri-miss; collapsed");
        assert_eq!(
            (response.status(), response.headers().contains_key("etag")),
            (StatusCode::SERVICE_UNAVAILABLE, false)
        );
        assert_eq!(response.headers()["x-of"], "the failure");
        assert_eq!(text(response).await, "down");
    }
    assert_eq!(shared + runs.count(), requests as u64);
    (runs.count(), app)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_shared_with_waiting_requests_and_not_with_later_ones() {
    let down = (StatusCode::SERVICE_UNAVAILABLE, [("x-of", "the failure")], "down");
    let (runs, app) = runs_for(100, down).await;
    assert_eq!(runs, 1);
    for _ in 0..2 {
        let later = send(&app, get("/page")).await;
        assert_eq!(status(&later), "groupcache; fwd=uri-miss; detail=failed");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_failure_is_not_shared() {
    let private =
        [[("x-of", "the failure"), ("set-cookie", "a=b")], [("x-of", "the failure"), ("vary", "cookie")]];
    for headers in private {
        let (runs, _) = runs_for(10, (StatusCode::SERVICE_UNAVAILABLE, headers, "down")).await;
        assert_eq!(runs, 10, "{headers:?}");
    }
}
