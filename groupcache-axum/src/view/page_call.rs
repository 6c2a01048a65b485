//! One request for a page, as key strategies see it: its arguments, its key, and the group of its path.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri, RawPathParams};
use futures_util::FutureExt;
use groupcache_core::{Arguments, Call, Group, Key, Result};
use http::header::{FORWARDED, HOST};
use http::request::Parts;
use http::{HeaderName, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str};
use serde::{Serialize, Serializer};

/// A request for a page: the view's name, the route's path arguments, and the request head.
///
/// Its [`key`](Call::key) contains
///
/// * the view, the host, the path and the query;
/// * the request's target as proxies describe it: `Forwarded` except for its parameters `for` and `by`,
///   `X-Forwarded-Host`, `X-Forwarded-Proto`, `X-Forwarded-Port`, `X-Forwarded-Prefix`, and similar headers;
/// * the values of the request headers that the view's responses vary on.
///
/// `GET` and `HEAD` share a key.
#[derive(Debug, Clone)]
pub struct PageCall {
    view: Arc<str>,
    parts: Parts,
    arguments: Arguments,
    vary: Arc<[HeaderName]>,
}

impl PageCall {
    /// Returns a call without arguments. Its key is complete: it contains the path, and the path the
    /// arguments.
    pub(crate) fn new(view: Arc<str>, parts: Parts, vary: Arc<[HeaderName]>) -> Self {
        Self { view, parts, arguments: Arguments::new(), vary }
    }

    /// Adds the route's path arguments.
    pub(crate) fn with_arguments(mut self) -> Self {
        let params = RawPathParams::from_request_parts(&mut self.parts, &()).now_or_never();
        // No parameters: the route has none, or routing has not happened yet. Undecodable parameters: the
        // handler will respond with an error. The key contains the raw path in any case.
        if let Some(Ok(params)) = params {
            for (name, text) in &params {
                self.arguments.insert(name.to_owned(), text.to_owned());
            }
        }
        self
    }

    /// Returns the request head.
    #[must_use]
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// Returns the URI as it was before nested routers removed their prefixes.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        self.parts.extensions.get::<OriginalUri>().map_or(&self.parts.uri, |original| &original.0)
    }

    /// Returns the group of all pages at this path, for any host and query, which
    /// [`uncache_from_path`](crate::Pages::uncache_from_path) invalidates.
    pub(crate) fn path_group(&self) -> Group {
        path_group(self.uri().path())
    }

    pub(crate) fn into_parts(self) -> Parts {
        self.parts
    }

    /// Replaces the headers whose values are part of the key.
    pub(crate) fn with_vary(mut self, vary: Arc<[HeaderName]>) -> Self {
        self.vary = vary;
        self
    }

    /// Returns the headers whose values are part of the key.
    pub(crate) fn vary(&self) -> &[HeaderName] {
        &self.vary
    }

    /// Returns the key of this page for a strategy whose own key is `inner`. Adds what no strategy may omit:
    /// view, host, path, and the values of the headers that responses vary on.
    pub(crate) fn key_of(&self, inner: &Key) -> Result<Key> {
        let paths = (self.uri().path(), self.rewritten().map(Uri::path));
        let inner = Raw(inner.as_bytes());
        Key::named("gc:view", &(&*self.view, self.hosts(), Forwarded(self), paths, inner, Varying(self)))
    }

    /// Returns the host in the URI and the host in the headers: handlers may read either.
    fn hosts(&self) -> (Option<Lower<'_>>, Hosts<'_>) {
        let authority = self.uri().authority().map(|authority| Lower(authority.as_str().as_bytes()));
        (authority, Hosts(self))
    }

    /// Returns the URI that the handler sees if it differs from [`uri`](Self::uri): a nested router removes a
    /// prefix, and a middleware may rewrite it.
    fn rewritten(&self) -> Option<&Uri> {
        Some(&self.parts.uri).filter(|uri| *uri != self.uri())
    }
}

impl Call for PageCall {
    fn name(&self) -> &str {
        &self.view
    }

    fn arguments(&self) -> &Arguments {
        &self.arguments
    }

    fn key(&self) -> Result<Key> {
        let (uri, rewritten) = (self.uri(), self.rewritten());
        let rewritten = rewritten.map(|uri| (uri.path(), uri.query()));
        let origin = (self.hosts(), Forwarded(self));
        let page = (&*self.view, origin, uri.path(), uri.query(), rewritten, Varying(self));
        // Pages share a cache with values of the application, whose keys have no such name.
        Key::named("gc:page", &page)
    }
}

/// Returns the group of a path. All percent-encodings of one path have the same group.
pub(crate) fn path_group(path: &str) -> Group {
    Group::new("gc:path").with_text("path", &canonical_path(path))
}

