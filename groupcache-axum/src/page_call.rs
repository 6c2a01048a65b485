//! One request for a page, as key strategies see it.

use std::borrow::Cow;
use std::sync::Arc;

use axum::extract::{FromRequestParts, OriginalUri, RawPathParams};
use futures_util::FutureExt;
use groupcache_core::{Arguments, Call, Group, Key, Result};
use http::header::HOST;
use http::request::Parts;
use http::{HeaderName, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use serde::{Serialize, Serializer};

/// One request for a page: the view's name, the route's path arguments, and the whole request head.
///
/// Its [`key`](Call::key) has the view, the host, the path, the query and the values of the headers
/// that the view's responses vary on. `GET` and `HEAD` share it.
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

    /// The key of this page if `inner` is what a strategy says identifies it. The view, the host and
    /// the values of the headers that responses vary on no strategy may leave out.
    pub(crate) fn key_of(&self, inner: &Key) -> Result<Key> {
        Key::of(&("page", &*self.view, Raw(&self.host()), Raw(inner.as_bytes()), Varying(self)))
    }

    fn host(&self) -> Cow<'_, [u8]> {
        let host = match self.uri().authority() {
            Some(authority) => authority.as_str().as_bytes(),
            None => self.parts.headers.get(HOST).map_or(&b""[..], |host| host.as_bytes()),
        };
        if host.iter().any(u8::is_ascii_uppercase) {
            return Cow::Owned(host.to_ascii_lowercase());
        }
        Cow::Borrowed(host)
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
        let uri = self.uri();
        Key::of(&(&*self.view, Raw(&self.host()), uri.path(), uri.query(), Varying(self)))
    }
}

/// The group of a path. Percent-encoded in one way only, so that two spellings of a path are in one
/// group.
pub(crate) fn path_group(path: &str) -> Group {
    Group::new("gc:path").with_text("path", &canonical_path(path))
}

/// Fills the arguments into a route's path, such as `/books/{id}`; the name of the missing one
/// otherwise.
pub(crate) fn fill_path<'a>(route: &'a str, arguments: &Arguments) -> Result<String, &'a str> {
    let mut path = String::with_capacity(route.len());
    let mut rest = route;
    while let Some((before, after)) = rest.split_once('{') {
        path.push_str(before);
        let Some((name, after)) = after.split_once('}') else { break };
        match name.strip_prefix('*') {
            Some(name) => path.push_str(arguments.get(name).ok_or(name)?),
            None => path.extend(utf8_percent_encode(arguments.get(name).ok_or(name)?, ENCODED)),
        }
        rest = after;
    }
    path.push_str(rest);
    Ok(path)
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

/// The header values that responses vary on, with their names, so that calls that were keyed by
/// other names never meet.
struct Varying<'a>(&'a PageCall);

impl Serialize for Raw<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
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
    fn arguments_fill_their_route() {
        let arguments = Arguments::from([("id", "a/b c"), ("rest", "x/y")]);
        assert_eq!(fill_path("/books/{id}/{*rest}", &arguments).as_deref(), Ok("/books/a%2Fb%20c/x/y"));
        assert_eq!(fill_path("/books/{other}", &arguments), Err("other"));
        assert_eq!(argument_names("/feed/{format}/{*rest}"), ["format", "rest"]);
        assert_eq!(argument_names("/about"), [""; 0]);
    }
}
