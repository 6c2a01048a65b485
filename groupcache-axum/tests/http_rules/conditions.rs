//! `HEAD`, conditional requests, and 304.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::common::{Runs, body, get, request, send, status, text};
use crate::{app, count, plain};

#[tokio::test]
async fn head_is_served_from_get_and_get_never_from_head() {
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
async fn a_handler_does_not_see_the_conditions_of_a_request() {
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
    // Loaded again, and unchanged.
    pages.uncache_from_tag("t").await.unwrap();
    let again = send(&app, request("GET", "/page", &[("if-none-match", &etag)])).await;
    assert_eq!((again.status(), runs.count()), (StatusCode::NOT_MODIFIED, 2));
}

#[tokio::test]
async fn an_unchanged_page_that_is_not_stored_is_304_too() {
    let modified = "Sat, 21 Nov 2026 10:00:00 GMT";
    let tagged = || async { ([("cache-control", "private"), ("etag", "\"own\"")], "x") };
    let dated = move || async move { ([("cache-control", "private"), ("last-modified", modified)], "x") };
    let (_, tagged, _) = app(tagged, plain);
    let (_, dated, _) = app(dated, plain);
    let matching: &[(&str, &str)] = &[("if-none-match", "\"own\"")];
    let other: &[(&str, &str)] = &[("if-none-match", "\"other\"")];
    let since: &[(&str, &str)] = &[("if-modified-since", modified)];
    let before: &[(&str, &str)] = &[("if-modified-since", "Sat, 21 Nov 2026 09:00:00 GMT")];
    let both: &[(&str, &str)] = &[("if-none-match", "\"own\""), ("if-modified-since", modified)];
    for (app, headers, expected) in [
        (&tagged, matching, 304),
        (&tagged, other, 200),
        (&tagged, since, 200),
        (&dated, since, 304),
        (&dated, before, 200),
        // `If-None-Match` takes precedence (RFC 9110, section 13.2.2).
        (&dated, both, 200),
    ] {
        let response = send(app, request("GET", "/page", headers)).await;
        assert_eq!(response.status(), expected, "{headers:?}");
        assert_eq!(status(&response), "groupcache; fwd=uri-miss; detail=cache-control");
        assert_eq!(text(response).await, if expected == 304 { "" } else { "x" });
    }
}

#[tokio::test]
async fn a_304_has_the_headers_of_the_page_except_those_of_the_body() {
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
async fn cache_control_and_etag_of_the_handler_are_kept() {
    let (_, app, _) =
        app(|| async { ([("cache-control", "public, max-age=60"), ("etag", "\"own\"")], "x") }, plain);
    for _ in 0..2 {
        let response = send(&app, get("/page")).await;
        assert_eq!(response.headers()["cache-control"], "public, max-age=60");
        assert_eq!(response.headers()["etag"], "\"own\"");
    }
}
