//! Which requests the cache may serve, and which responses it may store.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use groupcache_axum::ViewBuilder;

use crate::common::{Runs, body, get, pages, request, send, status, text};
use crate::{app, count, plain};

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
async fn requests_with_credentials_ranges_bodies_or_other_methods_bypass_the_cache() {
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
async fn a_request_with_a_method_override_bypasses_the_cache() {
    let (_, app, runs) = app(count, plain);
    for _ in 0..2 {
        let response = send(&app, request("GET", "/page", &[("x-http-method-override", "POST")])).await;
        assert_eq!(status(&response), "groupcache; fwd=method");
    }
    assert_eq!((body(&app, "/page").await.as_str(), runs.count()), ("3", 3));
}

#[tokio::test]
async fn a_session_cookie_is_never_served_to_another_client() {
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
async fn a_view_may_allow_authorization() {
    let (_, app, runs) = app(count, ViewBuilder::allow_authorization);
    for token in ["a", "b"] {
        send(&app, request("GET", "/page", &[("authorization", token)])).await;
    }
    assert_eq!(runs.count(), 1);
}

#[tokio::test]
async fn large_and_endless_bodies_bypass_the_cache_complete() {
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
