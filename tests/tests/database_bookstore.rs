//! The bookstore shows what other programs write to its database, on SQLite and on PostgreSQL.

use std::process::Command;
use std::time::Duration;

use groupcache_tests::bookstore::{Bookstore, behave_as_one, book};
use groupcache_tests::postgres_server::PostgresServer;
use groupcache_tests::process::{have, new_directory};
use groupcache_tests::redis_server::RedisServer;
use tokio::time::Instant;

const HIT: &str = "groupcache; hit";

/// The pages that show book 5, which is by author 1 and a novel.
const CONCERNED: [&str; 4] = ["/books/5", "/api/books/5", "/books", "/feed/json/novel/100"];
const UNCONCERNED: [&str; 4] = ["/books/6", "/authors/2", "/feed/json/poetry/10", "/about"];

/// Gets a page until `is_right`, for a second.
fn within_a_second(shop: &Bookstore, path: &str, is_right: impl Fn(&str) -> bool) {
    let start = Instant::now();
    while !is_right(shop.get(path).body()) {
        assert!(start.elapsed() < Duration::from_secs(1), "{path} is stale after a second");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn cache_pages(shop: &Bookstore, paths: &[&str]) {
    for path in paths {
        assert_eq!(shop.get(path).status(), "200", "{path}");
        let start = Instant::now();
        while shop.get(path).header("cache-status") != HIT {
            assert!(start.elapsed() < Duration::from_secs(10), "{path} is never a hit");
        }
    }
}

/// Runs `sql` as another program, and sees it on the pages that it concerns, and only there.
fn shows_what_others_write(shop: &Bookstore, write: impl Fn(&str)) {
    cache_pages(shop, &CONCERNED);
    cache_pages(shop, &UNCONCERNED);
    write("UPDATE books SET title = 'Written by hand' WHERE id = 5");
    for path in CONCERNED {
        within_a_second(shop, path, |body| body.contains("Written by hand"));
    }
    for path in UNCONCERNED {
        assert_eq!(shop.get(path).header("cache-status"), HIT, "{path}");
    }

    // An author is on the pages of its books, and in their feeds.
    cache_pages(shop, &CONCERNED);
    write("UPDATE authors SET name = 'A New Name' WHERE id = (SELECT author_id FROM books WHERE id = 5)");
    for path in ["/books/5", "/books", "/feed/json/novel/100"] {
        within_a_second(shop, path, |body| body.contains("A New Name"));
    }
    assert_eq!(shop.get("/api/books/5").header("cache-status"), HIT, "it shows no name");

    write("DELETE FROM books WHERE id = 5");
    within_a_second(shop, "/books/5", |body| !body.contains("Written by hand"));
    assert_eq!(shop.get("/books/5").status(), "404");

    // A write of its own is on the next page. Its relay does not load that page again.
    for round in 0..20 {
        let title = format!("Title of round {round}");
        assert_eq!(shop.send("PUT", "/api/books/6", &book(&title)).status(), "200");
        let first = shop.get("/books/6");
        assert!(first.body().contains(&title), "round {round}");
        let render = first.header("x-render").to_owned();
        std::thread::sleep(Duration::from_millis(70));
        assert_eq!(shop.get("/books/6").header("x-render"), render, "round {round}");
    }
}

#[test]
fn a_change_by_the_sqlite_shell_shows_on_the_pages_concerned() {
    if !have("sqlite3") {
        return;
    }
    let directory = new_directory();
    let file = directory.join("books.sqlite");
    let shop = Bookstore::start(&format!("sqlite://{}", file.display()), "memory");
    shows_what_others_write(&shop, |sql| {
        let mut shell = Command::new("sqlite3");
        shell.args(["-bail", "-cmd", ".timeout 5000"]).arg(&file).arg(sql);
        assert!(shell.status().expect("sqlite3 runs").success(), "{sql}");
    });
    drop(shop);
    std::fs::remove_dir_all(directory).expect("removed");
}

#[test]
fn a_change_by_psql_shows_on_the_pages_concerned() {
    let Some(server) = PostgresServer::start(0) else { return };
    let shop = Bookstore::start(&server.url("postgres"), "memory");
    shows_what_others_write(&shop, |sql| server.psql("postgres", sql));

    // Another process with a cache of its own.
    let other = Bookstore::start(&server.url("postgres"), "memory");
    cache_pages(&shop, &["/books/7", "/books/8"]);
    cache_pages(&other, &["/books/7", "/books/8"]);
    assert_eq!(shop.send("PUT", "/api/books/7", &book("Of the other process")).status(), "200");
    within_a_second(&other, "/books/7", |body| body.contains("Of the other process"));
    assert_eq!(other.get("/books/8").header("cache-status"), HIT);
}

#[test]
fn two_bookstores_on_postgresql_and_redis_behave_as_one() {
    let (Some(server), Some(mut redis)) = (PostgresServer::start(0), RedisServer::start(&[])) else { return };
    let start = || Bookstore::start(&server.url("postgres"), &redis.url());
    let (one, other) = (start(), start());
    behave_as_one(&one, &other);
    redis.kill();
    let write = one.send("PUT", "/api/books/5", &book("Written without Redis"));
    assert_eq!(write.status(), "503");
    assert!(write.body().contains("the write stands"), "{}", write.body());
    assert!(other.get("/books/5").body().contains("Written without Redis"));
    redis.restart();
    cache_pages(&other, &["/books/5"]);
    assert!(other.get("/books/5").body().contains("Written without Redis"));
}
