//! The way of one request: from the cache if it can be, from the inner service if not.
//!
//! Answers from memory at once, without a future of its own or an allocation beyond the response's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use groupcache_core::{
    Address, Backend, Entry, LoadContext, Loaded, Served, ServedFrom, StorePolicy, ToStore,
};
use http::Method;
use http::header::{CACHE_CONTROL, EXPIRES, HeaderValue, IF_MODIFIED_SINCE, IF_NONE_MATCH};
use http_body::Body as HttpBody;
use pin_project_lite::pin_project;

use crate::body::{Collected, collect};
use crate::cache_status;
use crate::page_call::PageCall;
use crate::policy::{self, Bypass};
use crate::respond::{pass_on, respond, respond_hit};
use crate::stored_response::{Hit, StoredResponse};
use crate::view::View;

pin_project! {
    /// The future of a cached response: ready at once for a hit in memory, the inner service's own
    /// future where the cache keeps out, boxed otherwise.
    #[project = StateProjection]
    pub(crate) enum Answer<F, E> {
        Ready { response: Option<Response> },
        Bypassed { #[pin] inner: F, status: Option<HeaderValue> },
        Waiting { future: Pin<Box<dyn Future<Output = Result<Response, E>> + Send>> },
    }
}

/// What can be said of a request without waiting.
pub(crate) enum Decision {
    /// A hit in memory.
    Hit(Response),
    /// The cache keeps out of it.
    Bypass(Request, HeaderValue),
    /// The cache has to be asked.
    Ask(Box<Question>),
}

/// A request that the cache has to be asked about.
pub(crate) struct Question {
    address: Address,
    page: PageCall,
    body: Body,
}

/// Looks at a request, and into memory.
pub(crate) fn decide<B: Backend>(view: &Arc<View<B>>, request: Request) -> Decision {
    let (parts, body) = request.into_parts();
    if let Some(bypass) = policy::request_bypass(&parts, !body.is_end_stream(), view.allow_authorization) {
        return pass_by(Request::from_parts(parts, body), bypass);
    }
    let page = PageCall::new(Arc::clone(&view.name), parts, view.vary());
    // Most hits need no more than the key.
    let hit = view.key(&page).and_then(|key| view.cache.read_now_by_key(&key, accept));
    if let Some(hit) = hit {
        return Decision::Hit(respond_hit(&hit, page.parts()));
    }
    let page = page.with_arguments();
    let Ok(address) = view.address(&page) else {
        return pass_by(Request::from_parts(page.into_parts(), body), Bypass::Undescribed);
    };
    match view.cache.read_now(&address, accept) {
        Some(hit) => Decision::Hit(respond_hit(&hit, page.parts())),
        None => Decision::Ask(Box::new(Question { address, page, body })),
    }
}

fn pass_by(request: Request, bypass: Bypass) -> Decision {
    // A page that is computed around this one depends on what nobody has declared to it.
    if let Some(outer) = LoadContext::current() {
        outer.do_not_store();
    }
    Decision::Bypass(request, cache_status::of_bypass(bypass))
}

impl Decision {
    /// Answers as `view` is cached, `call` being the inner service.
    pub(crate) fn answer<B, C, F, E>(self, view: &Arc<View<B>>, call: C) -> Answer<F, E>
    where
        B: Backend,
        C: FnOnce(Request) -> F + Send + 'static,
        F: Future<Output = Result<Response, E>> + Send + 'static,
        E: Send + 'static,
    {
        match self {
            Self::Hit(response) => Answer::hit(response),
            Self::Bypass(request, status) => Answer::Bypassed { inner: call(request), status: Some(status) },
            Self::Ask(question) if question.page.parts().method == Method::HEAD => {
                Answer::Waiting { future: Box::pin(head(Arc::clone(view), *question, call)) }
            }
            Self::Ask(question) => {
                Answer::Waiting { future: Box::pin(get(Arc::clone(view), *question, call)) }
            }
        }
    }
}

impl<F, E> Answer<F, E> {
    pub(crate) const fn hit(response: Response) -> Self {
        Self::Ready { response: Some(response) }
    }
}

impl<F: Future<Output = Result<Response, E>>, E> Future for Answer<F, E> {
    type Output = Result<Response, E>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            StateProjection::Ready { response } => match response.take() {
                Some(response) => Poll::Ready(Ok(response)),
                // Polled after it was ready, which no executor does.
                None => Poll::Pending,
            },
            StateProjection::Bypassed { inner, status } => inner.poll(context).map_ok(|mut response| {
                if let Some(status) = status.take() {
                    cache_status::say(response.headers_mut(), status);
                }
                response
            }),
            StateProjection::Waiting { future } => future.as_mut().poll(context),
        }
    }
}

