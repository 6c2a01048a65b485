//! Each wrapper, and what makes exactly its pages stale.

mod common;

use std::sync::{Arc, Mutex, OnceLock};

use axum::Router;
use axum::extract::{Path, State};
use axum::routing::get as axum_get;
use groupcache_axum::{PageCall, Pages};
use groupcache_core::{
    Address, Arguments, ByArguments, Call, ErrorKind, Group, Groups, Invalidator, RecordingInvalidator,
    depend,
};

use common::{Author, Book, Runs, TestPages, body, book, get, pages, send, status};

/// Responds with the number of its run: equal bodies come from the same run.
async fn view(State(runs): State<Runs>) -> String {
    runs.next().to_string()
}

async fn other_view(State(runs): State<Runs>) -> String {
    runs.next().to_string()
}

fn app(build: impl FnOnce(&TestPages) -> Router<Runs>) -> (TestPages, Router, Runs) {
    let (pages, runs) = (pages(), Runs::default());
    let router = build(&pages).with_state(runs.clone());
    (pages, router, runs)
}

/// Returns those of `paths` that are loaded again after `change`.
async fn stale_after(app: &Router, paths: &[&str], change: impl AsyncFnOnce()) -> Vec<String> {
    let mut before = Vec::new();
    for path in paths {
        before.push(body(app, path).await);
        assert_eq!(body(app, path).await, before[before.len() - 1], "{path} is cached");
    }
    change().await;
    let mut stale = Vec::new();
    for (path, before) in paths.iter().zip(before) {
        if body(app, path).await != before {
            stale.push((*path).to_owned());
        }
    }
    stale
}

#[tokio::test]
async fn a_versioned_page_is_stale_when_the_version_of_its_arguments_is() {
    let (pages, app, _) = app(|pages| {
        let view = pages.versioned(["name"]).wrap(view);
        pages.router().route("/feed/{format}/{name}", axum_get(view)).build().unwrap()
    });
    let paths =
        ["/feed/atom/politics", "/feed/rss/politics", "/feed/atom/sports", "/feed/atom/politics?page=2"];
    let stale = stale_after(&app, &paths, async || {
        pages.uncache("view", [("name", "politics")]).await.unwrap();
    });
    assert_eq!(stale.await, ["/feed/atom/politics", "/feed/rss/politics", "/feed/atom/politics?page=2"]);
}

#[tokio::test]
async fn a_page_versioned_by_all_arguments_is_stale_alone() {
    let (pages, app, _) = app(|pages| {
        let view = pages.versioned(ByArguments::all()).wrap(view);
        pages.router().route("/feed/{format}/{name}", axum_get(view)).build().unwrap()
    });
    let stale = stale_after(&app, &["/feed/a/b", "/feed/b/a", "/feed/ab/%20"], async || {
        pages.uncache("view", [("format", "a"), ("name", "b")]).await.unwrap();
    });
    assert_eq!(stale.await, ["/feed/a/b"]);
}

#[tokio::test]
async fn views_share_generations_only_if_they_have_the_same_label() {
    for shared in [true, false] {
        let (pages, app, _) = app(|pages| {
            let one = pages.versioned(["name"]);
            let two = pages.versioned(["topic"]).rename("topic", "name");
            let (one, two) = if shared { (one.shared("topics"), two.shared("topics")) } else { (one, two) };
            pages
                .router()
                .route("/one/{name}", axum_get(one.wrap(view)))
                .route("/two/{topic}", axum_get(two.wrap(other_view)))
                .build()
                .unwrap()
        });
        let stale = stale_after(&app, &["/one/a", "/two/a", "/two/b"], async || {
            pages.uncache("view", [("name", "a")]).await.unwrap();
        });
        assert_eq!(stale.await, if shared { vec!["/one/a", "/two/a"] } else { vec!["/one/a"] });
    }
}

#[tokio::test]
async fn a_function_of_the_arguments_can_be_the_version() {
    let (pages, app, runs) = app(|pages| {
        let initial = |arguments: &Arguments| arguments.get("name")?.chars().next().map(String::from);
        let view = pages.versioned_by("initial", initial).wrap(view);
        pages.router().route("/by/{name}", axum_get(view)).build().unwrap()
    });
    let stale = stale_after(&app, &["/by/anna", "/by/axel", "/by/bert"], async || {
        pages.uncache("view", [("name", "alice")]).await.unwrap();
    });
    assert_eq!(stale.await, ["/by/anna", "/by/axel"]);
    assert_eq!(runs.count(), 5);
}

