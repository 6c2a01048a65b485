//! How a request is served, step by step: [`decide`] whether the cache may respond, look into memory, read
//! the cache, and if there is no valid entry call the inner service.
//!
//! A hit in memory is served without a future and without an allocation beyond those of the response. That is
//! why [`Serving`] is polled by hand.

pub(crate) mod handler;
pub(crate) mod layer;
mod load;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use groupcache_core::{Address, Backend, Entry, Error, LoadContext, Served, ServedFrom};
use http::header::{HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http::{Method, StatusCode};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;

use crate::http::cache_status;
use crate::http::policy::{self, Bypass};
use crate::http::respond::{pass_on, respond, respond_hit};
use crate::http::stored_response::Hit;
use crate::serve::load::{FreshResponse, load};
use crate::view::View;
use crate::view::page_call::PageCall;

/// The outcome of [`decide`].
pub(crate) enum Decision {
    /// A hit in memory.
    Hit(Response),
    /// The request bypasses the cache.
    Bypass(Request, HeaderValue),
    /// The cache has to be read.
    Read(Box<PendingRead>),
}

/// A request for which the cache has to be read.
pub(crate) struct PendingRead {
    address: Address,
    page: PageCall,
    body: Body,
}

pin_project! {
    /// The future of a cached response: ready for a hit in memory, the inner service's own future for a
    /// bypass, boxed for a read.
    #[project = ServingProjection]
    pub(crate) enum Serving<F, E> {
        Ready { response: Option<Response> },
        Bypassed { #[pin] inner: F, status: Option<HeaderValue> },
        Reading { future: Pin<Box<dyn Future<Output = Result<Response, E>> + Send>> },
    }
}

/// Decides whether the cache may respond to a request, and looks into memory.
pub(crate) fn decide<B: Backend>(view: &Arc<View<B>>, request: Request) -> Decision {
    let (parts, body) = request.into_parts();
    if let Some(reason) = policy::request_bypass(&parts, !body.is_end_stream(), view.allow_authorization) {
        return bypass(Request::from_parts(parts, body), reason);
    }
    let page = PageCall::new(Arc::clone(&view.name), parts, view.vary());
    // Most hits need only the key, neither the arguments nor the groups.
    let hit = view.key(&page).and_then(|key| view.cache.read_now_by_key(&key, accept));
    if let Some(hit) = hit {
        return Decision::Hit(respond_hit(&hit, page.parts()));
    }
    let page = page.with_arguments();
    let Ok(address) = view.address(&page) else {
        return bypass(Request::from_parts(page.into_parts(), body), Bypass::NoKey);
    };
    match view.cache.read_now(&address, accept) {
        Some(hit) => Decision::Hit(respond_hit(&hit, page.parts())),
        None => Decision::Read(Box::new(PendingRead { address, page, body })),
    }
}

fn bypass(request: Request, reason: Bypass) -> Decision {
    // A load around this request cannot know what this response depends on.
    if let Some(outer) = LoadContext::current() {
        outer.do_not_store();
    }
    Decision::Bypass(request, cache_status::of_bypass(reason))
}

impl Decision {
    /// Serves the request; `call` calls the inner service.
    pub(crate) fn serve<B, C, F, E>(self, view: &Arc<View<B>>, call: C) -> Serving<F, E>
    where
        B: Backend,
        C: FnOnce(Request) -> F + Send + 'static,
        F: Future<Output = Result<Response, E>> + Send + 'static,
        E: Send + 'static,
    {
        match self {
            Self::Hit(response) => Serving::hit(response),
            Self::Bypass(request, status) => Serving::Bypassed { inner: call(request), status: Some(status) },
            Self::Read(read) if read.page.parts().method == Method::HEAD => {
                Serving::Reading { future: Box::pin(find(Arc::clone(view), *read, call)) }
            }
            Self::Read(read) => {
                Serving::Reading { future: Box::pin(find_or_load(Arc::clone(view), *read, call)) }
            }
        }
    }
}

impl<F, E> Serving<F, E> {
    pub(crate) const fn hit(response: Response) -> Self {
        Self::Ready { response: Some(response) }
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Serving<F, E> {
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            ServingProjection::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Polled after completion, which no executor does.
                None => Poll::Pending,
            },
            ServingProjection::Bypassed { inner, status } => inner.poll(context).map_ok(|mut response| {
                if let Some(status) = status.take() {
                    cache_status::append(response.headers_mut(), status);
                }
                response
            }),
            ServingProjection::Reading { future } => future.as_mut().poll(context),
        }
    }
}

/// Serves a `GET`.
async fn find_or_load<B, C, F, E>(view: Arc<View<B>>, read: PendingRead, call: C) -> Result<Response, E>
where
    B: Backend,
    C: FnOnce(Request) -> F + Send + 'static,
    F: Future<Output = Result<Response, E>> + Send + 'static,
    E: Send + 'static,
{
    let PendingRead { address, page, body } = read;
    let load = {
        let (view, page) = (Arc::clone(&view), page.clone());
        move || async move {
            let request = unconditional(&page, body);
            let response = call(request).await?;
            Ok(load(&view, page, response).await)
        }
    };
    let outcome = view.cache.read_to_end(&address, accept, load, timed_out).await?;
    if let Some(refresh) = outcome.refresh {
        // This request is served the expired page. The refresh counts its own failures.
        tokio::spawn(refresh.run_in_background(accept));
    }
    Ok(match outcome.served {
        Served::Entry(hit, ServedFrom::Hit) => respond_hit(&hit, page.parts()),
        Served::Entry(hit, served_from) => {
            respond(&hit.response, page.parts(), cache_status::of_entry(served_from))
        }
        Served::Loaded { value: FreshResponse::Prepared(prepared, extensions), miss, stored } => {
            let status = cache_status::of_load(miss, stored, None);
            let mut response = respond(&prepared, page.parts(), status);
            *response.extensions_mut() = extensions;
            response
        }
        Served::Loaded { value: FreshResponse::Bypassed(response, reason), miss, .. } => {
            pass_on(response, page.parts(), cache_status::of_load(miss, false, Some(reason)))
        }
    })
}

/// Returns what a client gets whose request has waited for too long.
fn timed_out<E>(_: Error) -> Result<FreshResponse, E> {
    let response = StatusCode::GATEWAY_TIMEOUT.into_response();
    Ok(FreshResponse::Bypassed(response, Bypass::LoadTimeout))
}

/// Serves a `HEAD` from what a `GET` stored. Stores nothing itself: a handler may respond to `HEAD`
/// differently.
async fn find<B, C, F, E>(view: Arc<View<B>>, read: PendingRead, call: C) -> Result<Response, E>
where
    B: Backend,
    C: FnOnce(Request) -> F + Send + 'static,
    F: Future<Output = Result<Response, E>> + Send + 'static,
{
    let PendingRead { address, page, body } = read;
    match view.cache.find(&address, accept).await {
        Ok(hit) => Ok(respond_hit(&hit, page.parts())),
        Err(miss) => {
            let mut response = call(Request::from_parts(page.into_parts(), body)).await?;
            let status = cache_status::of_load(miss, false, Some(Bypass::Method));
            cache_status::append(response.headers_mut(), status);
            Ok(response)
        }
    }
}

/// Returns the request without its conditions. They are evaluated against the loaded response: a handler that
/// responded with 304 would leave nothing to store.
fn unconditional(page: &PageCall, body: Body) -> Request {
    let mut parts = page.parts().clone();
    parts.headers.remove(IF_NONE_MATCH);
    parts.headers.remove(IF_MODIFIED_SINCE);
    Request::from_parts(parts, body)
}

fn accept(entry: &Arc<Entry>) -> Option<Arc<Hit>> {
    entry.memo(Hit::decode)
}

#[cfg(test)]
mod tests {
    use groupcache_core::{ByTag, Cache};
    use groupcache_memory::MemoryBackend;

    use super::*;
    use crate::view::{Grouping, ViewParts};

    /// A read is one allocation of this size, kept by every request that waits for the same page.
    #[test]
    fn the_future_of_a_read_is_bounded() {
        let view = Arc::new(View::new(ViewParts {
            name: "page".into(),
            cache: Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build(),
            allow_authorization: false,
            body_bytes_max: 1 << 20,
            groupings: vec![Grouping::Strategy(Box::new(ByTag::new("t")))],
            vary: Vec::new(),
            problem: None,
        }));
        let Decision::Read(read) = decide(&view, Request::new(Body::empty())) else { panic!("not a miss") };
        let call = |_: Request| std::future::ready(Ok::<_, ()>(Response::new(Body::empty())));
        let bytes = size_of_val(&find_or_load(view, *read, call));
        assert!(bytes <= 3 << 10, "{bytes} bytes");
    }
}
