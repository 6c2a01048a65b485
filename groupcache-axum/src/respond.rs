//! Responses to one request: from what is stored, or passed on as they came; whole, without their body, or 304.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::header::{
    CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_LENGTH, CONTENT_TYPE, ETAG, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};
use http_body::Frame;

use crate::cache_status;
use crate::stored_response::{Hit, StoredResponse};

/// What describes a body that is not sent (RFC 9110, section 15.4.5). Other headers that begin with
/// `content-`, such as a security policy, are for the page that the client has.
const OF_THE_BODY: [HeaderName; 5] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    HeaderName::from_static("content-digest"),
];

/// The response to this request from a valid entry.
pub(crate) fn respond_hit(hit: &Hit, request: &Parts) -> Response {
    if request.method == Method::HEAD || request.headers.contains_key(IF_NONE_MATCH) {
        return respond(&hit.response, request, cache_status::HIT);
    }
    let mut response = Response::new(Body::from(hit.response.body.clone()));
    *response.status_mut() = hit.response.status;
    *response.headers_mut() = hit.headers.clone();
    response
}

/// The response to this request from what is stored: whole, without its body, or 304.
pub(crate) fn respond(stored: &StoredResponse, request: &Parts, status: HeaderValue) -> Response {
    if stored.status.is_success() && is_known(&stored.headers, &request.headers) == Some(true) {
        let mut response = Response::new(Body::empty());
        *response.headers_mut() = stored.headers.clone();
        return not_modified(response, status);
    }
    let head_only = request.method == Method::HEAD;
    let mut response = Response::new(if head_only { Body::empty() } else { Body::from(stored.body.clone()) });
    *response.status_mut() = stored.status;
    let headers = response.headers_mut();
    *headers = stored.headers.clone();
    if head_only && stored.status != StatusCode::NO_CONTENT && !headers.contains_key(CONTENT_LENGTH) {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(stored.body.len()));
    }
    cache_status::say(headers, status);
    response
}

/// The response of the inner service, which is not stored. The service was not told what the client has,
/// so whether this is it is found out here.
pub(crate) fn pass_on(mut response: Response, request: &Parts, status: HeaderValue) -> Response {
    let (has, headers) = (&request.headers, response.headers());
    let unmodified = is_known(headers, has).unwrap_or_else(|| {
        // To the second: good enough for the service itself, not for what a cache promises.
        let since = has.get(IF_MODIFIED_SINCE);
        since.is_some() && since == headers.get(LAST_MODIFIED)
    });
    if response.status() == StatusCode::OK && unmodified {
        return not_modified(response, status);
    }
    cache_status::say(response.headers_mut(), status);
    response
}

/// The 304 in the place of this response.
fn not_modified(response: Response, status: HeaderValue) -> Response {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    for name in OF_THE_BODY {
        head.headers.remove(name);
    }
    cache_status::say(&mut head.headers, status);
    Response::from_parts(head, Body::new(Nothing))
}

/// Whether the client has what these headers are of, if it says what it has (RFC 9110, section 13.1.2: weak
/// comparison).
fn is_known(headers: &HeaderMap, request: &HeaderMap) -> Option<bool> {
    if !request.contains_key(IF_NONE_MATCH) {
        return None;
    }
    let Some(etag) = headers.get(ETAG).and_then(|etag| etag.to_str().ok()) else { return Some(false) };
    let opaque = |tag: &str| tag.trim().trim_start_matches("W/").to_owned();
    let wanted = opaque(etag);
    let mut tags = request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','));
    Some(tags.any(|tag| tag.trim() == "*" || opaque(tag) == wanted))
}

/// No body, of a response of which it would be wrong to say that it has 0 bytes (RFC 9110, section 8.6),
/// as is said of empty ones.
struct Nothing;

impl http_body::Body for Nothing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}
