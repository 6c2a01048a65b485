//! When an expired page is served.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get as axum_get;
use groupcache_axum::Pages;
use groupcache_core::{Cache, EntryOptions, ManualClock};
use groupcache_memory::MemoryBackend;

use crate::common::{Runs, body, get, pages, send, status, text};
use crate::count;

#[tokio::test]
async fn an_expired_page_is_served_instead_of_an_error_if_the_view_allows_it() {
    async fn flaky(State(runs): State<Runs>) -> Response {
        match runs.next() {
            1 => "good".into_response(),
            _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
    let clock = ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let cache = Cache::builder(backend).clock(clock.clone()).build();
    let pages = Pages::new(cache);
    let second = Duration::from_secs(1);
    let options = EntryOptions::new().time_to_live(second).stale_if_error(10 * second);
    let view = pages.tagged("t").options(options).wrap(flaky);
    let app = pages.router().route("/page", axum_get(view)).build().unwrap().with_state(Runs::default());

    assert_eq!(body(&app, "/page").await, "good");
    clock.advance(2 * second);
    let response = send(&app, get("/page")).await;
    assert_eq!(status(&response), "groupcache; hit; detail=stale-if-error");
    assert_eq!(text(response).await, "good");
    clock.advance(10 * second);
    assert_eq!(send(&app, get("/page")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn an_invalidated_page_is_never_served_instead_of_an_error() {
    async fn flaky(State(runs): State<Runs>) -> Response {
        match runs.next() {
            1 => "good".into_response(),
            _ => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        }
    }
    let hour = Duration::from_secs(3600);
    let (pages, runs) = (pages(), Runs::default());
    let options = EntryOptions::new().time_to_live(hour).stale_if_error(hour).stale_while_revalidate(hour);
    let view = pages.tagged("t").options(options).wrap(flaky);
    let app = pages.router().route("/page", axum_get(view)).build().unwrap().with_state(runs);
    assert_eq!(body(&app, "/page").await, "good");
    pages.uncache_from_tag("t").await.unwrap();
    assert_eq!(send(&app, get("/page")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn an_expired_page_is_served_while_one_request_refreshes_it() {
    let clock = ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let cache = Cache::builder(backend).clock(clock.clone()).build();
    let pages = Pages::new(cache);
    let second = Duration::from_secs(1);
    let options = EntryOptions::new().time_to_live(second).stale_while_revalidate(10 * second);
    let (view, runs) = (pages.tagged("t").options(options).wrap(count), Runs::default());
    let app = pages.router().route("/page", axum_get(view)).build().unwrap().with_state(runs.clone());

    assert_eq!(body(&app, "/page").await, "1");
    clock.advance(2 * second);
    let response = send(&app, get("/page")).await;
    assert_eq!(status(&response), "groupcache; hit; detail=stale-while-revalidate");
    assert_eq!(text(response).await, "1");
    while runs.count() < 2 || pages.cache().loads_in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    let response = send(&app, get("/page")).await;
    assert_eq!((status(&response), runs.count()), ("groupcache; hit", 2));
    assert_eq!(text(response).await, "2");
}
