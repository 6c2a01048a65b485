//! The data of the bookstore: books and their authors.

use groupcache_core::Model;
use groupcache_sqlx::{Watch, Watches};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow)]
pub(crate) struct Book {
    pub(crate) id: i64,
    pub(crate) title: String,
    pub(crate) author_id: i64,
    pub(crate) genre: String,
    /// The year of the first publication. Negative years are BC.
    pub(crate) year: i64,
}

impl Model for Book {
    const NAME: &'static str = "book";
    // Pages show one book, or the books of one author. Feeds show the books of one genre.
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"], &["genre"]];
}

/// A book without an id: one to insert, or the replacement of an existing one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct NewBook {
    pub(crate) title: String,
    pub(crate) author_id: i64,
    pub(crate) genre: String,
    pub(crate) year: i64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, sqlx::FromRow)]
pub(crate) struct Author {
    pub(crate) id: i64,
    pub(crate) name: String,
}

impl Model for Author {
    const NAME: &'static str = "author";
    const GROUPS: &'static [&'static [&'static str]] = &[&["id"]];
}

/// Declares the tables of the models. Triggers in the database invalidate the groups of each changed row.
pub(crate) fn watches() -> Watches {
    Watches::new().with(Watch::<Book>::table("books")).with(Watch::<Author>::table("authors"))
}

/// A book with the name of its author.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub(crate) struct BookWithAuthor {
    #[sqlx(flatten)]
    pub(crate) book: Book,
    pub(crate) author: String,
}

/// Formats a year.
pub(crate) fn year_text(year: i64) -> String {
    if year < 0 { format!("{} BC", year.unsigned_abs()) } else { year.to_string() }
}

/// Returns whether `text` consists of lower-case words and digits joined by single hyphens. Genres do,
/// because they are part of URLs and should need no escaping there.
pub(crate) fn is_slug(text: &str) -> bool {
    text.split('-').all(|word| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    })
}
