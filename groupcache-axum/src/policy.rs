//! What may be cached.

use http::header::{
    AGE, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderName, RANGE,
    SET_COOKIE, TE, TRAILER, TRANSFER_ENCODING, UPGRADE, VARY,
};
use http::request::Parts;
use http::response::Parts as ResponseParts;
use http::{HeaderMap, Method, StatusCode};

/// Why the cache keeps out of a request or of a response. The text is for `Cache-Status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bypass {
    Authorization,
    Body,
    BodyTooLarge,
    CacheControl,
    EventStream,
    Failed,
    Method,
    Range,
    SetCookie,
    Status,
    Undescribed,
    VaryAny,
}

/// Whether a request may be answered from the cache at all.
pub(crate) fn request_bypass(parts: &Parts, has_body: bool, allow_authorization: bool) -> Option<Bypass> {
    if parts.method != Method::GET && parts.method != Method::HEAD {
        return Some(Bypass::Method);
    }
    if parts.headers.keys().any(|name| METHOD_OVERRIDES.contains(&name.as_str())) {
        return Some(Bypass::Method);
    }
    // A handler could read it, and it is not part of the key.
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

/// Whether a response may be served to others, and stored if it is none of a
/// [failure](is_failure); its body is another matter.
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
        return Some(Bypass::VaryAny);
    }
    // Never ends, so it could not be read to its end.
    let event_stream = |value: &http::HeaderValue| {
        let name = value.as_bytes().get(..EVENT_STREAM.len());
        name.is_some_and(|name| name.eq_ignore_ascii_case(EVENT_STREAM))
    };
    if headers.get(CONTENT_TYPE).is_some_and(event_stream) {
        return Some(Bypass::EventStream);
    }
    None
}

/// The headers that a response varies on; `None` if one of them is no header name.
pub(crate) fn varies_on(headers: &HeaderMap) -> Option<Vec<HeaderName>> {
    tokens(headers, &VARY).map(|name| name.parse().ok()).collect()
}

/// "There is no such page": its time to live may be one of its own.
pub(crate) fn is_negative(status: StatusCode) -> bool {
    status == StatusCode::NOT_FOUND || status == StatusCode::GONE
}

/// Takes out what belongs to one connection (RFC 9110, section 7.6.1) or to one moment.
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
    pub(crate) const fn detail(self) -> &'static str {
        match self {
            Self::Authorization => "authorization",
            Self::Body => "request-body",
            Self::BodyTooLarge => "body-too-large",
            Self::CacheControl => "cache-control",
            Self::EventStream => "event-stream",
            Self::Failed => "failed",
            Self::Method => "method",
            Self::Range => "range",
            Self::SetCookie => "set-cookie",
            Self::Status => "status",
            Self::Undescribed => "no-key",
            Self::VaryAny => "vary",
        }
    }
}

fn forbids_storing(directive: &str) -> bool {
    let name = directive.split('=').next().unwrap_or_default().trim();
    // What cannot be read might say so.
    name.eq_ignore_ascii_case("private") || name.eq_ignore_ascii_case("no-store") || name == UNREADABLE
}

/// Those that a cache may store without being told to (RFC 9110, section 15.1), less partial ones
/// and those that say that the service is at fault.
fn is_cacheable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 200 | 203 | 204 | 300 | 301 | 308 | 404 | 410)
}

/// Those that `stale-if-error` speaks of (RFC 5861, section 4).
pub(crate) fn is_failure(status: StatusCode) -> bool {
    matches!(status.as_u16(), 500 | 502 | 503 | 504)
}

/// With one of them a service behind the cache may take a GET for something else.
const METHOD_OVERRIDES: [&str; 3] = ["x-http-method", "x-http-method-override", "x-method-override"];

const EVENT_STREAM: &[u8] = b"text/event-stream";

/// The one member of a header line that is not text; no name equals it.
const UNREADABLE: &str = "\u{0}";

/// The members of a comma-separated header in all its lines.
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
        assert_eq!(response(200, &[("vary", "accept, *")]), Some(Bypass::VaryAny));
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
    fn requests_with_credentials_ranges_or_bodies_pass() {
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
