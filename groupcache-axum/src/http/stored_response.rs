//! The stored form of a response: encoding, decoding, and `ETag`.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LANGUAGE, CONTENT_TYPE, ETAG, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};

use crate::http::cache_status;

/// A response as it is stored: status, headers, body.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A stored response, and the headers of a hit: a hit clones them once and adds nothing.
#[derive(Debug)]
pub(crate) struct Hit {
    pub(crate) response: StoredResponse,
    pub(crate) headers: HeaderMap,
}

impl Hit {
    /// Returns about how many bytes a decoded response occupies in addition to the encoded one: two header
    /// maps, with their spare capacity.
    pub(crate) fn bytes_of(response: &StoredResponse) -> usize {
        let headers = response.headers.len() + 1;
        let slots = (headers + headers / 3).next_power_of_two();
        size_of::<Self>() + 2 * slots * HEADER_SLOT_BYTES
    }

    /// Decodes a response; see [`StoredResponse::decode`].
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let response = StoredResponse::decode(bytes)?;
        // Not a clone: it would have no spare slot, and appending to it would double its capacity.
        let mut headers = HeaderMap::with_capacity(response.headers.len() + 1);
        headers.extend(response.headers.clone());
        cache_status::append(&mut headers, cache_status::HIT);
        Some(Self { response, headers })
    }
}

impl StoredResponse {
    /// Encodes the response: the status, the number of headers, each name and value after its length, and the
    /// body. All numbers are big-endian. Returns `None` if the headers are too many or too long for the
    /// layout.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        let header = |(name, value): (&HeaderName, &HeaderValue)| 2 + name.as_str().len() + 4 + value.len();
        // The exact size: an entry lives long, and spare capacity would live as long.
        let mut out =
            BytesMut::with_capacity(4 + self.headers.iter().map(header).sum::<usize>() + self.body.len());
        out.put_u16(self.status.as_u16());
        out.put_u16(u16::try_from(self.headers.len()).ok()?);
        for (name, value) in &self.headers {
            out.put_u16(u16::try_from(name.as_str().len()).ok()?);
            out.put_slice(name.as_str().as_bytes());
            out.put_u32(u32::try_from(value.len()).ok()?);
            out.put_slice(value.as_bytes());
        }
        out.put_slice(&self.body);
        Some(out.freeze())
    }

    /// Decodes the response of an entry; the body shares the entry's bytes. Returns `None` for anything that
    /// [`encode`](Self::encode) does not write.
    pub(crate) fn decode(bytes: &Bytes) -> Option<Self> {
        let mut from = bytes.clone();
        let status = StatusCode::from_u16(from.try_get_u16().ok()?).ok()?;
        let count = from.try_get_u16().ok()?;
        let mut headers = HeaderMap::with_capacity(usize::from(count).min(64));
        for _ in 0..count {
            let length = from.try_get_u16().ok()?;
            let name = HeaderName::from_bytes(&take(&mut from, length.into())?).ok()?;
            let length = from.try_get_u32().ok()?;
            let value = HeaderValue::from_maybe_shared(take(&mut from, length.try_into().ok()?)?).ok()?;
            headers.append(name, value);
        }
        Some(Self { status, headers, body: from })
    }

    /// Adds a strong validator (RFC 9110, section 8.8.3) to a 200 response without one: a hash of the body
    /// and of the headers that describe its representation.
    pub(crate) fn ensure_etag(&mut self) {
        if self.status != StatusCode::OK || self.headers.contains_key(ETAG) {
            return;
        }
        let mut hasher = blake3::Hasher::new();
        for name in [CONTENT_TYPE, CONTENT_ENCODING, CONTENT_LANGUAGE] {
            for value in self.headers.get_all(name) {
                hasher.update(value.as_bytes());
                hasher.update(b"\n");
            }
            hasher.update(b"\0");
        }
        hasher.update(&self.body);
        let hash = hasher.finalize().to_hex();
        if let Ok(etag) = HeaderValue::from_str(&format!("\"{}\"", &hash[..32])) {
            self.headers.insert(ETAG, etag);
        }
    }
}

fn take(from: &mut Bytes, length: usize) -> Option<Bytes> {
    (length <= from.len()).then(|| from.split_to(length))
}

/// The size of one slot of a header map. Three of four slots hold a name, a value, a hash, and links to other
/// values of the name. The text of names and values is part of the entry's bytes.
const HEADER_SLOT_BYTES: usize = 84;

#[cfg(test)]
mod tests {
    use super::*;

    fn response() -> StoredResponse {
        let mut headers = HeaderMap::new();
        headers.append("content-type", HeaderValue::from_static("text/html"));
        headers.append("link", HeaderValue::from_static("</a>"));
        headers.append("link", HeaderValue::from_bytes(b"\xff</b>").unwrap());
        StoredResponse { status: StatusCode::NOT_FOUND, headers, body: Bytes::from_static(b"\0body") }
    }

    #[test]
    fn a_response_comes_back_as_it_was() {
        let empty = StoredResponse { headers: HeaderMap::new(), body: Bytes::new(), ..response() };
        for response in [response(), empty] {
            assert_eq!(StoredResponse::decode(&response.encode().unwrap()), Some(response));
        }
    }

    #[test]
    fn bytes_cut_within_the_head_do_not_decode() {
        let bytes = response().encode().unwrap();
        for length in 0..bytes.len() - response().body.len() {
            assert_eq!(StoredResponse::decode(&bytes.slice(..length)), None);
        }
        assert_eq!(StoredResponse::decode(&Bytes::from_static(b"\0\0\0\0")), None, "no status");
    }

    #[test]
    fn a_strong_etag_tells_bodies_and_encodings_apart_and_is_not_replaced() {
        let ok = |body: &'static [u8], encoding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(encoding) = encoding {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static(encoding));
            }
            let mut response =
                StoredResponse { status: StatusCode::OK, headers, body: Bytes::from_static(body) };
            response.ensure_etag();
            response
        };
        assert_eq!(ok(b"a", None), ok(b"a", None));
        assert_ne!(ok(b"a", None).headers[ETAG], ok(b"b", None).headers[ETAG]);
        assert_ne!(ok(b"a", None).headers[ETAG], ok(b"a", Some("gzip")).headers[ETAG]);
        let mut own = ok(b"a", None);
        own.headers.insert(ETAG, HeaderValue::from_static("\"own\""));
        own.ensure_etag();
        assert_eq!(own.headers[ETAG], "\"own\"");
    }
}