async fn get<B, C, F, E>(view: Arc<View<B>>, question: Question, call: C) -> Result<Response, E>
where
    B: Backend,
    C: FnOnce(Request) -> F + Send + 'static,
    F: Future<Output = Result<Response, E>> + Send + 'static,
    E: Send + 'static,
{
    let Question { address, page, body } = question;
    let load = {
        let (view, page) = (Arc::clone(&view), page.clone());
        move || async move {
            let mut parts = page.parts().clone();
            // Whether the client has the page already is decided once it is there: a handler that
            // answered with 304 would leave nothing to store.
            parts.headers.remove(IF_NONE_MATCH);
            parts.headers.remove(IF_MODIFIED_SINCE);
            let response = call(Request::from_parts(parts, body)).await?;
            Ok(load(&view, page, response).await)
        }
    };
    let outcome = view.cache.read(&address, accept, load).await?;
    if let Some(refresh) = outcome.refresh {
        // The expired page goes out; the next one is computed meanwhile, and a failure is counted.
        tokio::spawn(refresh.run_in_background(accept));
    }
    Ok(match outcome.served {
        Served::Entry(hit, ServedFrom::Hit) => respond_hit(&hit, page.parts()),
        Served::Entry(hit, how) => respond(&hit.response, page.parts(), cache_status::of_entry(how)),
        Served::Loaded { value: Rendered::Whole(stored, extensions), miss, stored: kept } => {
            let status = cache_status::of_computed(miss, kept, None);
            let mut response = respond(&stored, page.parts(), status);
            *response.extensions_mut() = extensions;
            response
        }
        Served::Loaded { value: Rendered::Passing(response, bypass), miss, .. } => {
            pass_on(response, page.parts(), cache_status::of_computed(miss, false, Some(bypass)))
        }
    })
}

/// Answers from what a `GET` stored, never the other way round: what a handler makes of a `HEAD` need
/// not be what it makes of a `GET`.
async fn head<B, C, F, E>(view: Arc<View<B>>, question: Question, call: C) -> Result<Response, E>
where
    B: Backend,
    C: FnOnce(Request) -> F + Send + 'static,
    F: Future<Output = Result<Response, E>> + Send + 'static,
{
    let Question { address, page, body } = question;
    match view.cache.find(&address, accept).await {
        Ok(hit) => Ok(respond_hit(&hit, page.parts())),
        Err(miss) => {
            let mut response = call(Request::from_parts(page.into_parts(), body)).await?;
            let status = cache_status::of_computed(miss, false, Some(Bypass::Method));
            cache_status::say(response.headers_mut(), status);
            Ok(response)
        }
    }
}

/// What the inner service returned.
enum Rendered {
    /// Read to its end; the same for everyone.
    Whole(Box<StoredResponse>, http::Extensions),
    /// Not to be stored, and why.
    Passing(Response, Bypass),
}

/// Decides what becomes of a fresh response.
async fn load<B: Backend>(view: &View<B>, page: PageCall, response: Response) -> Loaded<Rendered> {
    let failed = policy::is_failure(response.status());
    let pass = |response, bypass| {
        let (bypass, store_policy) =
            if failed { (Bypass::Failed, StorePolicy::Failed(None)) } else { (bypass, StorePolicy::Private) };
        Loaded { value: Rendered::Passing(response, bypass), policy: store_policy }
    };
    let (mut head, body) = response.into_parts();
    if let Some(bypass) = policy::response_bypass(&head) {
        return pass(Response::from_parts(head, body), bypass);
    }
    let vary = policy::varies_on(&head.headers).and_then(|names| {
        // What a failure varies on says nothing of the page.
        if failed {
            names.iter().all(|name| page.vary().contains(name)).then(|| page.vary().into())
        } else {
            view.learn_vary(&names)
        }
    });
    let Some(vary) = vary else {
        return pass(Response::from_parts(head, body), Bypass::VaryAny);
    };
    // The values of some of those headers were not in the key that was asked for.
    let key = if *vary == *page.vary() {
        None
    } else {
        match view.address(&page.with_vary(vary)) {
            Ok(address) => Some(address.key),
            Err(_) => return pass(Response::from_parts(head, body), Bypass::Undescribed),
        }
    };
    let body = match collect(body, view.body_bytes_max).await {
        Collected::Whole(body) => body,
        Collected::Passing(body) => {
            return pass(Response::from_parts(head, body), Bypass::BodyTooLarge);
        }
    };
    if failed {
        // Those who wait for this page hear the same. Whoever comes later asks again.
        let mut headers = head.headers.clone();
        policy::remove_unstorable(&mut headers);
        let shared = StoredResponse { status: head.status, headers, body: body.clone() }.encode();
        let value = Rendered::Passing(Response::from_parts(head, Body::from(body)), Bypass::Failed);
        return Loaded { value, policy: StorePolicy::Failed(shared) };
    }
    policy::remove_unstorable(&mut head.headers);
    if !head.headers.contains_key(CACHE_CONTROL) && !head.headers.contains_key(EXPIRES) {
        // Caches downstream hear of no invalidation, so they have to ask.
        head.headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    }
    let mut stored = StoredResponse { status: head.status, headers: head.headers, body };
    stored.ensure_etag();
    let Some(encoded) = stored.encode() else {
        let mut response = Response::new(Body::from(stored.body));
        *response.status_mut() = stored.status;
        *response.headers_mut() = stored.headers;
        return pass(response, Bypass::BodyTooLarge);
    };
    let mut to_store = ToStore::new(encoded);
    to_store.key = key;
    to_store.memo_bytes = Hit::bytes_of(&stored);
    if policy::is_negative(stored.status) {
        to_store.time_to_live = view.cache.options().negative();
    }
    Loaded { value: Rendered::Whole(Box::new(stored), head.extensions), policy: StorePolicy::Store(to_store) }
}

fn accept(entry: &Arc<Entry>) -> Option<Arc<Hit>> {
    entry.memo(Hit::decode)
}
