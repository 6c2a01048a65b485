//! The `Cache-Status` response header (RFC 9211): a hit, or the reason why not.

use groupcache_core::{Miss, ServedFrom};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::http::policy::Bypass;

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub(crate) const HIT: HeaderValue = HeaderValue::from_static("groupcache; hit");

/// Appends the status to those of caches closer to the origin.
pub(crate) fn append(headers: &mut HeaderMap, status: HeaderValue) {
    headers.append(CACHE_STATUS, status);
}

/// Returns the status of a response that was served from an entry.
pub(crate) fn of_entry(served_from: ServedFrom) -> HeaderValue {
    match served_from {
        ServedFrom::Hit => HIT,
        ServedFrom::Shared(miss) => text(&format!("{}; collapsed", forward(miss))),
        ServedFrom::StaleIfError => HeaderValue::from_static("groupcache; hit; detail=stale-if-error"),
        ServedFrom::StaleWhileRevalidate => {
            HeaderValue::from_static("groupcache; hit; detail=stale-while-revalidate")
        }
        // `ServedFrom` is non-exhaustive.
        _ => HeaderValue::from_static("groupcache; hit; detail=other"),
    }
}

/// Returns the status of a response that the inner service made for this request.
pub(crate) fn of_load(miss: Miss, stored: bool, bypass: Option<Bypass>) -> HeaderValue {
    let mut status = forward(miss);
    if stored {
        status.push_str("; stored");
    }
    if let Some(bypass) = bypass {
        // RFC 9211 allows one detail. The bypass is the one that an application can act on.
        if let Some(at) = status.find("; detail=") {
            status.truncate(at);
        }
        status.push_str("; detail=");
        status.push_str(bypass.detail());
    }
    text(&status)
}

/// Returns the status of a response to a request that bypassed the cache.
pub(crate) fn of_bypass(bypass: Bypass) -> HeaderValue {
    let forward = match bypass {
        Bypass::Method => return HeaderValue::from_static("groupcache; fwd=method"),
        Bypass::Authorization | Bypass::Body | Bypass::Range => "request",
        _ => "bypass",
    };
    text(&format!("groupcache; fwd={forward}; detail={}", bypass.detail()))
}

fn forward(miss: Miss) -> String {
    let reason = match miss {
        Miss::Absent => "uri-miss",
        Miss::Expired => "stale; detail=expired",
        Miss::Invalidated => "stale; detail=invalidated",
        Miss::GroupMissing => "stale; detail=group-missing",
        Miss::GroupsChanged => "stale; detail=groups-changed",
        Miss::Undecodable => "miss; detail=undecodable",
        Miss::Unavailable => "bypass; detail=unavailable",
        Miss::Timeout => "bypass; detail=timeout",
        _ => "miss",
    };
    format!("groupcache; fwd={reason}")
}

fn text(status: &str) -> HeaderValue {
    // The text is made of the constants above, so the conversion succeeds.
    HeaderValue::from_str(status).unwrap_or(HeaderValue::from_static("groupcache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_a_text_with_one_detail_at_most() {
        assert_eq!(of_entry(ServedFrom::Hit), "groupcache; hit");
        assert_eq!(of_entry(ServedFrom::Shared(Miss::Absent)), "groupcache; fwd=uri-miss; collapsed");
        assert_eq!(of_load(Miss::Absent, true, None), "groupcache; fwd=uri-miss; stored");
        assert_eq!(
            of_load(Miss::Invalidated, true, None),
            "groupcache; fwd=stale; detail=invalidated; stored"
        );
        assert_eq!(
            of_load(Miss::Invalidated, false, Some(Bypass::SetCookie)),
            "groupcache; fwd=stale; detail=set-cookie"
        );
        assert_eq!(of_bypass(Bypass::Method), "groupcache; fwd=method");
        assert_eq!(of_bypass(Bypass::Authorization), "groupcache; fwd=request; detail=authorization");
    }
}
