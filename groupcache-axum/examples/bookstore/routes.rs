//! The routes, and what each page depends on.

use axum::Router;
use axum::routing::{any, get, post};
use groupcache_core::Result;

use crate::model::{Author, Book};
use crate::render::counted;
use crate::state::AppState;
use crate::{api, cache_control, feeds, pages};

/// Returns the application. Fails if a wrapper does not fit its route or its model.
///
/// `counted` marks the responses of a handler with the number of its run. The cache around it stores them
/// with their mark, so a repeated number shows a hit.
pub(crate) fn router(state: AppState) -> Result<Router> {
    let cached = &state.pages;

    let api = cached
        .router()
        .nested_under("/api")
        .route("/books", post(api::insert_book))
        .route(
            "/books/{id}",
            get(cached.against_model::<Book>().named("api_book").wrap(counted(api::book)))
                .put(api::replace_book)
                .delete(api::delete_book),
        )
        .route(
            "/authors/{id}",
            get(cached.against_model::<Author>().named("api_author").wrap(counted(api::author))),
        )
        .build()?
        .fallback(api::no_such_route)
        .method_not_allowed_fallback(api::no_such_method);

    let feed = cached.against_model::<Book>().on(["feed_name"]).rename("feed_name", "genre").named("feed");
    let site = cached
        .router()
        .route("/", get(cached.tagged("home").named("home").wrap(counted(pages::home))))
        .route("/about", get(cached.tagged("static").named("about").wrap(counted(pages::about))))
        .route(
            "/books",
            get(cached.against_models::<(Book, Author)>().named("books").wrap(counted(pages::books))),
        )
        // The handler loads the author of the book, and declares the dependency itself.
        .route("/books/{id}", get(cached.against_model::<Book>().named("book").wrap(counted(pages::book))))
        .route(
            "/authors/{id}",
            get(cached
                .against_model::<Author>()
                .against_model::<Book>()
                .rename("id", "author_id")
                .named("author")
                .wrap(counted(pages::author))),
        )
        .route("/feed/{format}/{feed_name}/{num_entries}", get(feed.wrap(counted(feeds::feed))))
        .route("/stats", get(cache_control::stats))
        .route("/uncache/path", post(cache_control::uncache_path))
        .route("/uncache/tag/{tag}", post(cache_control::uncache_tag))
        .build()?;

    Ok(site
        .fallback(pages::no_such_page)
        .method_not_allowed_fallback(pages::no_such_method)
        .nest("/api", api)
        // `nest` does not match the prefix itself.
        .route("/api/", any(api::no_such_route))
        .with_state(state))
}
