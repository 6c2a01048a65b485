//! A view that is wrapped incorrectly is an error of the router, and is never cached under the wrong groups.

mod common;

use axum::Router;
use axum::extract::State;
use axum::routing::get as axum_get;
use groupcache_axum::ViewBuilder;
use groupcache_core::{ErrorKind, Model};
use groupcache_memory::MemoryBackend;
use serde::{Deserialize, Serialize};

use common::{Author, Book, Runs, TestPages, get, pages, send, status};

async fn view(State(runs): State<Runs>) -> String {
    runs.next().to_string()
}

#[derive(Serialize, Deserialize)]
struct Shelf {
    id: i64,
}

impl Model for Shelf {
    const NAME: &'static str = "shelf";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["room"]];
}

type Builder = ViewBuilder<MemoryBackend>;

/// Asserts that a [`PageRouter`](groupcache_axum::PageRouter) refuses this view with an error that contains
/// `names`, and that a plain router never caches it.
async fn assert_refused(wrap: impl Fn(&TestPages) -> Builder, path: &str, names: &[&str]) {
    let one = pages();
    let error = one.router::<Runs>().route(path, axum_get(wrap(&one).wrap(view))).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    for name in names {
        assert!(error.to_string().contains(name), "`{error}` names {name}");
    }
    let other = pages();
    let (app, runs) = (Router::new().route(path, axum_get(wrap(&other).wrap(view))), Runs::default());
    let app = app.with_state(runs.clone());
    let concrete = path.replace(['{', '}'], "");
    for _ in 0..2 {
        let response = send(&app, get(&concrete)).await;
        assert_eq!(status(&response), "groupcache; fwd=bypass; detail=no-key");
    }
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn an_argument_that_the_route_lacks() {
    assert_refused(
        |pages| pages.versioned(["name"]),
        "/feed/{title}",
        &["`view`", "`/feed/{title}`", "`name`", "title"],
    )
    .await;
    assert_refused(
        |pages| pages.against_model::<Book>().on(["number"]),
        "/books/{id}",
        &["`view`", "`number`"],
    )
    .await;
}

#[tokio::test]
async fn a_renamed_argument_that_the_route_lacks_or_the_grouping_does_not_take() {
    let build = |builder: fn(&TestPages) -> Builder| {
        let pages = pages();
        let built = pages.router::<Runs>().route("/a/{id}", axum_get(builder(&pages).wrap(view))).build();
        built.unwrap_err().to_string()
    };
    assert!(build(|pages| pages.versioned(["id"]).rename("name", "id")).contains("`name`"));
    assert!(build(|pages| pages.tagged("t").rename("id", "x")).contains("`rename`"));
    assert!(build(|pages| pages.tagged("t").shared("x")).contains("`shared`"));
}

#[tokio::test]
async fn a_field_that_the_model_lacks() {
    // The model declares a group by a field that it lacks.
    assert_refused(|pages| pages.against_model::<Shelf>(), "/shelves/{id}", &["`view`", "`shelf`", "`room`"])
        .await;
    assert_refused(|pages| pages.against_models::<(Book, Shelf)>(), "/all", &["`view`", "`shelf`", "`room`"])
        .await;
    // The route or `rename` names a field that the model lacks.
    assert_refused(
        |pages| pages.against_model::<Book>(),
        "/books/{isbn}",
        &["`view`", "`book`", "isbn", "[author_id]"],
    )
    .await;
    assert_refused(
        |pages| pages.against_model::<Author>().rename("id", "number"),
        "/authors/{id}",
        &["`view`", "`author`", "number"],
    )
    .await;
}

#[tokio::test]
async fn an_empty_tag_label_or_name() {
    assert_refused(|pages| pages.tagged(""), "/a", &["`view`", "tag"]).await;
    assert_refused(|pages| pages.versioned(["id"]).shared(""), "/a/{id}", &["`view`", "label"]).await;
    assert_refused(|pages| pages.versioned_by("", |_| None), "/a/{id}", &["`view`", "label"]).await;
    assert_refused(|pages| pages.tagged("t").named(""), "/a", &["name"]).await;
    assert_refused(|pages| pages.tagged("t").vary(["not a header"]), "/a", &["`view`", "`not a header`"])
        .await;
}

#[tokio::test]
async fn two_views_of_the_same_name() {
    let pages = pages();
    let router = pages
        .router::<Runs>()
        .route("/a", axum_get(pages.tagged("t").wrap(view)))
        .route("/b", axum_get(pages.tagged("t").wrap(view)));
    let error = router.build().unwrap_err().to_string();
    assert!(error.contains("`view`") && error.contains("named"), "{error}");
    // Layers and views share their names.
    let pages = common::pages();
    let _view = pages.tagged("t").named("site").wrap(view);
    assert!(
        pages.layer("site", groupcache_core::ByTag::new("t")).unwrap_err().to_string().contains("`site`")
    );
}

#[tokio::test]
async fn a_closure_needs_a_name() {
    let pages = pages();
    let closure = || async { "text" };
    let router = pages.router::<()>().route("/a", axum_get(pages.tagged("t").wrap(closure)));
    assert!(router.build().unwrap_err().to_string().contains("`named`"));
    let pages = common::pages();
    let router = pages.router::<()>().route("/a", axum_get(pages.tagged("t").named("a").wrap(closure)));
    assert!(router.build().is_ok());
}

#[tokio::test]
async fn all_mistakes_are_reported_at_once_in_any_method_of_a_route() {
    let pages = pages();
    let cached = pages.versioned(["x"]).named("cached").wrap(view);
    let other = pages.tagged("").named("other").wrap(view);
    let router = pages
        .router::<Runs>()
        .route("/a/{id}", axum_get(view).put(view).post(cached))
        .route("/b", axum_get(other).layer(tower::layer::util::Identity::new()));
    let error = router.build().unwrap_err().to_string();
    assert!(error.contains("`cached`") && error.contains("`other`"), "{error}");
}

#[tokio::test]
async fn one_view_may_have_several_routes() {
    let pages = pages();
    let view = pages.versioned(["id"]).wrap(view);
    let router =
        pages.router::<Runs>().route("/a/{id}", axum_get(view.clone())).route("/b/{id}/{x}", axum_get(view));
    assert!(router.build().is_ok());
}
