//! The rules that keep users safe: what is stored, for whom, and what goes out.

mod common;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get as axum_get;
use futures_util::stream;
use groupcache_axum::ViewBuilder;
use groupcache_core::EntryOptions;
use groupcache_memory::MemoryBackend;

use common::{Runs, TestPages, body, get, pages, request, send, status, text};

/// An application of one view at `/page`, tagged `t`.
fn app<H, T>(
    handler: H,
    refine: fn(ViewBuilder<MemoryBackend>) -> ViewBuilder<MemoryBackend>,
) -> (TestPages, Router, Runs)
where
    H: axum::handler::Handler<T, Runs>,
    T: 'static,
{
    let (pages, runs) = (pages(), Runs::default());
    let view = refine(pages.tagged("t").named("page")).wrap(handler);
    let router = pages.router().route("/page", axum_get(view)).build().unwrap();
    (pages, router.with_state(runs.clone()), runs)
}

fn plain(builder: ViewBuilder<MemoryBackend>) -> ViewBuilder<MemoryBackend> {
    builder
}

async fn count(State(runs): State<Runs>) -> String {
    runs.next().to_string()
}

#[tokio::test]
async fn status_headers_and_body_come_back_as_they_were() {
    async fn handler(State(runs): State<Runs>) -> Response {
        runs.next();
        let headers =
            [("content-type", "application/x-test"), ("link", "</a>"), ("content-encoding", "gzip")];
        let mut response = (StatusCode::NOT_FOUND, headers, vec![0_u8, 255, 7]).into_response();
        response.headers_mut().append("link", "</b>".parse().unwrap());
        response
    }
    let (_, app, runs) = app(handler, plain);
    let mut seen = Vec::new();
    for _ in 0..2 {
        let response = send(&app, get("/page")).await;
        let mut headers = response.headers().clone();
        headers.remove("cache-status");
        let links: Vec<_> = headers.get_all("link").iter().cloned().collect();
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 100).await.unwrap();
        seen.push((status, headers, links, body));
    }
    assert_eq!(seen[0], seen[1]);
    assert_eq!((seen[0].0, &seen[0].3[..], runs.count()), (StatusCode::NOT_FOUND, &[0, 255, 7][..], 1));
}

#[tokio::test]
async fn private_and_unfinished_responses_are_not_stored() {
    async fn handler(State(runs): State<Runs>, headers: HeaderMap) -> Response {
        runs.next();
        let wanted = |name: &str| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
        let status = wanted("x-status").map_or(200, |status| status.parse().unwrap());
        let mut response = (StatusCode::from_u16(status).unwrap(), "body").into_response();
        for (name, value) in [
            ("set-cookie", wanted("x-cookie")),
            ("cache-control", wanted("x-control")),
            ("vary", wanted("x-vary")),
        ] {
            if let Some(value) = value {
                response.headers_mut().insert(name, value.parse().unwrap());
            }
        }
        response
    }
    let cases = [
        (("x-status", "500"), "failed"),
        (("x-status", "302"), "status"),
        (("x-status", "206"), "status"),
        (("x-cookie", "session=1"), "set-cookie"),
        (("x-control", "private"), "cache-control"),
        (("x-control", "max-age=5, no-store"), "cache-control"),
        (("x-vary", "*"), "vary"),
    ];
    for (header, detail) in cases {
        let (_, app, runs) = app(handler, plain);
        for _ in 0..2 {
            let response = send(&app, request("GET", "/page", &[header])).await;
            assert_eq!(status(&response), format!("groupcache; fwd=uri-miss; detail={detail}"));
            assert_eq!(text(response).await, "body");
        }
        assert_eq!(runs.count(), 2, "{header:?}");
    }
}

#[tokio::test]
async fn credentials_ranges_and_other_methods_pass_by() {
    let (_, app, runs) = app(count, plain);
    let cached = body(&app, "/page").await;
    for (name, value) in [("authorization", "Bearer x"), ("range", "bytes=0-1")] {
        let response = send(&app, request("GET", "/page", &[(name, value)])).await;
        assert_eq!(status(&response), format!("groupcache; fwd=request; detail={name}"));
        assert_ne!(text(response).await, cached);
    }
    let with_body =
        Request::builder().uri("/page").header("host", "localhost").body(Body::from("x")).unwrap();
    assert_eq!(status(&send(&app, with_body).await), "groupcache; fwd=request; detail=request-body");
    assert_eq!(runs.count(), 4);
    assert_eq!(body(&app, "/page").await, cached, "none of them was stored");

    let pages = pages();
    let view = pages.tagged("t").wrap(count);
    let any = Router::new().route("/any", axum::routing::any(view)).with_state(runs.clone());
    for _ in 0..2 {
        let response = send(&any, request("POST", "/any", &[])).await;
        assert_eq!(status(&response), "groupcache; fwd=method");
    }
    assert_eq!(runs.count(), 6);
}

