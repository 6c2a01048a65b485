//! Measures a hit in a wrapped handler and in a layer, beside the same handler uncached. Compare only figures
//! of the same run.

use std::hint::black_box;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request};
use axum::http::header::HOST;
use axum::response::Response;
use axum::routing::get;
use criterion::{Criterion, criterion_group, criterion_main};
use groupcache_axum::{ByRoute, Pages};
use groupcache_core::{ByArguments, Cache};
use groupcache_memory::MemoryBackend;
use tokio::runtime::Runtime;
use tower::{Service, ServiceExt, layer::Layer};

/// About the cheapest handler that reads an argument.
async fn book(Path(id): Path<u32>) -> String {
    format!("book {id}")
}

fn request() -> Request {
    let request = Request::builder().uri("/books/5").header(HOST, "localhost:3000");
    request.header("accept", "text/html").body(Body::empty()).expect("a request")
}

fn pages() -> Pages<MemoryBackend> {
    Pages::new(Cache::builder(MemoryBackend::with_max_bytes(1 << 20)).build())
}

fn hit(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut bench = criterion.benchmark_group("axum");
    let mut measure = |name: &str, app: &mut dyn FnMut(Request) -> Response, is_hit: bool| {
        let _first = app(request());
        let status = app(request()).headers().get("cache-status").cloned();
        assert_eq!(status.is_some_and(|status| status == "groupcache; hit"), is_hit, "{name}");
        bench.bench_function(name, |bencher| {
            bencher.iter_batched(
                request,
                |request| black_box(app(request)),
                criterion::BatchSize::SmallInput,
            );
        });
    };

    let mut uncached: Router = Router::new().route("/books/{id}", get(book));
    measure("uncached_handler", &mut |request| runtime.block_on(call(&mut uncached, request)), false);

    let wrapped = pages().versioned(["id"]).wrap(book);
    let mut inside: Router = Router::new().route("/books/{id}", get(wrapped));
    measure("hit_in_wrapped_handler", &mut |request| runtime.block_on(call(&mut inside, request)), true);

    let routes = ByRoute::new().route("/books/{id}", ByArguments::all()).expect("a route");
    let layer = pages().layer("site", routes).expect("a layer");
    let mut outside = layer.layer(Router::new().route("/books/{id}", get(book)));
    measure(
        "hit_in_layer_around_the_router",
        &mut |request| runtime.block_on(call(&mut outside, request)),
        true,
    );
    bench.finish();
}

async fn call<S>(service: &mut S, request: Request) -> Response
where
    S: Service<Request, Response = Response, Error = std::convert::Infallible>,
{
    let Ok(service) = service.ready().await;
    let Ok(response) = service.call(request).await;
    response
}

criterion_group!(benches, hit);
criterion_main!(benches);
