//! Decides what to do with a fresh response of the inner service: store it, share it, or only pass it on.

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use groupcache_core::{Backend, Key, Loaded, StorePolicy, ToStore};
use http::Extensions;
use http::header::{CACHE_CONTROL, EXPIRES, HeaderValue};
use http::response::Parts;

use crate::http::body::{Collected, collect};
use crate::http::policy::{self, Bypass};
use crate::http::stored_response::{Hit, StoredResponse};
use crate::view::View;
use crate::view::page_call::PageCall;

/// A response of the inner service.
pub(crate) enum FreshResponse {
    /// Collected and prepared for every client. The extensions are for this one only.
    Prepared(Box<StoredResponse>, Extensions),
    /// For this client only, and why.
    Bypassed(Response, Bypass),
}

/// Decides what to do with a response of the inner service.
pub(crate) async fn load<B: Backend>(
    view: &View<B>,
    page: PageCall,
    response: Response,
) -> Loaded<FreshResponse> {
    let failed = policy::is_failure(response.status());
    let (head, body) = response.into_parts();
    let key = match key_to_store(view, page, &head, failed) {
        Ok(key) => key,
        Err(reason) => return bypass(Response::from_parts(head, body), reason, failed),
    };
    let body = match collect(body, view.body_bytes_max).await {
        Collected::Whole(body) => body,
        Collected::PassThrough(body) => {
            return bypass(Response::from_parts(head, body), Bypass::BodyTooLarge, failed);
        }
    };
    if failed { share_failure(head, body) } else { store(view, key, head, body) }
}

/// Returns the key to store a response under if it is not the key of the request, or why the response may not
/// be shared.
fn key_to_store<B>(
    view: &View<B>,
    page: PageCall,
    head: &Parts,
    failed: bool,
) -> Result<Option<Key>, Bypass> {
    if let Some(reason) = policy::response_bypass(head) {
        return Err(reason);
    }
    let names = policy::varies_on(&head.headers).ok_or(Bypass::Vary)?;
    if failed {
        // The headers that a failure varies on are not those that the page varies on.
        let is_keyed = names.iter().all(|name| page.vary().contains(name));
        return if is_keyed { Ok(None) } else { Err(Bypass::Vary) };
    }
    let vary = view.extend_vary(&names).ok_or(Bypass::Vary)?;
    if *vary == *page.vary() {
        return Ok(None);
    }
    // The key of the request lacks the values of some of these headers.
    let address = view.address(&page.with_vary(vary)).map_err(|_| Bypass::NoKey)?;
    Ok(Some(address.key))
}

/// Passes a response on to its own client.
fn bypass(response: Response, reason: Bypass, failed: bool) -> Loaded<FreshResponse> {
    let (reason, policy) =
        if failed { (Bypass::Failed, StorePolicy::Failed(None)) } else { (reason, StorePolicy::Private) };
    Loaded { value: FreshResponse::Bypassed(response, reason), policy }
}

/// Shares a failure with the requests that wait for this load, and stores nothing: later requests load again.
fn share_failure(head: Parts, body: Bytes) -> Loaded<FreshResponse> {
    let mut headers = head.headers.clone();
    policy::remove_unstorable(&mut headers);
    let shared = StoredResponse { status: head.status, headers, body: body.clone() }.encode();
    let response = Response::from_parts(head, Body::from(body));
    Loaded {
        value: FreshResponse::Bypassed(response, Bypass::Failed),
        policy: StorePolicy::Failed(shared.map(ToStore::new)),
    }
}

/// Prepares a response for every client, and stores it.
fn store<B: Backend>(
    view: &View<B>,
    key: Option<Key>,
    mut head: Parts,
    body: Bytes,
) -> Loaded<FreshResponse> {
    policy::remove_unstorable(&mut head.headers);
    if !head.headers.contains_key(CACHE_CONTROL) && !head.headers.contains_key(EXPIRES) {
        // Downstream caches are not invalidated, so they have to revalidate.
        head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    let mut stored = StoredResponse { status: head.status, headers: head.headers, body };
    stored.ensure_etag();
    let Some(encoded) = stored.encode() else {
        let mut response = Response::new(Body::from(stored.body));
        *response.status_mut() = stored.status;
        *response.headers_mut() = stored.headers;
        return bypass(response, Bypass::BodyTooLarge, false);
    };
    let mut to_store = ToStore::new(encoded);
    to_store.key = key;
    to_store.memo_bytes = Hit::bytes_of(&stored);
    if policy::is_negative(stored.status) {
        to_store.time_to_live = view.cache.options().negative();
    }
    Loaded {
        value: FreshResponse::Prepared(Box::new(stored), head.extensions),
        policy: StorePolicy::Store(to_store),
    }
}
