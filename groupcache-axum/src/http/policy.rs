//! Decides what may be cached: which requests may be served from the cache, and which responses may be stored.

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderName, RANGE,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::request::Parts;
use http::response::Parts as ResponseParts;
use http::{HeaderMap, Method, StatusCode};

/// Why a request or a response bypasses the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bypass {
    Authorization,
    Body,
    BodyTooLarge,
    CacheControl,
    EventStream,
    Failed,
    LoadTimeout,
    Method,
    NoKey,
    Range,
    SetCookie,
    Status,
    Vary,
}

/// Returns why a request must bypass the cache, or `None` if it may be served from it.
pub(crate) fn request_bypass(parts: &Parts, has_body: bool, allow_authorization: bool) -> Option<Bypass> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Some(Bypass::Method);
    }
    if parts.headers.keys().any(|name| METHOD_OVERRIDES.contains(&name.as_str())) {
        return Some(Bypass::Method);
    }
    // A handler may read the body, which is not part of the key.
    if has_body {
        return Some(Bypass::Body);
    }
    if parts.headers.contains_key(RANGE) {
        return Some(Bypass::Range);
    }
    // RFC 9111, section 3.5.
    if !allow_authorization && parts.headers.contains_key(AUTHORIZATION) {
        return Some(Bypass::Authorization);
    }
    None
}

/// Returns why a response may not be served to other clients, or `None` if it may. The response may also be
/// stored unless it is a [failure](is_failure). Does not judge the body.
pub(crate) fn response_bypass(response: &ResponseParts) -> Option<Bypass> {
    let headers = &response.headers;
    let status = response.status;
    if !is_cacheable(status) && !is_failure(status) || headers.contains_key(CONTENT_RANGE) {
        return Some(Bypass::Status);
    }
    if headers.contains_key(SET_COOKIE) {
        return Some(Bypass::SetCookie);
    }
    if tokens(headers, &CACHE_CONTROL).any(forbids_storing) {
        return Some(Bypass::CacheControl);
    }
    if tokens(headers, &VARY).any(|name| name == "*") {
        return Some(Bypass::Vary);
    }
    // An event stream never ends, so it cannot be collected.
    let event_stream = |value: &http::HeaderValue| {
        let name = value.as_bytes().get(..EVENT_STREAM.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(EVENT_STREAM))
    };
    if headers.get(CONTENT_TYPE).is_some_and(event_stream) {
        return Some(Bypass::EventStream);
    }
    None
}

/// Returns the headers that a response varies on, or `None` if one of them is not a valid header name.
pub(crate) fn varies_on(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    tokens(headers, &VARY).map(|name| name.parse().ok()).collect()
}

/// Returns whether the status means that the page does not exist. Such a response may have a time to live of
/// its own.
pub(crate) fn is_negative(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND || status == StatusCode::GONE
}

/// Removes the headers that describe one connection (RFC 9110, section 7.6.1) or one moment.
pub(crate) fn remove_unstorable(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = tokens(headers, &CONNECTION).filter_map(|name| name.parse().ok()).collect();
    for name in named {
        headers.remove(name);
    }
    for name in [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, DATE, AGE] {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-connection"] {
        headers.remove(name);
    }
}

impl Bypass {
    /// Returns the `detail` parameter of `Cache-Status`.
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Body => "request-body",
            Self::BodyTooLarge => "body-too-large",
            Self::CacheControl => "cache-control",
            Self::EventStream => "event-stream",
            Self::Failed => "failed",
            Self::LoadTimeout => "load-timeout",
            Self::Method => "method",
            Self::NoKey => "no-key",
            Self::Range => "range",
            Self::SetCookie => "set-cookie",
            Self::Status => "status",
            Self::Vary => "vary",
        }
    }
}

fn forbids_storing(directive: &str) -> bool {
    let name = directive.split('=').next().unwrap_or_default().trim();
    // An unreadable directive may be one of the two.
    name.eq_ignore_ascii_case("private") || name.eq_ignore_ascii_case("no-store") || name == UNREADABLE
}