#[tokio::test]
async fn a_tag_makes_all_its_pages_stale_and_none_of_a_model_of_the_same_name() {
    let (pages, app, _) = app(|pages| {
        pages
            .router()
            .route("/a", axum_get(pages.tagged("book").named("a").wrap(view)))
            .route("/b", axum_get(pages.tagged("book").named("b").wrap(view)))
            .route("/c", axum_get(pages.tagged("other").named("c").wrap(view)))
            .route("/books", axum_get(pages.against_models::<Book>().named("books").wrap(view)))
            .build()
            .unwrap()
    });
    let stale = stale_after(&app, &["/a", "/b", "/c", "/books"], async || {
        pages.uncache_from_tag("book").await.unwrap();
    });
    assert_eq!(stale.await, ["/a", "/b"]);
}

fn shop(pages: &TestPages) -> Router<Runs> {
    let both = pages.against_model::<Author>().against_model::<Book>().rename("id", "author_id");
    pages
        .router()
        .route("/books/{id}", axum_get(pages.against_model::<Book>().named("book").wrap(view)))
        .route("/authors/{id}", axum_get(both.named("author").wrap(view)))
        .route("/books", axum_get(pages.against_models::<(Book, Author)>().named("books").wrap(view)))
        .route("/about", axum_get(pages.tagged("static").named("about").wrap(view)))
        .build()
        .unwrap()
}

const SHOP: [&str; 8] =
    ["/books/5", "/books/05", "/books/6", "/authors/7", "/authors/8", "/authors/9", "/books", "/about"];

#[tokio::test]
async fn a_saved_row_makes_its_pages_and_those_of_all_rows_stale() {
    let (pages, app, _) = app(shop);
    let stale = stale_after(&app, &SHOP, async || pages.saved(&book(5, 7)).await.unwrap());
    assert_eq!(stale.await, ["/books/5", "/books/05", "/authors/7", "/books"]);
}

#[tokio::test]
async fn a_row_that_moves_concerns_both_groups() {
    let (pages, app, _) = app(shop);
    let stale = stale_after(&app, &SHOP, async || pages.saved_from(&book(5, 7), &book(5, 8)).await.unwrap());
    assert_eq!(stale.await, ["/books/5", "/books/05", "/authors/7", "/authors/8", "/books"]);
}

#[tokio::test]
async fn a_deleted_row_concerns_its_page() {
    let (pages, app, _) = app(shop);
    let stale = stale_after(&app, &SHOP, async || pages.deleted(&book(6, 9)).await.unwrap());
    assert_eq!(stale.await, ["/books/6", "/authors/9", "/books"]);
    let stale = stale_after(&app, &SHOP, async || pages.deleted(&Author { id: 8 }).await.unwrap());
    assert_eq!(stale.await, ["/authors/8", "/books"]);
}

#[tokio::test]
async fn uncache_from_path_makes_the_pages_of_one_path_stale_for_any_query_and_encoding() {
    let (pages, app, _) = app(shop);
    let paths = ["/books/5", "/books/5?a=b", "/books/%35", "/books/05", "/books/6", "/books"];
    let stale = stale_after(&app, &paths, async || pages.uncache_from_path("/books/5?x=y").await.unwrap());
    assert_eq!(stale.await, ["/books/5", "/books/5?a=b", "/books/%35"]);
}

#[tokio::test]
async fn uncache_of_an_unversioned_view_makes_the_pages_of_these_arguments_stale() {
    let (pages, app, _) = app(shop);
    let stale = stale_after(&app, &SHOP, async || pages.uncache("book", [("id", 5)]).await.unwrap());
    assert_eq!(stale.await, ["/books/5"], "arguments are compared as text, not as the model reads them");
    let none: [(&str, u8); 0] = [];
    let stale = stale_after(&app, &SHOP, async || pages.uncache("about", none).await.unwrap());
    assert_eq!(stale.await, ["/about"]);
}

