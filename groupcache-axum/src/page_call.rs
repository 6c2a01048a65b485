//! One request for a page, as key strategies see it.

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

/// One request for a page: the view's name, the route's path arguments, and the whole request head.
///
/// Its [`key`](Call::key) has the view, the host, the path, the query, what proxies say was asked for
/// (`Forwarded` less `for` and `by`, `X-Forwarded-Host`, `-Proto`, `-Port`, `-Prefix` and their like), and the
/// values of the headers that the view's responses vary on. `GET` and `HEAD` share it.
#[derive(Debug, Clone)]
pub struct PageCall {
    view: Arc<str>,
    parts: Parts,
    arguments: Arguments,
    vary: Arc<[HeaderName]>,
}

impl PageCall {
    /// A call whose arguments are not read yet: its key has the path, which has them all.
    pub(crate) fn new(view: Arc<str>, parts: Parts, vary: Arc<[HeaderName]>) -> Self {
        Self { view, parts, arguments: Arguments::new(), vary }
    }

    /// The call with the route's path arguments.
    pub(crate) fn with_arguments(mut self) -> Self {
        let params = RawPathParams::from_request_parts(&mut self.parts, &()).now_or_never();
        // Without params the route has none, or routing comes later. With undecodable ones the
        // handler will answer with an error; the raw path is part of the key in any case.
        if let Some(Ok(params)) = params {
            for (name, text) in &params {
                self.arguments.insert(name.to_owned(), text.to_owned());
            }
        }
        self
    }

    /// The request head.
    #[must_use]
    pub const fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The URI before any nested router took its prefix away.
    #[must_use]
    pub fn uri(&self) -> &Uri {
        self.parts.extensions.get::<OriginalUri>().map_or(&self.parts.uri, |original| &original.0)
    }

    /// The group of all pages at this path, whatever their host and query: what
    /// [`uncache_from_path`](crate::Pages::uncache_from_path) invalidates.
    pub(crate) fn path_group(&self) -> Group {
        path_group(self.uri().path())
    }

    pub(crate) fn into_parts(self) -> Parts {
        self.parts
    }

    /// The same call with a key that has the values of these headers too.
    pub(crate) fn with_vary(mut self, vary: Arc<[HeaderName]>) -> Self {
        self.vary = vary;
        self
    }

    /// The headers whose values its key has.
    pub(crate) fn vary(&self) -> &[HeaderName] {
        &self.vary
    }

    /// The key of this page if `inner` is what a strategy says identifies it among those of its path.
    /// View, host, path and the values of the headers that responses vary on no strategy may leave out.
    pub(crate) fn key_of(&self, inner: &Key) -> Result<Key> {
        let paths = (self.uri().path(), self.rewritten().map(Uri::path));
        let inner = Raw(inner.as_bytes());
        Key::of(&("page", &*self.view, self.hosts(), Forwarded(self), paths, inner, Varying(self)))
    }

    /// The host as the URI and as the headers say it: handlers may look at either.
    fn hosts(&self) -> (Option<Lower<'_>>, Hosts<'_>) {
        let authority = self.uri().authority().map(|authority| Lower(authority.as_str().as_bytes()));
        (authority, Hosts(self))
    }

    /// The URI that the handler sees, where that is another one: a nested router takes the prefix away,
    /// a middleware may do anything.
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
        Key::of(&(&*self.view, origin, uri.path(), uri.query(), rewritten, Varying(self)))
    }
}

/// The group of a path. Percent-encoded in one way only, so that two spellings of a path are in one
/// group.
pub(crate) fn path_group(path: &str) -> Group {
    Group::new("gc:path").with_text("path", &canonical_path(path))
}

/// The names of a route's path arguments.
pub(crate) fn argument_names(route: &str) -> Vec<&str> {
    route
        .split('{')
        .skip(1)
        .filter_map(|part| part.split_once('}'))
        .map(|(name, _)| name.trim_start_matches('*'))
        .collect()
}

/// All but the unreserved characters of RFC 3986.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn canonical_path(path: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte == b'/' || byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    if path.bytes().all(plain) {
        return Cow::Borrowed(path);
    }
    let segments = path.split('/').map(|segment| {
        let decoded: Vec<u8> = percent_decode_str(segment).collect();
        percent_encoding::percent_encode(&decoded, ENCODED).to_string()
    });
    Cow::Owned(segments.collect::<Vec<_>>().join("/"))
}

/// Bytes that need not be text.
struct Raw<'a>(&'a [u8]);

/// A host, which has no case.
struct Lower<'a>(&'a [u8]);

/// What the `Host` headers say; there should be one.
struct Hosts<'a>(&'a PageCall);

/// What proxies say of the request that they were sent. Handlers make links and redirects of it, and
/// whoever reaches the service can say it too: left out of the key, one client's lie would be all
/// clients' page.
struct Forwarded<'a>(&'a PageCall);

impl Forwarded<'_> {
    /// Not those that say who asks, such as `X-Forwarded-For` and `X-Forwarded-User`: a page that differs by
    /// them varies on them, and has to say so.
    fn says_where(name: &str) -> bool {
        let Some(name) = name.strip_prefix("x-") else { return name == "front-end-https" };
        if let Some(part) = name.strip_prefix("forwarded-").or_else(|| name.strip_prefix("original-")) {
            return PARTS_OF_AN_ADDRESS.contains(&part);
        }
        ["host", "http-host-override", "rewrite-url", "url-scheme"].contains(&name)
    }
}

/// What follows `X-Forwarded-` or `X-Original-`.
const PARTS_OF_AN_ADDRESS: [&str; 10] =
    ["host", "path", "port", "prefix", "proto", "protocol", "scheme", "ssl", "uri", "url"];

/// The pairs of a `Forwarded` header (RFC 7239) that say what was asked for. All of it if there is anything
/// in quotes, in which whatever ends a pair may stand.
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

/// The header values that responses vary on, with their names, so that calls that were keyed by
/// other names never meet.
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
            .filter(|(name, _)| Self::says_where(name.as_str()))
            .map(|(name, value)| (name.as_str(), Raw(value.as_bytes())));
        let said = standard.map(|pair| ("forwarded", pair)).chain(others);
        serializer.collect_seq(said)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_of_a_path_are_in_one_group_and_paths_are_not() {
        assert_eq!(path_group("/books/%35"), path_group("/books/5"));
        assert_eq!(path_group("/a/%c3%a9"), path_group("/a/%C3%A9"));
        assert_eq!(path_group("/a/b+c"), path_group("/a/b%2Bc"));
        assert_ne!(path_group("/a%2Fb"), path_group("/a/b"));
        assert_ne!(path_group("/books/5"), path_group("/books/5/"));
    }

    #[test]
    fn a_route_names_its_arguments() {
        assert_eq!(argument_names("/feed/{format}/{*rest}"), ["format", "rest"]);
        assert_eq!(argument_names("/about"), [""; 0]);
    }
}
