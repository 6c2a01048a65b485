//! The layer: around a router, inside a router, and around any other service.

mod common;

use std::convert::Infallible;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::get as axum_get;
use groupcache_axum::ByRoute;
use groupcache_core::{ByArguments, ByModel, ErrorKind};
use tower::{Layer, ServiceExt, service_fn};

use common::{Book, Runs, body, book, get, pages, send, status};

async fn view(State(runs): State<Runs>) -> String {
    runs.next().to_string()
}

#[tokio::test]
async fn a_layer_around_the_router_serves_hits_before_routing() {
    let (pages, runs) = (pages(), Runs::default());
    let site = ByRoute::new()
        .route("/books/{id}", ByModel::<Book>::new())
        .and_then(|site| site.route("/feed/{format}/{name}", ByArguments::of(["name"]).shared("feeds")))
        .unwrap();
    let router = Router::new()
        .route("/books/{id}", axum_get(view))
        .route("/feed/{format}/{name}", axum_get(view))
        .route("/other", axum_get(view))
        .with_state(runs.clone());
    let app = pages.layer("site", site).unwrap().layer(router);

    let (five, six) = (body(&app, "/books/5").await, body(&app, "/books/6").await);
    pages.saved(&book(5, 1)).await.unwrap();
    assert_ne!(body(&app, "/books/5").await, five);
    assert_eq!(body(&app, "/books/6").await, six);
    assert_eq!(body(&app, "/feed/a/x").await, body(&app, "/feed/a/x").await);
    assert_ne!(body(&app, "/other").await, body(&app, "/other").await, "the strategy has no such route");
    pages.uncache_from_path("/books/6").await.unwrap();
    assert_ne!(body(&app, "/books/6").await, six);
}

#[tokio::test]
async fn a_layer_inside_the_router_knows_the_path_arguments() {
    let (pages, runs) = (pages(), Runs::default());
    let layer = pages.layer("books", ByModel::<Book>::new()).unwrap();
    let router: Router<Runs> = Router::new().route("/books/{id}", axum_get(view)).route_layer(layer);
    let app = router.with_state(runs);
    let (five, six) = (body(&app, "/books/5").await, body(&app, "/books/6").await);
    pages.saved(&book(5, 1)).await.unwrap();
    assert_ne!(body(&app, "/books/5").await, five);
    assert_eq!(body(&app, "/books/6").await, six);
}

#[tokio::test]
async fn an_error_of_the_inner_service_is_returned_and_not_stored() {
    let (pages, runs) = (pages(), Runs::default());
    let site = ByRoute::new().route("/page", ByArguments::all()).unwrap();
    let service = service_fn(move |_: Request| {
        let run = runs.next();
        async move {
            if run == 1 { Err("an error of the service") } else { Ok(Response::new(Body::from("fine"))) }
        }
    });
    let app = pages.layer("any", site).unwrap().layer(service);
    assert_eq!(app.clone().oneshot(get("/page")).await.unwrap_err(), "an error of the service");
    let response = app.oneshot(get("/page")).await.unwrap();
    assert_eq!(status(&response), "groupcache; fwd=uri-miss; stored");
}

#[tokio::test]
async fn an_invalid_or_unsuitable_route_is_an_error_that_names_it() {
    let assert_refused = |routes: groupcache_core::Result<ByRoute>, named: &str| {
        let error = routes.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(named), "{error}");
    };
    assert_refused(ByRoute::new().route("/a/{", ByArguments::all()), "`/a/{`");
    assert_refused(ByRoute::new().route("/a/{id}", ByArguments::of(["x"])), "`/a/{id}`");
    let one = ByRoute::new().route("/a/{id}", ByArguments::all()).unwrap();
    assert_refused(one.route("/a/{other}", ByArguments::all()), "`/a/{other}`");
}

#[tokio::test]
async fn a_layered_router_is_a_service() {
    fn assert_service<S: tower::Service<Request, Error = Infallible> + Clone + Send + 'static>(_: &S) {}
    let layer = pages().layer("site", ByRoute::new()).unwrap();
    let app = layer.layer(Router::new());
    assert_service(&app);
    assert!(send(&app, get("/")).await.status().is_client_error());
}
