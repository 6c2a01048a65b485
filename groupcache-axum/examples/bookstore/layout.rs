//! The frame around every HTML page.

use axum::http::StatusCode;
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// Returns a complete page with `content` below its heading.
pub(crate) fn page(title: &str, content: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " – Bookstore" }
                link rel="icon" href=(ICON);
                style { (PreEscaped(STYLE)) }
            }
            body {
                header {
                    a.name href="/" { "Bookstore" }
                    nav {
                        a href="/books" { "Books" }
                        a href="/about" { "About" }
                        a href="/stats" { "Statistics" }
                    }
                }
                main {
                    h1 { (title) }
                    (content)
                }
            }
        }
    }
}

/// Returns the page of an error.
pub(crate) fn error_page(status: StatusCode, title: &str, text: &str) -> Markup {
    page(
        title,
        &html! {
            p.lead { (text) }
            p.faint { "Status " (status.as_u16()) ". " a href="/" { "Back to the start" } "." }
        },
    )
}

/// The style is part of every page, so that a page needs no other request.
const STYLE: &str = include_str!("style.css");

/// The icon is part of every page, too.
const ICON: &str = "data:image/svg+xml,\
    <svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>\
    <rect x='2' y='1' width='12' height='14' rx='1.5' fill='%239a3b26'/>\
    <path d='M5 1v14' stroke='%23fff'/></svg>";