#[tokio::test]
async fn uncache_compares_decoded_arguments() {
    let (pages, app, _) = app(|pages| {
        let view = pages.tagged("t").named("file").wrap(view);
        pages.router().route("/files/{*rest}", axum_get(view)).build().unwrap()
    });
    let paths = ["/files/a/b", "/files/a%2Fb", "/files/a%2520b", "/files/a%20b"];
    let stale = stale_after(&app, &paths, async || pages.uncache("file", [("rest", "a/b")]).await.unwrap());
    assert_eq!(stale.await, ["/files/a/b", "/files/a%2Fb"]);
    let stale = stale_after(&app, &paths, async || pages.uncache("file", [("rest", "a%20b")]).await.unwrap());
    assert_eq!(stale.await, ["/files/a%2520b"]);
}

#[tokio::test]
async fn a_missing_argument_is_an_error_and_a_superfluous_one_is_not() {
    let (pages, app, _) = app(|pages| {
        let view = pages.versioned(ByArguments::all()).named("feed").wrap(view);
        pages.router().route("/feed/{format}/{name}", axum_get(view)).build().unwrap()
    });
    let error = pages.uncache("feed", [("name", "x")]).await.unwrap_err();
    assert!(error.to_string().contains("`format`"), "{error}");
    let stale = stale_after(&app, &["/feed/a/x"], async || {
        pages.uncache("feed", [("format", "a"), ("name", "x"), ("page", "2")]).await.unwrap();
    });
    assert_eq!(stale.await, ["/feed/a/x"]);
}

#[tokio::test]
async fn a_nested_router_with_an_undeclared_prefix_is_not_cached() {
    let (pages, app, runs) = app(|pages| {
        let view = pages.tagged("t").named("item").wrap(view);
        let inner = pages.router().route("/items/{id}", axum_get(view)).build().unwrap();
        Router::new().nest("/shops/{shop}", inner)
    });
    for _ in 0..2 {
        let response = send(&app, get("/shops/a/items/1")).await;
        assert_eq!(status(&response), "groupcache; fwd=bypass; detail=no-key");
    }
    assert_eq!(runs.count(), 2);
    drop(pages);
}

#[tokio::test]
async fn nested_routes_have_the_arguments_of_their_prefix() {
    let (pages, app, _) = app(|pages| {
        let view = pages.versioned(["shop"]).named("item").wrap(view);
        let plain = pages.tagged("t").named("plain").wrap(other_view);
        let inner = pages.router().nested_under("/shops/{shop}");
        let inner =
            inner.route("/items/{id}", axum_get(view)).route("/plain", axum_get(plain)).build().unwrap();
        Router::new().nest("/shops/{shop}", inner)
    });
    let paths = ["/shops/a/items/1", "/shops/b/items/1", "/shops/a/plain", "/shops/b/plain"];
    let stale = stale_after(&app, &paths, async || pages.uncache("item", [("shop", "a")]).await.unwrap());
    assert_eq!(stale.await, ["/shops/a/items/1"]);
    let stale =
        stale_after(&app, &paths, async || pages.uncache_from_path("/shops/b/items/1").await.unwrap());
    assert_eq!(stale.await, ["/shops/b/items/1"]);
    let stale = stale_after(&app, &paths, async || pages.uncache("plain", [("shop", "b")]).await.unwrap());
    assert_eq!(stale.await, ["/shops/b/plain"]);
}

#[tokio::test]
async fn several_changes_are_one_invalidation_of_all_their_groups() {
    let recorder = RecordingInvalidator::default();
    let pages = Pages::builder(pages().cache().clone()).downstream_invalidator(recorder.clone()).build();
    let view = pages.versioned(["name"]).named("feed").wrap(view);
    let router: Router<Runs> = pages.router().route("/feed/{name}", axum_get(view)).build().unwrap();
    let app = router.with_state(Runs::default());
    let stale = stale_after(&app, &["/feed/a", "/feed/b", "/feed/c"], async || {
        let changes = pages.changes().saved(&book(5, 7)).view("feed", [("name", "a")]);
        changes.view("feed", [("name", "b")]).tag("t").path("/p").invalidate().await.unwrap();
    });
    assert_eq!(stale.await, ["/feed/a", "/feed/b"]);
    let [groups] = &recorder.recorded()[..] else { panic!("one invalidation") };
    assert_eq!(groups.len(), 7, "{groups:?}");
    assert!(groups.contains(&Group::new("book").with("author_id", 7)));
}

