//! The newest books of a genre as a feed, in three formats.
//!
//! A feed depends only on the data and the URL of the server: the same books give the same bytes at any time.
//! That is why its dates are those of the books.

use atom_syndication as atom;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use groupcache_core::{Group, Groups, Model, depend};
use maud::html;
use serde_json::json;

use crate::error::PageError;
use crate::model::{Author, BookWithAuthor, year_text};
use crate::state::AppState;

pub(crate) async fn feed(
    State(state): State<AppState>,
    headers: HeaderMap,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Result<Response, PageError> {
    let Path((format, genre, num_entries)) = path?;
    let format = Format::named(&format).ok_or_else(|| {
        PageError::NotFound(format!("There is no feed format {format}. The formats are atom, rss and json."))
    })?;
    let num_entries =
        num_entries.parse().ok().filter(|number| (1..=ENTRIES_MAX).contains(number)).ok_or_else(|| {
            PageError::BadRequest(format!(
                "The number of entries must be from 1 to {ENTRIES_MAX}, not {num_entries}."
            ))
        })?;
    // The entries show the names of their authors. Declare that before reading the names.
    let authors = state.database.authors_of_newest_books(&genre, num_entries).await?;
    let authors = authors.into_iter().map(|id| Group::new(Author::NAME).with("id", id));
    depend(authors.collect::<Groups>()).await;
    let books = state.database.newest_books_of_genre(&genre, num_entries).await?;
    if books.is_empty() {
        return Err(PageError::NotFound(format!("There is no genre {genre}.")));
    }

    let base_url = &state.base_url(&headers);
    let feed = Feed {
        id: format!("{ID_PREFIX}genre/{genre}"),
        title: format!("Bookstore: {genre}"),
        description: format!("The newest books of the genre {genre}"),
        url: format!("{base_url}/feed/{}/{genre}/{num_entries}", format.name()),
        home_url: format!("{base_url}/books"),
        entries: books.into_iter().map(|book| Entry::new(book, base_url)).collect(),
    };
    let (content_type, body) = match format {
        Format::Atom => ("application/atom+xml; charset=utf-8", feed.into_atom()?),
        Format::Rss => ("application/rss+xml; charset=utf-8", feed.into_rss()?),
        Format::Json => ("application/feed+json; charset=utf-8", feed.into_json()),
    };
    Ok(([(header::CONTENT_TYPE, content_type)], body).into_response())
}

#[derive(Clone, Copy)]
enum Format {
    Atom,
    Rss,
    Json,
}

impl Format {
    fn named(name: &str) -> Option<Self> {
        [Self::Atom, Self::Rss, Self::Json].into_iter().find(|format| format.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::Atom => "atom",
            Self::Rss => "rss",
            Self::Json => "json",
        }
    }
}

/// A feed in no particular format.
struct Feed {
    id: String,
    title: String,
    description: String,
    url: String,
    home_url: String,
    entries: Vec<Entry>,
}

struct Entry {
    id: String,
    url: String,
    title: String,
    author: String,
    genre: String,
    summary: String,
    date: atom::FixedDateTime,
}

impl Entry {
    fn new(BookWithAuthor { book, author }: BookWithAuthor, base_url: &str) -> Self {
        Self {
            id: format!("{ID_PREFIX}book/{}", book.id),
            url: format!("{base_url}/books/{}", book.id),
            summary: xml_text(&format!(
                "{} by {author}, first published in {}",
                book.title,
                year_text(book.year)
            )),
            title: xml_text(&book.title),
            author: xml_text(&author),
            genre: book.genre,
            date: first_day(book.year),
        }
    }
}

impl Feed {
    fn into_atom(self) -> Result<Vec<u8>, atom::Error> {
        let link = |rel: &str, mime_type: &str, href| atom::Link {
            href,
            rel: rel.to_owned(),
            mime_type: Some(mime_type.to_owned()),
            ..atom::Link::default()
        };
        let feed = atom::Feed {
            id: self.id,
            title: atom::Text::plain(self.title),
            subtitle: Some(atom::Text::plain(self.description)),
            updated: newest(&self.entries),
            links: vec![
                link("self", "application/atom+xml", self.url),
                link("alternate", "text/html", self.home_url),
            ],
            entries: self
                .entries
                .into_iter()
                .map(|entry| atom::Entry {
                    id: entry.id,
                    title: atom::Text::plain(entry.title),
                    summary: Some(atom::Text::plain(entry.summary)),
                    updated: entry.date,
                    published: Some(entry.date),
                    authors: vec![atom::Person { name: entry.author, ..atom::Person::default() }],
                    categories: vec![atom::Category { term: entry.genre, ..atom::Category::default() }],
                    links: vec![link("alternate", "text/html", entry.url)],
                    ..atom::Entry::default()
                })
                .collect(),
            lang: Some("en".to_owned()),
            ..atom::Feed::default()
        };
        feed.write_to(Vec::new())
    }

    fn into_rss(self) -> Result<Vec<u8>, rss::Error> {
        let channel = rss::Channel {
            title: self.title,
            link: self.home_url,
            description: self.description,
            language: Some("en".to_owned()),
            last_build_date: Some(newest(&self.entries).to_rfc2822()),
            items: self
                .entries
                .into_iter()
                .map(|entry| rss::Item {
                    title: Some(entry.title),
                    link: Some(entry.url),
                    // Feed readers interpret the description as HTML.
                    description: Some(html! { (entry.summary) }.into_string()),
                    categories: vec![rss::Category { name: entry.genre, domain: None }],
                    guid: Some(rss::Guid { value: entry.id, permalink: false }),
                    pub_date: Some(entry.date.to_rfc2822()),
                    ..rss::Item::default()
                })
                .collect(),
            ..rss::Channel::default()
        };
        channel.write_to(Vec::new())
    }

    fn into_json(self) -> Vec<u8> {
        let items: Vec<_> = self
            .entries
            .into_iter()
            .map(|entry| {
                json!({
                    "id": entry.id,
                    "url": entry.url,
                    "title": entry.title,
                    "content_text": entry.summary,
                    "date_published": entry.date.to_rfc3339(),
                    "authors": [{ "name": entry.author }],
                    "tags": [entry.genre],
                })
            })
            .collect();
        json!({
            "version": "https://jsonfeed.org/version/1.1",
            "title": self.title,
            "description": self.description,
            "home_page_url": self.home_url,
            "feed_url": self.url,
            "language": "en",
            "items": items,
        })
        .to_string()
        .into_bytes()
    }
}

/// Returns the date of the newest entry, which is the first.
fn newest(entries: &[Entry]) -> atom::FixedDateTime {
    entries.first().map(|entry| entry.date).unwrap_or_default()
}

/// Returns the first day of a year. The formats have no years before 1 or after 9999; the summary has the
/// real one.
fn first_day(year: i64) -> atom::FixedDateTime {
    format!("{:04}-01-01T00:00:00Z", year.clamp(1, 9999)).parse().unwrap_or_default()
}

/// Removes the characters that XML cannot represent, not even escaped.
fn xml_text(text: &str) -> String {
    text.replace(
        |char| {
            matches!(char, '\0'..='\u{8}' | '\u{b}' | '\u{c}' | '\u{e}'..='\u{1f}')
                || matches!(char, '\u{fffe}' | '\u{ffff}')
        },
        "",
    )
}

const ENTRIES_MAX: u32 = 100;

/// Ids are not URLs, so that they are the same on every server.
const ID_PREFIX: &str = "tag:bookstore.example,2025:";