/// Returns the names of a route's path arguments.
pub(crate) fn argument_names(route: &str) -> Vec<&str> {
    route
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name.trim_start_matches('*'))
        .collect()
}

/// Percent-encodes all but the unreserved characters of each segment.
fn canonical_path(path: &str) -> Cow<'_, str> {
    let unreserved = |byte: u8| byte == b'/' || byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if path.bytes().all(unreserved) {
        return Cow::Borrowed(path);
    }
    let segments = path.split('/').map(|segment| {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        percent_encoding::percent_encode(&decoded, RESERVED).to_string()
    });
    Cow::Owned(segments.collect::<Vec<_>>().join("/"))
}

/// Bytes that are not necessarily UTF-8.
struct Raw<'a>(&'a [u8]);

/// A host, which is case-insensitive.
struct Lower<'a>(&'a [u8]);

/// The values of the `Host` headers. A valid request has one.
struct Hosts<'a>(&'a PageCall);

/// The target of the request as proxies describe it. Handlers build links and redirects from these headers,
/// and any client can send them. If the key lacked them, one client could choose the links in the page of
/// another.
struct Forwarded<'a>(&'a PageCall);

impl Forwarded<'_> {
    /// Returns whether a header describes the target of the request. Headers that describe the client, such
    /// as `X-Forwarded-For` and `X-Forwarded-User`, do not: a page that differs by them must declare
    /// that in `Vary`.
    fn describes_target(name: &str) -> bool {
        let Some(name) = name.strip_prefix("x-") else { return name == "front-end-https" };
        if let Some(part) = name.strip_prefix("forwarded-").or_else(|| name.strip_prefix("original-")) {
            return TARGET_PARTS.contains(&part);
        }
        ["host", "http-host-override", "rewrite-url", "url-scheme"].contains(&name)
    }
}

/// Returns the pairs of a `Forwarded` header (RFC 7239) that describe the target. A line with a quoted string
/// is returned as a whole, because the string may contain delimiters.
fn forwarded_pairs(line: &[u8]) -> impl Iterator<Item = Raw<'_>> {
    let quoted = line.contains(&b'"');
    let is_end = move |byte: &u8| !quoted && (*byte == b',' || *byte == b';');
    line.split(is_end)
        .map(<[u8]>::trim_ascii)
        .filter(move |pair| {
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii();
            quoted
                || !(name.is_empty() || name.eq_ignore_ascii_case(b"for") || name.eq_ignore_ascii_case(b"by"))
        })
        .map(Raw)
}

/// The values of the headers that responses vary on, with their names: calls that are keyed by different
/// headers have different keys.
struct Varying<'a>(&'a PageCall);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl Serialize for Lower<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.iter().any(u8::is_ascii_uppercase) {
            return serializer.serialize_bytes(&self.0.to_ascii_lowercase());
        }
        serializer.serialize_bytes(self.0)
    }
}

impl Serialize for Hosts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let hosts = self.0.parts.headers.get_all(HOST).iter();
        serializer.collect_seq(hosts.map(|host| Lower(host.as_bytes())))
    }
}

impl Serialize for Forwarded<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let headers = &self.0.parts.headers;
        let standard = headers.get_all(FORWARDED).iter().flat_map(|line| forwarded_pairs(line.as_bytes()));
        let others = headers
            .iter()
            .filter(|(name, _)| Self::describes_target(name.as_str()))
            .map(|(name, value)| (name.as_str(), Raw(value.as_bytes())));
        serializer.collect_seq(standard.map(|pair| ("forwarded", pair)).chain(others))
    }
}

impl Serialize for Varying<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let values = |name| -> Vec<Raw<'_>> {
            self.0.parts.headers.get_all(name).iter().map(|value| Raw(value.as_bytes())).collect()
        };
        serializer.collect_seq(self.0.vary.iter().map(|name| (name.as_str(), values(name))))
    }
}

/// What follows `X-Forwarded-` or `X-Original-` in the names of headers that describe the target.
const TARGET_PARTS: [&str; 10] =
    ["host", "path", "port", "prefix", "proto", "protocol", "scheme", "ssl", "uri", "url"];

/// All characters except the unreserved ones (RFC 3986, section 2.3).
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_of_one_path_share_a_group_and_different_paths_do_not() {
        assert_eq!(path_group("/books/%35"), path_group("/books/5"));
        assert_eq!(path_group("/a/%c3%a9"), path_group("/a/%C3%A9"));
        assert_eq!(path_group("/a/b+c"), path_group("/a/b%2Bc"));
        assert_ne!(path_group("/a%2Fb"), path_group("/a/b"));
        assert_ne!(path_group("/books/5"), path_group("/books/5/"));
    }

    #[test]
    fn argument_names_are_those_of_the_route() {
        assert_eq!(argument_names("/feed/{format}/{*rest}"), ["format", "rest"]);
        assert_eq!(argument_names("/about"), [""; 0]);
    }
}