#[tokio::test]
async fn a_downstream_invalidator_is_notified_after_the_cache() {
    /// Fetches the page as soon as it is notified, as a CDN may.
    #[derive(Clone, Default)]
    struct Cdn(Arc<OnceLock<Router>>, Arc<Mutex<String>>);

    impl Invalidator for Cdn {
        async fn invalidate(&self, _: &Groups) -> groupcache_core::Result<()> {
            let fetched = body(self.0.get().unwrap(), "/page").await;
            *self.1.lock().unwrap() = fetched;
            Ok(())
        }
    }

    let (cdn, runs) = (Cdn::default(), Runs::default());
    let pages = Pages::builder(pages().cache().clone()).downstream_invalidator(cdn.clone()).build();
    let view = pages.tagged("t").wrap(view);
    let app = pages.router().route("/page", axum_get(view)).build().unwrap().with_state(runs);
    cdn.0.set(app.clone()).unwrap();
    assert_eq!(body(&app, "/page").await, "1");
    pages.invalidate(groupcache_core::ByTag::group("t")).await.unwrap();
    assert_eq!(*cdn.1.lock().unwrap(), "2");
}

#[tokio::test]
async fn a_mistake_among_the_changes_is_an_error_that_names_it() {
    let (pages, _, _) = app(shop);
    let none: [(&str, u8); 0] = [];
    let mistakes = [
        (pages.uncache("no_such_view", none).await, "`no_such_view`"),
        (pages.uncache("book", none).await, "`id`"),
        (pages.uncache_from_tag("").await, "tag"),
        (pages.uncache_from_path("books/5").await, "`books/5`"),
        (pages.uncache_from_path("").await, "path"),
        (pages.changes().tag("").saved(&book(1, 1)).invalidate().await, "tag"),
    ];
    for (outcome, named) in mistakes {
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(named), "{error} names {named}");
    }
}

#[tokio::test]
async fn a_handler_can_declare_groups_while_it_runs() {
    async fn view(State(runs): State<Runs>, Path(id): Path<i64>) -> String {
        // As if the database had returned the author of the book.
        let author_id = id + 100;
        depend(Group::new("author").with("id", author_id)).await;
        runs.next().to_string()
    }
    let (pages, app, _) = app(|pages| {
        let view = pages.against_model::<Book>().wrap(view);
        pages.router().route("/books/{id}", axum_get(view)).build().unwrap()
    });
    let paths = ["/books/5", "/books/6"];
    let stale = stale_after(&app, &paths, async || pages.saved(&Author { id: 105 }).await.unwrap());
    assert_eq!(stale.await, ["/books/5"]);
    let stale = stale_after(&app, &paths, async || pages.saved(&book(6, 1)).await.unwrap());
    assert_eq!(stale.await, ["/books/6"]);
}

#[tokio::test]
async fn a_strategy_can_choose_the_key_of_a_page() {
    let (_, app, runs) = app(|pages| {
        // Not `call.key()`: tracking parameters in the query do not change the page.
        let strategy = |call: &PageCall| {
            let key = groupcache_core::Key::of(&(call.name(), call.uri().path()))?;
            Ok(Address { key, groups: Group::new("site").into() })
        };
        let view = pages.strategy(strategy).wrap(view);
        pages.router().route("/landing", axum_get(view)).build().unwrap()
    });
    assert_eq!(body(&app, "/landing?utm_source=a").await, body(&app, "/landing?utm_source=b").await);
    assert_eq!(runs.count(), 1);
    // The host is part of the key in any case.
    let elsewhere = axum::extract::Request::builder().uri("/landing").header("host", "other.test");
    send(&app, elsewhere.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!(runs.count(), 2);
}

#[tokio::test]
async fn an_argument_that_no_row_can_have_is_not_cached() {
    let (_, app, runs) = app(shop);
    for path in ["/books/five", "/books/five"] {
        let response = send(&app, get(path)).await;
        assert_eq!(status(&response), "groupcache; fwd=bypass; detail=no-key");
    }
    assert_eq!(runs.count(), 2);
}
