//! Makes the response to one request: from a stored response or from the inner service; complete, without its
//! body, or as 304.

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

use crate::http::cache_status;
use crate::http::stored_response::{Hit, StoredResponse};

/// Responds with a valid entry.
pub(crate) fn respond_hit(hit: &Hit, request: &Parts) -> Response {
    if request.method == Method::HEAD || request.headers.contains_key(IF_NONE_MATCH) {
        return respond(&hit.response, request, cache_status::HIT);
    }
    let mut response = Response::new(Body::from(hit.response.body.clone()));
    *response.status_mut() = hit.response.status;
    *response.headers_mut() = hit.headers.clone();
    response
}

/// Responds with a stored response: complete, without its body, or as 304.
pub(crate) fn respond(stored: &StoredResponse, request: &Parts, status: HeaderValue) -> Response {
    if stored.status.is_success() && matches_etag(&stored.headers, &request.headers) == Some(true) {
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
    cache_status::append(headers, status);
    response
}

/// Responds with a response of the inner service that is not stored. The service does not see the conditions
/// of the request, so they are evaluated here.
pub(crate) fn pass_on(mut response: Response, request: &Parts, status: HeaderValue) -> Response {
    let (conditions, headers) = (&request.headers, response.headers());
    let unmodified = matches_etag(headers, conditions).unwrap_or_else(|| {
        // `Last-Modified` has a resolution of one second. That is the service's own choice here; a stored
        // response is never validated by it.
        let since = conditions.get(IF_MODIFIED_SINCE);
        since.is_some() && since == headers.get(LAST_MODIFIED)
    });
    if response.status() == StatusCode::OK && unmodified {
        return not_modified(response, status);
    }
    cache_status::append(response.headers_mut(), status);
    response
}

/// Turns a response into 304.
fn not_modified(response: Response, status: HeaderValue) -> Response {
    let (mut head, _) = response.into_parts();
    head.status = StatusCode::NOT_MODIFIED;
    for name in REPRESENTATION_HEADERS {
        head.headers.remove(name);
    }
    cache_status::append(&mut head.headers, status);
    Response::from_parts(head, Body::new(NoBody))
}

/// Returns whether the `ETag` among `headers` matches the request's `If-None-Match`, by weak comparison (RFC
/// 9110, section 13.1.2), or `None` if the request has no such condition.
fn matches_etag(headers: &HeaderMap, request: &HeaderMap) -> Option<bool> {
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

/// The headers that describe a body, which a 304 does not have (RFC 9110, section 15.4.5). Other headers that
/// begin with `content-`, such as `content-security-policy`, apply to the page that the client has.
const REPRESENTATION_HEADERS: [HeaderName; 5] = [
    CONTENT_TYPE,
    CONTENT_LENGTH,
    CONTENT_ENCODING,
    CONTENT_LANGUAGE,
    HeaderName::from_static("content-digest"),
];

/// No body. Without a size hint, unlike [`Body::empty`], so that the server adds no `content-length: 0`,
/// which would be wrong for a 304 (RFC 9110, section 8.6).
struct NoBody;

impl http_body::Body for NoBody {
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
