//! The HTML pages.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use groupcache_core::{Group, Model, depend};
use maud::{Markup, html};

use crate::AppState;
use crate::database;
use crate::error::PageError;
use crate::layout::page;
use crate::model::{Author, Book, BookWithAuthor, year_text};
use crate::render::base_url;

/// Explains the demonstration. It shows nothing that is in the database, so it never changes
/// while the program runs.
pub(crate) async fn home(State(state): State<AppState>, headers: HeaderMap) -> Markup {
    page(
        "Welcome to the bookstore",
        &html! {
            p.lead {
                "A small shop whose pages are cached until the data they show changes."
            }
            p {
                "The first visit to a page makes it from the database. Later visits get it from "
                "the cache, until a write changes a book that is on it; then exactly the pages "
                "that show this book are made anew. No page waits for a time to run out, and "
                "none is ever older than the data."
            }
            p {
                "The header " code { "x-render" } " of a page is the number of the run that "
                "made it. The same number twice: the page came from the cache. A new number: "
                "it was made again."
            }
            (places())
            (experiments(&base_url(&headers, &state)))
        },
    )
}

/// What this program is made of. Like the home page it never changes.
pub(crate) async fn about() -> Markup {
    page(
        "About",
        &html! {
            p {
                "This bookstore sells nothing. It shows well-known books, their authors, their "
                "genres and the years in which they first came out, all in one SQLite file "
                "that is filled at the first start."
            }
            p {
                "It offers the same data in three ways: as pages to read, as JSON to read and "
                "write, and as feeds to follow. One book is therefore part of many answers: its "
                "own page, its JSON, the list of all books, its author's page, and the feeds of "
                "its genre. A change of that one book makes all of them out of date at once, "
                "and leaves all others as they are."
            }
            p {
                "This page and the " a href="/" { "home page" } " show no data at all, so no "
                "write ever makes them out of date."
            }
        },
    )
}

pub(crate) async fn books(State(state): State<AppState>) -> Result<Markup, PageError> {
    let books = database::books_with_authors(&state.pool).await?;
    let genres = database::genres(&state.pool).await?;
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
    let book = database::book(&state.pool, id)
        .await?
        .ok_or_else(|| PageError::NotFound(format!("There is no book number {id}.")))?;
    // Found out only now; declared before it is read.
    depend(Group::new(Author::NAME).with("id", book.author_id)).await;
    let author = database::author(&state.pool, book.author_id).await?;
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
    let author = database::author(&state.pool, id)
        .await?
        .ok_or_else(|| PageError::NotFound(format!("There is no author number {id}.")))?;
    let books = database::books_of_author(&state.pool, id).await?;
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

/// The home page's list of what there is to visit.
fn places() -> Markup {
    const PLACES: [(&str, &[&str]); 5] = [
        ("Pages", &["/books", "/books/1", "/books/50", "/authors/1", "/authors/25"]),
        ("JSON", &["/api/books/1", "/api/books/50", "/api/authors/1", "/api/authors/25"]),
        ("Feeds", &["/feed/atom/novel/10", "/feed/rss/fantasy/10", "/feed/json/mystery/10"]),
        ("Never changing", &["/", "/about"]),
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

/// The home page's commands to copy.
fn experiments(base_url: &str) -> Markup {
    html! {
        h2 { "Try it" }
        p { "Look at a page twice, and see that it is made once:" }
        pre { code { "curl -si " (base_url) "/books/1 | grep -i x-render" } }
        p { "Change the book. Its pages are made anew at the next visit, all others stay:" }
        pre {
            code {
                "curl -X PUT " (base_url) "/api/books/1 -H 'content-type: application/json' \\\n"
                r#"  -d '{"title": "A New Title", "author_id": 1, "genre": "novel", "year": 1813}'"#
            }
        }
        p { "Make the cache forget one page:" }
        pre {
            code {
                "curl -X POST " (base_url) "/uncache/path -d /books"
            }
        }
        p { "Make the cache forget the pages that carry a tag:" }
        pre { code { "curl -X POST " (base_url) "/uncache/tag/static" } }
    }
}

fn book_link(book: &Book) -> Markup {
    html! { a href={ "/books/" (book.id) } { (book.title) } }
}

fn genre_link(genre: &str) -> Markup {
    html! { a href={ "/feed/atom/" (genre) "/20" } { (genre) } }
}
