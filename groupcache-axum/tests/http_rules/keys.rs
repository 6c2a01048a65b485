//! What is part of a page's key, so that no client is served the page of another.

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get as axum_get;
use groupcache_axum::{Pages, ViewBuilder};
use groupcache_memory::MemoryBackend;
use tower::{Layer, ServiceExt as _};

use crate::common::{Runs, body, get, pages, request, send, status, text};
use crate::{app, count, plain};

#[tokio::test]
async fn host_path_and_query_are_part_of_the_key() {
    let (_, app, runs) = app(count, plain);
    for (path, host) in
        [("/page", "a.test"), ("/page", "b.test"), ("/page?q=1", "a.test"), ("/page?q=2", "a.test")]
    {
        let request = || Request::builder().uri(path).header("host", host).body(Body::empty()).unwrap();
        let first = text(send(&app, request()).await).await;
        assert_eq!(text(send(&app, request()).await).await, first);
    }
    assert_eq!(runs.count(), 4);
    let upper = Request::builder().uri("/page").header("host", "A.TEST").body(Body::empty()).unwrap();
    send(&app, upper).await;
    assert_eq!(runs.count(), 4, "hosts are case-insensitive");
}

#[tokio::test]
async fn the_host_in_the_uri_and_the_host_header_are_part_of_the_key() {
    let (_, app, runs) = app(count, plain);
    for host in ["shop.test", "evil.test"] {
        let request = Request::builder().uri("http://shop.test/page").header("host", host);
        send(&app, request.body(Body::empty()).unwrap()).await;
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn the_target_as_proxies_describe_it_is_part_of_the_key() {
    let (_, app, runs) = app(count, plain);
    let targets = [
        ("x-forwarded-host", "shop.test"),
        ("x-forwarded-host", "evil.test"),
        ("x-forwarded-proto", "http"),
        ("x-forwarded-proto", "https"),
        ("x-original-url", "/other"),
        ("x-rewrite-url", "/other"),
        ("forwarded", "for=192.0.2.1;proto=http"),
        ("forwarded", "for=192.0.2.1; Proto=https"),
        ("forwarded", "for=192.0.2.1, host=evil.test"),
        ("forwarded", "host=\"a;b\""),
        ("forwarded", "host=\"a;c\""),
    ];
    for (at, header) in (1..).zip(targets) {
        send(&app, request("GET", "/page", &[header])).await;
        assert_eq!(runs.count(), at, "{header:?}");
    }
    // These headers describe the client, not the target.
    send(&app, get("/page")).await;
    for header in [
        ("x-forwarded-for", "192.0.2.7"),
        ("x-forwarded-user", "ann"),
        ("forwarded", "for=192.0.2.7;by=192.0.2.8"),
    ] {
        let response = send(&app, request("GET", "/page", &[header])).await;
        assert_eq!(status(&response), "groupcache; hit", "{header:?}");
    }
    let twice = request("GET", "/page", &[("host", "shop.test"), ("host", "evil.test")]);
    assert_ne!(status(&send(&app, twice).await), "groupcache; hit");
    let once = request("GET", "/page", &[("host", "shop.test")]);
    assert_ne!(status(&send(&app, once).await), "groupcache; hit");
}

#[tokio::test]
async fn a_rewritten_path_is_part_of_the_key() {
    let (pages, runs) = (pages(), Runs::default());
    let user = |Path(id): Path<String>, State(runs): State<Runs>| async move {
        runs.next();
        id
    };
    let view = pages.versioned(["id"]).named("user").wrap(user);
    let inner: Router =
        pages.router().route("/users/{id}", axum_get(view)).build().unwrap().with_state(runs.clone());
    // `/me` is a different page for each user.
    let rewrite = tower::util::MapRequestLayer::new(|mut request: Request| {
        let user = request.headers()["x-user"].to_str().unwrap().to_owned();
        *request.uri_mut() = format!("/users/{user}").parse().unwrap();
        request
    });
    let app: Router = Router::new().fallback_service(rewrite.layer(inner));
    for user in ["5", "6", "5"] {
        let response = app.clone().oneshot(request("GET", "/me", &[("x-user", user)])).await.unwrap();
        assert_eq!(text(response).await, user);
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn each_variant_is_stored_under_its_own_key() {
    for refine in [plain, |builder: ViewBuilder<MemoryBackend>| builder.vary(["accept-language", "X-Theme"])]
    {
        let (pages, app, runs) = app(greet, refine);
        let fetch = |language: &'static str| {
            let app = app.clone();
            async move { text(send(&app, request("GET", "/page", &[("accept-language", language)])).await).await }
        };
        for language in ["de", "en", "de", "en", "fr", "de"] {
            assert_eq!(fetch(language).await, language);
        }
        assert_eq!(body(&app, "/page").await, "none");
        assert_eq!(runs.count(), 4);
        pages.uncache_from_tag("t").await.unwrap();
        assert_eq!(fetch("de").await, "de");
        assert_eq!(runs.count(), 5, "one invalidation makes all variants stale");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variants_found_at_the_same_time_are_stored_under_their_own_keys() {
    async fn slow(State(runs): State<Runs>, headers: HeaderMap) -> Response {
        runs.next();
        tokio::time::sleep(Duration::from_millis(30)).await;
        let cookie = headers.get("cookie").map_or("none", |value| value.to_str().unwrap()).to_owned();
        ([("vary", "cookie")], cookie).into_response()
    }
    let cache = pages().cache().clone();
    let app = |runs: &Runs| {
        // As in another process: this view has not seen what its pages vary on.
        let pages = Pages::new(cache.clone());
        let view = pages.tagged("t").named("page").wrap(slow);
        pages.router().route("/page", axum_get(view)).build().unwrap().with_state(runs.clone())
    };
    let runs = Runs::default();
    let first = app(&runs);
    let fetch = |cookie: &'static str| {
        let app = first.clone();
        tokio::spawn(
            async move { text(send(&app, request("GET", "/page", &[("cookie", cookie)])).await).await },
        )
    };
    for (fetched, cookie) in [fetch("a"), fetch("b"), fetch("c")].into_iter().zip(["a", "b", "c"]) {
        assert_eq!(fetched.await.unwrap(), cookie);
    }
    let other = app(&runs);
    assert_eq!(text(send(&other, request("GET", "/page", &[("cookie", "d")])).await).await, "d");
}

#[tokio::test]
async fn headers_that_a_failure_varies_on_are_not_part_of_the_key() {
    async fn flaky(State(runs): State<Runs>) -> Response {
        match runs.next() {
            1 => (StatusCode::SERVICE_UNAVAILABLE, [("vary", "cookie")], "down").into_response(),
            _ => "page".into_response(),
        }
    }
    let (_, app, runs) = app(flaky, plain);
    for cookie in ["a", "b", "c"] {
        send(&app, request("GET", "/page", &[("cookie", cookie)])).await;
    }
    assert_eq!(runs.count(), 2);
}

async fn greet(State(runs): State<Runs>, headers: HeaderMap) -> Response {
    runs.next();
    let language = headers.get("accept-language").map_or("none", |value| value.to_str().unwrap()).to_owned();
    ([("vary", "Accept-Language, x-theme")], language).into_response()
}