#[tokio::test]
async fn nobody_gets_the_cookie_of_another_who_logged_in() {
    async fn login(State(runs): State<Runs>) -> Response {
        runs.next();
        ([("set-cookie", format!("session={}", runs.count()))], "welcome").into_response()
    }
    let (pages, runs) = (pages(), Runs::default());
    let app = Router::new()
        .route("/login", axum::routing::any(pages.tagged("t").wrap(login)))
        .with_state(runs.clone());
    let mut cookies = Vec::new();
    for method in ["POST", "POST", "GET", "GET", "HEAD", "POST"] {
        let response = send(&app, request(method, "/login", &[])).await;
        cookies.push(response.headers()["set-cookie"].to_str().unwrap().to_owned());
    }
    assert_eq!(cookies, ["session=1", "session=2", "session=3", "session=4", "session=5", "session=6"]);
}

#[tokio::test]
async fn a_route_may_allow_authorization() {
    let (_, app, runs) = app(count, ViewBuilder::allow_authorization);
    for token in ["a", "b"] {
        send(&app, request("GET", "/page", &[("authorization", token)])).await;
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn host_path_and_query_are_told_apart() {
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
    assert_eq!(runs.count(), 4, "hosts have no case");
}

#[tokio::test]
async fn what_a_failure_varies_on_the_page_need_not() {
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

#[tokio::test]
async fn variants_are_kept_apart_and_each_is_kept() {
    for refine in [plain, |builder: ViewBuilder<MemoryBackend>| builder.vary(["accept-language", "X-Theme"])]
    {
        let (pages, app, runs) = app(greet, refine);
        let ask = |language: &'static str| {
            let app = app.clone();
            async move { text(send(&app, request("GET", "/page", &[("accept-language", language)])).await).await }
        };
        for language in ["de", "en", "de", "en", "fr", "de"] {
            assert_eq!(ask(language).await, language);
        }
        assert_eq!(body(&app, "/page").await, "none");
        assert_eq!(runs.count(), 4);
        pages.uncache_from_tag("t").await.unwrap();
        assert_eq!(ask("de").await, "de");
        assert_eq!(runs.count(), 5, "one invalidation concerns all variants");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn variants_found_at_the_same_time_are_kept_apart() {
    async fn slow(State(runs): State<Runs>, headers: HeaderMap) -> Response {
        runs.next();
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        let cookie = headers.get("cookie").map_or("none", |value| value.to_str().unwrap()).to_owned();
        ([("vary", "cookie")], cookie).into_response()
    }
    let cache = pages().cache().clone();
    let app = |runs: &Runs| {
        // Another process's view of the same cache: it has not learned what pages vary on.
        let pages = groupcache_axum::Pages::new(cache.clone());
        let view = pages.tagged("t").named("page").wrap(slow);
        pages.router().route("/page", axum_get(view)).build().unwrap().with_state(runs.clone())
    };
    let runs = Runs::default();
    let first = app(&runs);
    let ask = |cookie: &'static str| {
        let app = first.clone();
        tokio::spawn(
            async move { text(send(&app, request("GET", "/page", &[("cookie", cookie)])).await).await },
        )
    };
    for (asked, cookie) in [ask("a"), ask("b"), ask("c")].into_iter().zip(["a", "b", "c"]) {
        assert_eq!(asked.await.unwrap(), cookie);
    }
    let other = app(&runs);
    assert_eq!(text(send(&other, request("GET", "/page", &[("cookie", "d")])).await).await, "d");
}

#[tokio::test]
async fn both_spellings_of_the_host_are_told_apart() {
    let (_, app, runs) = app(count, plain);
    for host in ["shop.test", "evil.test"] {
        let asked = Request::builder().uri("http://shop.test/page").header("host", host);
        send(&app, asked.body(Body::empty()).unwrap()).await;
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn what_proxies_say_was_asked_for_is_told_apart() {
    let (_, app, runs) = app(count, plain);
    let said = [
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
    for (at, header) in (1..).zip(said) {
        send(&app, request("GET", "/page", &[header])).await;
        assert_eq!(runs.count(), at, "{header:?}");
    }
    // Of the client, not of what it wants.
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
async fn a_request_that_may_be_of_another_method_passes_by() {
    let (_, app, runs) = app(count, plain);
    for _ in 0..2 {
        let response = send(&app, request("GET", "/page", &[("x-http-method-override", "POST")])).await;
        assert_eq!(status(&response), "groupcache; fwd=method");
    }
    assert_eq!((body(&app, "/page").await.as_str(), runs.count()), ("3", 3));
}

#[tokio::test]
async fn a_path_that_was_rewritten_on_the_way_is_told_apart() {
    use tower::{Layer, ServiceExt as _};
    let (pages, runs) = (pages(), Runs::default());
    let show = |axum::extract::Path(id): axum::extract::Path<String>, State(runs): State<Runs>| async move {
        runs.next();
        id
    };
    let view = pages.versioned(["id"]).named("user").wrap(show);
    let inner: Router =
        pages.router().route("/users/{id}", axum_get(view)).build().unwrap().with_state(runs.clone());
    // "/me" is another page for each user.
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
async fn a_handler_is_not_told_what_the_client_has() {
    async fn handler(State(runs): State<Runs>, headers: HeaderMap) -> Response {
        runs.next();
        match headers.get("if-none-match") {
            Some(_) => StatusCode::NOT_MODIFIED.into_response(),
            None => ([("etag", "\"1\"")], "body").into_response(),
        }
    }
    let (_, app, runs) = app(handler, plain);
    for _ in 0..2 {
        let response = send(&app, request("GET", "/page", &[("if-none-match", "\"1\"")])).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
    }
    assert_eq!(runs.count(), 1, "the first one stored the page");
}

#[tokio::test]
async fn head_is_answered_from_get_and_never_the_other_way_round() {
    let (_, app, runs) = app(count, plain);
    let first = send(&app, request("HEAD", "/page", &[])).await;
    assert_eq!((status(&first), runs.count()), ("groupcache; fwd=uri-miss; detail=method", 1));
    assert_eq!(body(&app, "/page").await, "2", "the HEAD stored nothing");
    let head = send(&app, request("HEAD", "/page", &[])).await;
    assert_eq!(status(&head), "groupcache; hit");
    assert_eq!(head.headers()["content-length"], "1");
    assert_eq!(text(head).await, "");
    assert_eq!(body(&app, "/page").await, "2");
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn a_strong_etag_makes_unchanged_pages_304() {
    let (pages, app, runs) = app(
        |State(runs): State<Runs>| async move {
            runs.next();
            "same"
        },
        plain,
    );
    let first = send(&app, get("/page")).await;
    let etag = first.headers()["etag"].to_str().unwrap().to_owned();
    assert!(etag.starts_with('"'));
    assert_eq!(first.headers()["cache-control"], "no-cache");
    for sent in [etag.clone(), format!("W/{etag}"), format!("\"x\", {etag}"), "*".to_owned()] {
        let response = send(&app, request("GET", "/page", &[("if-none-match", &sent)])).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{sent}");
        assert_eq!(response.headers()["etag"].to_str().unwrap(), etag);
        assert!(!response.headers().contains_key("content-type"));
        assert_eq!(text(response).await, "");
    }
    let other = send(&app, request("GET", "/page", &[("if-none-match", "\"other\"")])).await;
    assert_eq!(other.status(), StatusCode::OK);
    assert_eq!(runs.count(), 1);
    // Computed anew, and still the same.
    pages.uncache_from_tag("t").await.unwrap();
    let again = send(&app, request("GET", "/page", &[("if-none-match", &etag)])).await;
    assert_eq!((again.status(), runs.count()), (StatusCode::NOT_MODIFIED, 2));
}

#[tokio::test]
async fn an_unchanged_page_is_304_though_it_is_not_stored() {
    let modified = "Sat, 21 Nov 2026 10:00:00 GMT";
    let tagged = || async { ([("cache-control", "private"), ("etag", "\"own\"")], "x") };
    let dated = move || async move { ([("cache-control", "private"), ("last-modified", modified)], "x") };
    let (_, tagged, _) = app(tagged, plain);
    let (_, dated, _) = app(dated, plain);
    let known: &[(&str, &str)] = &[("if-none-match", "\"own\"")];
    let other: &[(&str, &str)] = &[("if-none-match", "\"other\"")];
    let since: &[(&str, &str)] = &[("if-modified-since", modified)];
    let before: &[(&str, &str)] = &[("if-modified-since", "Sat, 21 Nov 2026 09:00:00 GMT")];
    let both: &[(&str, &str)] = &[("if-none-match", "\"own\""), ("if-modified-since", modified)];
    for (app, headers, expected) in [
        (&tagged, known, 304),
        (&tagged, other, 200),
        (&tagged, since, 200),
        (&dated, since, 304),
        (&dated, before, 200),
        // The one about tags counts (RFC 9110, section 13.2.2).
        (&dated, both, 200),
    ] {
        let response = send(app, request("GET", "/page", headers)).await;
        assert_eq!(response.status(), expected, "{headers:?}");
        assert_eq!(status(&response), "groupcache; fwd=uri-miss; detail=cache-control");
        assert_eq!(text(response).await, if expected == 304 { "" } else { "x" });
    }
}

#[tokio::test]
async fn a_304_says_nothing_of_a_body_and_all_of_the_page() {
    let page =
        || async { ([("content-security-policy", "default-src 'self'"), ("content-language", "en")], "x") };
    let (_, app, _) = app(page, plain);
    let etag = send(&app, get("/page")).await.headers()["etag"].to_str().unwrap().to_owned();
    for method in ["GET", "HEAD"] {
        let response = send(&app, request(method, "/page", &[("if-none-match", &etag)])).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        let mut names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["cache-control", "cache-status", "content-security-policy", "etag"], "{method}");
    }
}

#[tokio::test]
async fn what_the_handler_says_to_caches_downstream_stays() {
    let (_, app, _) =
        app(|| async { ([("cache-control", "public, max-age=60"), ("etag", "\"own\"")], "x") }, plain);
    for _ in 0..2 {
        let response = send(&app, get("/page")).await;
        assert_eq!(response.headers()["cache-control"], "public, max-age=60");
        assert_eq!(response.headers()["etag"], "\"own\"");
    }
}

#[tokio::test]
async fn large_and_endless_bodies_pass_by_complete() {
    async fn large(State(runs): State<Runs>) -> Body {
        runs.next();
        Body::from_stream(stream::iter((0..100).map(|_| Ok::<_, std::io::Error>("0123456789"))))
    }
    let (_, app, runs) = app(large, |builder| builder.body_bytes_max(999));
    for _ in 0..2 {
        let response = send(&app, get("/page")).await;
        assert_eq!(status(&response), "groupcache; fwd=uri-miss; detail=body-too-large");
        assert_eq!(text(response).await, "0123456789".repeat(100));
    }
    assert_eq!(runs.count(), 2);
    let (_, app, runs) = self::app(large, |builder| builder.body_bytes_max(1000));
    assert_eq!(body(&app, "/page").await, body(&app, "/page").await);
    assert_eq!(runs.count(), 1);

    let events = || async {
        let endless = stream::unfold((), |()| async { Some((Ok::<_, std::io::Error>("data: x\n\n"), ())) });
        ([("content-type", "text/event-stream")], Body::from_stream(endless))
    };
    let (_, app, _) = self::app(events, plain);
    let response = send(&app, get("/page")).await;
    assert_eq!(status(&response), "groupcache; fwd=uri-miss; detail=event-stream");
}

#[tokio::test]
async fn an_expired_page_is_better_than_an_error_where_the_route_says_so() {
    async fn flaky(State(runs): State<Runs>) -> Response {
        match runs.next() {
            1 => "good".into_response(),
            _ => StatusCode::SERVICE_UNAVAILABLE.into_response(),
        }
    }
    let clock = groupcache_core::ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let cache = groupcache_core::Cache::builder(backend).clock(clock.clone()).build();
    let pages = groupcache_axum::Pages::new(cache);
    let second = std::time::Duration::from_secs(1);
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
    let hour = std::time::Duration::from_secs(3600);
    let (pages, runs) = (pages(), Runs::default());
    let options = EntryOptions::new().time_to_live(hour).stale_if_error(hour).stale_while_revalidate(hour);
    let view = pages.tagged("t").options(options).wrap(flaky);
    let app = pages.router().route("/page", axum_get(view)).build().unwrap().with_state(runs);
    assert_eq!(body(&app, "/page").await, "good");
    pages.uncache_from_tag("t").await.unwrap();
    assert_eq!(send(&app, get("/page")).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn an_expired_page_is_served_while_one_request_renews_it() {
    let clock = groupcache_core::ManualClock::new();
    let backend = MemoryBackend::builder().clock(clock.clone()).build();
    let cache = groupcache_core::Cache::builder(backend).clock(clock.clone()).build();
    let pages = groupcache_axum::Pages::new(cache);
    let second = std::time::Duration::from_secs(1);
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
