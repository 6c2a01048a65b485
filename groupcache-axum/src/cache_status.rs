//! The `Cache-Status` response header (RFC 9211): a hit, or why not.

use groupcache_core::{Miss, ServedFrom};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::Bypass;

pub(crate) const CACHE_STATUS: HeaderName = HeaderName::from_static("cache-status");

pub(crate) const HIT: HeaderValue = HeaderValue::from_static("groupcache; hit");

/// Says so behind what caches closer to the origin have said.
pub(crate) fn say(headers: &mut HeaderMap, status: HeaderValue) {
    headers.append(CACHE_STATUS, status);
}

pub(crate) fn of_entry(how: ServedFrom) -> HeaderValue {
    match how {
        ServedFrom::Hit => HIT,
        ServedFrom::Shared(miss) => text(&format!("{}; collapsed", forward(miss))),
        ServedFrom::StaleIfError => HeaderValue::from_static("groupcache; hit; detail=stale-if-error"),
        ServedFrom::StaleWhileRevalidate => {
            HeaderValue::from_static("groupcache; hit; detail=stale-while-revalidate")
        }
        // How an entry came to be served otherwise is for a later release to say.
        _ => HeaderValue::from_static("groupcache; hit; detail=other"),
    }
}

pub(crate) fn of_computed(miss: Miss, stored: bool, bypass: Option<Bypass>) -> HeaderValue {
    let mut status = forward(miss);
    if stored {
        status.push_str("; stored");
    }
    if let Some(bypass) = bypass {
        // RFC 9211 allows one detail; why it was not stored is what one can act on.
        if let Some(at) = status.find("; detail=") {
            status.truncate(at);
        }
        status.push_str("; detail=");
        status.push_str(bypass.detail());
    }
    text(&status)
}

pub(crate) fn of_bypass(bypass: Bypass) -> HeaderValue {
    let forward = match bypass {
        Bypass::Method => return HeaderValue::from_static("groupcache; fwd=method"),
        Bypass::Authorization | Bypass::Body | Bypass::Range => "request",
        _ => "bypass",
    };
    text(&format!("groupcache; fwd={forward}; detail={}", bypass.detail()))
}

fn forward(miss: Miss) -> String {
    let why = match miss {
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
    format!("groupcache; fwd={why}")
}

fn text(status: &str) -> HeaderValue {
    // Made of the fixed texts above, so it always is a value.
    HeaderValue::from_str(status).unwrap_or(HeaderValue::from_static("groupcache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_has_a_text_with_one_detail_at_most() {
        assert_eq!(of_entry(ServedFrom::Hit), "groupcache; hit");
        assert_eq!(of_entry(ServedFrom::Shared(Miss::Absent)), "groupcache; fwd=uri-miss; collapsed");
        assert_eq!(of_computed(Miss::Absent, true, None), "groupcache; fwd=uri-miss; stored");
        assert_eq!(
            of_computed(Miss::Invalidated, true, None),
            "groupcache; fwd=stale; detail=invalidated; stored"
        );
        assert_eq!(
            of_computed(Miss::Invalidated, false, Some(Bypass::SetCookie)),
            "groupcache; fwd=stale; detail=set-cookie"
        );
        assert_eq!(of_bypass(Bypass::Method), "groupcache; fwd=method");
        assert_eq!(of_bypass(Bypass::Authorization), "groupcache; fwd=request; detail=authorization");
    }
}
