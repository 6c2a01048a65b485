//! The HTML pages.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use groupcache_core::{Group, Model, depend};
use maud::{Markup, html};

use crate::error::PageError;
use crate::layout::page;
use crate::model::{Author, Book, BookWithAuthor, year_text};
use crate::state::AppState;

/// Explains the demonstration. Shows no data, so no write makes it stale.
pub(crate) async fn home(State(state): State<AppState>, headers: HeaderMap) -> Markup {
    page(
        "Welcome to the bookstore",
        &html! {
            p.lead {
                "A small shop whose pages are cached until the data they show changes."
            }
            p {
                "The first request for a page loads it from the database. Later requests are "
                "served from the cache until a write changes a book that the page shows. Then "
                "exactly the pages that show this book are loaded again. No page has to expire "
                "first, and none is ever older than the data."
            }
            p {
                "The header " code { "x-render" } " of a page is the number of the handler run "
                "that made it. If two responses have the same number, the second one came from "
                "the cache. A new number means that the page was loaded again."
            }
            (places())
            (experiments(&state.base_url(&headers)))
        },
    )
}

/// Describes this program. Shows no data, like the home page.
pub(crate) async fn about() -> Markup {
    page(
        "About",
        &html! {
            p {
                "This bookstore sells nothing. It shows well-known books with their authors, "
                "genres and years of first publication. The data is in one SQLite file or in a "
                "PostgreSQL database, which is filled at the first start."
            }
            p {
                "The same data is available as HTML pages, as a JSON API, and as feeds. One book "
                "is therefore part of many responses: its own page, its JSON, the list of all "
                "books, the page of its author, and the feeds of its genre. A change of that "
                "book makes all of them stale at once, and no other response."
            }
            p {
                "This page and the " a href="/" { "home page" } " show no data, so no write "
                "makes them stale."
            }
        },
    )
}

pub(crate) async fn books(State(state): State<AppState>) -> Result<Markup, PageError> {
    let books = state.database.books_with_authors().await?;
    let genres = state.database.genres().await?;
    Ok(page(
        "All books",
        &html! {
            p.faint { "Follow a genre:" }
            ul.tags {
                @for genre in &genres { li { (genre_link(genre)) } }
            }
            div.scroll {
                table {
                    thead {
                        tr { th { "Title" } th { "Author" } th { "Genre" } th.number { "Year" } }
                    }
                    tbody {
                        @for BookWithAuthor { book, author } in &books {
                            tr {
                                td { (book_link(book)) }
                                td { a href={ "/authors/" (book.author_id) } { (author) } }
                                td { (book.genre) }
                                td.number { (year_text(book.year)) }
                            }
                        }
                    }
                }
            }
        },
    ))
}

pub(crate) async fn book(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Markup, PageError> {
    let Path(id) = id?;
    let book = state
        .database
        .book(id)
        .await?
        .ok_or_else(|| PageError::NotFound(format!("There is no book number {id}.")))?;
    // The author is known only now. Declare the dependency before reading the author.
    depend(Group::new(Author::NAME).with("id", book.author_id)).await;
    let author = state.database.author(book.author_id).await?;
    Ok(page(
        &book.title,
        &html! {
            dl {
                @if let Some(Author { id, name }) = &author {
                    dt { "Author" } dd { a href={ "/authors/" (id) } { (name) } }
                }
                dt { "Genre" } dd { (genre_link(&book.genre)) }
                dt { "First published" } dd { (year_text(book.year)) }
            }
            p.faint { a href={ "/api/books/" (book.id) } { "This book as JSON" } }
        },
    ))
}

pub(crate) async fn author(
    State(state): State<AppState>,
    id: Result<Path<i64>, PathRejection>,
) -> Result<Markup, PageError> {
    let Path(id) = id?;
    let author = state
        .database
        .author(id)
        .await?
        .ok_or_else(|| PageError::NotFound(format!("There is no author number {id}.")))?;
    let books = state.database.books_of_author(id).await?;
    Ok(page(
        &author.name,
        &html! {
            @if books.is_empty() {
                p { "The shop has no book by this author." }
            } @else {
                div.scroll {
                    table {
                        thead { tr { th { "Title" } th { "Genre" } th.number { "Year" } } }
                        tbody {
                            @for book in &books {
                                tr {
                                    td { (book_link(book)) }
                                    td { (genre_link(&book.genre)) }
                                    td.number { (year_text(book.year)) }
                                }
                            }
                        }
                    }
                }
            }
            p.faint { a href={ "/api/authors/" (author.id) } { "This author as JSON" } }
        },
    ))
}

pub(crate) async fn no_such_page() -> PageError {
    PageError::NotFound("There is no page at this address.".to_owned())
}

pub(crate) async fn no_such_method() -> PageError {
    PageError::MethodNotAllowed
}

/// Lists the addresses of the bookstore.
fn places() -> Markup {
    const PLACES: [(&str, &[&str]); 5] = [
        ("Pages", &["/books", "/books/1", "/books/50", "/authors/1", "/authors/25"]),
        ("JSON", &["/api/books/1", "/api/books/50", "/api/authors/1", "/api/authors/25"]),
        ("Feeds", &["/feed/atom/novel/10", "/feed/rss/fantasy/10", "/feed/json/mystery/10"]),
        ("Without data", &["/", "/about"]),
        ("The cache itself", &["/stats"]),
    ];
    html! {
        h2 { "Where to go" }
        dl {
            @for (kind, paths) in PLACES {
                dt { (kind) }
                dd {
                    @for (i, path) in paths.iter().enumerate() {
                        @if i > 0 { " · " }
                        a href=(path) { (path) }
                    }
                }
            }
        }
    }
}

/// Lists commands to copy.
fn experiments(base_url: &str) -> Markup {
    html! {
        h2 { "Try it" }
        p { "Request a page twice. The handler runs once:" }
        pre { code { "curl -si " (base_url) "/books/1 | grep -i x-render" } }
        p { "Change the book. The next request loads its pages again; all others stay cached:" }
        pre {
            code {
                "curl -X PUT " (base_url) "/api/books/1 -H 'content-type: application/json' \\\n"
                r#"  -d '{"title": "A New Title", "author_id": 1, "genre": "novel", "year": 1813}'"#
            }
        }
        p { "Invalidate one page:" }
        pre {
            code {
                "curl -X POST " (base_url) "/uncache/path -d /books"
            }
        }
        p { "Invalidate the pages with a tag:" }
        pre { code { "curl -X POST " (base_url) "/uncache/tag/static" } }
    }
}

fn book_link(book: &Book) -> Markup {
    html! { a href={ "/books/" (book.id) } { (book.title) } }
}

fn genre_link(genre: &str) -> Markup {
    html! { a href={ "/feed/atom/" (genre) "/20" } { (genre) } }
}