/// Returns whether the status is heuristically cacheable (RFC 9110, section 15.1), except for partial content
/// and for errors of the service.
fn is_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 410)
}

/// Returns whether the status is a failure in the sense of `stale-if-error` (RFC 5861, section 4).
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// A service behind the cache may treat a `GET` with one of these headers as another method.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// Stands for the members of a header line that is not visible ASCII. Equals no name.
const UNREADABLE: &str = "\u{0}";

/// Returns the members of a comma-separated header, of all its lines.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.to_str().unwrap_or(UNREADABLE).split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use http::{Request, Response};

    use super::*;

    fn response(status: u16, headers: &[(&str, &str)]) -> Option<Bypass> {
        let response = headers.iter().fold(Response::builder().status(status), |response, (name, value)| {
            response.header(*name, *value)
        });
        response_bypass(&response.body(()).unwrap().into_parts().0)
    }

    #[test]
    fn only_final_complete_public_responses_are_stored() {
        for status in [200, 203, 204, 300, 301, 308, 404, 410] {
            assert_eq!(response(status, &[]), None, "{status}");
        }
        for status in [201, 202, 206, 302, 303, 304, 307, 400, 401, 403, 405, 429, 501] {
            assert_eq!(response(status, &[]), Some(Bypass::Status), "{status}");
        }
        for status in [500, 502, 503, 504] {
            assert_eq!(
                (response(status, &[]), is_failure(StatusCode::from_u16(status).unwrap())),
                (None, true)
            );
            assert_eq!(response(status, &[("set-cookie", "a=b")]), Some(Bypass::SetCookie), "{status}");
        }
        assert_eq!(
            response(200, &[("content-type", "Text/Event-Stream; charset=utf-8")]),
            Some(Bypass::EventStream)
        );
        assert_eq!(response(200, &[("set-cookie", "a=b")]), Some(Bypass::SetCookie));
        assert_eq!(response(200, &[("vary", "accept, *")]), Some(Bypass::Vary));
        assert_eq!(response(200, &[("content-range", "bytes 0-1/2")]), Some(Bypass::Status));
        for directives in ["private", "max-age=5, Private", "no-store", "PRIVATE=\"x\""] {
            assert_eq!(response(200, &[("cache-control", directives)]), Some(Bypass::CacheControl));
        }
        assert_eq!(
            response(200, &[("cache-control", "public"), ("cache-control", "no-store")]),
            Some(Bypass::CacheControl)
        );
        assert_eq!(response(200, &[("cache-control", "max-age=5, must-revalidate")]), None);
    }

    #[test]
    fn requests_with_credentials_ranges_or_bodies_bypass_the_cache() {
        let bypass = |method: &str, headers: &[(&str, &str)], has_body, allowed| {
            let request = headers.iter().fold(Request::builder().method(method), |request, (name, value)| {
                request.header(*name, *value)
            });
            request_bypass(&request.body(()).unwrap().into_parts().0, has_body, allowed)
        };
        assert_eq!(bypass("GET", &[], false, false), None);
        assert_eq!(bypass("HEAD", &[], false, false), None);
        assert_eq!(bypass("POST", &[], false, false), Some(Bypass::Method));
        for name in METHOD_OVERRIDES {
            assert_eq!(bypass("GET", &[(name, "PUT")], false, false), Some(Bypass::Method));
        }
        assert_eq!(bypass("GET", &[], true, false), Some(Bypass::Body));
        assert_eq!(bypass("GET", &[("range", "bytes=0-1")], false, false), Some(Bypass::Range));
        assert_eq!(bypass("GET", &[("authorization", "x")], false, false), Some(Bypass::Authorization));
        assert_eq!(bypass("GET", &[("authorization", "x")], false, true), None);
    }

    #[test]
    fn connection_headers_are_not_stored() {
        let mut headers = HeaderMap::new();
        for (name, value) in
            [("connection", "x-hop, close"), ("x-hop", "1"), ("date", "today"), ("x-end", "1")]
        {
            headers.insert(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
        }
        remove_unstorable(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-end"]);
    }
}
