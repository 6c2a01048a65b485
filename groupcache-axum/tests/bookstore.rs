//! The example `bookstore`, started as a process and requested over the network.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Returns the example, which Cargo builds together with the tests.
fn program() -> Command {
    let mut path = std::env::current_exe().unwrap();
    path.pop();
    path.pop();
    Command::new(path.join("examples").join("bookstore"))
}

/// A running bookstore. Kills the process and removes its files when dropped.
struct Bookstore {
    process: Child,
    url: String,
    database: PathBuf,
    client: Client<HttpConnector, Body>,
}

struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Bookstore {
    fn start(name: &str) -> Self {
        let database = std::env::temp_dir().join(format!("bookstore-{name}-{}.sqlite", std::process::id()));
        let mut process = program()
            .args(["--listen", "127.0.0.1:0", "--backend", "memory"])
            .arg(format!("--database=sqlite://{}", database.display()))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example is built with the tests");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = lines.next().expect("it prints its address").unwrap();
        let url = first[first.find("http://").unwrap()..].trim_end_matches('/').to_owned();
        // Keeps reading, so that the process never blocks on a full pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, url, database, client: Client::builder(TokioExecutor::new()).build_http() }
    }

    async fn send(&self, method: &str, path: &str, body: impl Into<Body>) -> Response {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        let request = request.header("content-type", "application/json").body(body.into()).unwrap();
        let response = self.client.request(request).await.expect("a response");
        let (head, body) = response.into_parts();
        let body = to_bytes(Body::new(body), usize::MAX).await.expect("a complete body");
        Response {
            status: head.status,
            headers: head.headers,
            body: String::from_utf8(body.to_vec()).unwrap(),
        }
    }

    async fn get(&self, path: &str) -> Response {
        self.send("GET", path, Body::empty()).await
    }

    async fn book(&self, id: i64) -> Value {
        serde_json::from_str(&self.get(&format!("/api/books/{id}")).await.body).unwrap()
    }

    async fn renders(&self, paths: &[&str]) -> BTreeMap<String, u64> {
        let mut renders = BTreeMap::new();
        for path in paths {
            renders.insert((*path).to_owned(), self.get(path).await.render());
        }
        renders
    }
}

impl Drop for Bookstore {
    fn drop(&mut self) {
        self.process
            .kill()
            .and_then(|()| self.process.wait())
            .map_or_else(|error| eprintln!("{error}"), drop);
        for suffix in ["", "-wal", "-shm"] {
            let file = format!("{}{suffix}", self.database.display());
            // SQLite creates the files with a suffix as needed.
            let _removed = std::fs::remove_file(file);
        }
    }
}

impl Response {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn render(&self) -> u64 {
        self.header("x-render").parse().expect("every page has the number of its run")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_the_pages_that_show_a_change_are_loaded_again() {
    let shop = Bookstore::start("pages");
    let (old, other) = (shop.book(5).await, shop.book(100).await);
    let (old_genre, new_genre) = (old["genre"].as_str().unwrap(), other["genre"].as_str().unwrap());
    assert_ne!(old_genre, new_genre);
    assert_ne!(old["author_id"], other["author_id"]);
    let (old_author, new_author) =
        (format!("/authors/{}", old["author_id"]), format!("/authors/{}", other["author_id"]));
    let feeds: Vec<String> = [old_genre, new_genre]
        .iter()
        .flat_map(|genre| ["atom", "rss", "json"].map(|format| format!("/feed/{format}/{genre}/10")))
        .collect();
    let mut stale = vec!["/books/5", "/api/books/5", "/books", &old_author, &new_author];
    stale.extend(feeds.iter().map(String::as_str));
    let third = (1..)
        .map(|id| format!("/authors/{id}"))
        .find(|path| *path != old_author && *path != new_author)
        .unwrap();
    let api_author = format!("/api/authors/{}", old["author_id"]);
    let untouched = [
        "/",
        "/about",
        "/books/6",
        "/books/100",
        "/api/books/100",
        &third,
        &api_author,
        "/feed/json/poetry/5",
    ];
    assert!(![old_genre, new_genre].contains(&"poetry"));

    let (before, before_untouched) = (shop.renders(&stale).await, shop.renders(&untouched).await);
    assert_eq!(shop.renders(&stale).await, before, "the second GET repeats x-render");
    assert_eq!(shop.renders(&untouched).await, before_untouched);
    assert_eq!(shop.get("/books/5").await.header("cache-status"), "groupcache; hit");

    let mut new = old.clone();
    new["title"] = "A Title <of> Our Own".into();
    new["author_id"] = other["author_id"].clone();
    new["genre"] = new_genre.into();
    new["year"] = 1234.into();
    let response = shop.send("PUT", "/api/books/5", new.to_string()).await;
    assert_eq!(
        (response.status, serde_json::from_str(&response.body).ok()),
        (StatusCode::OK, Some(new.clone()))
    );

    assert_eq!(shop.book(5).await, new);
    for path in ["/books/5", "/books", &new_author] {
        assert!(shop.get(path).await.body.contains("A Title &lt;of&gt; Our Own"), "{path} shows the change");
    }
    assert!(!shop.get(&old_author).await.body.contains("of Our Own"));
    for (path, render) in shop.renders(&stale).await {
        assert!(render > before[&path], "{path} is loaded again");
    }
    assert_eq!(shop.renders(&untouched).await, before_untouched, "all other pages are hits");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_book_is_gone_at_once_and_a_new_one_there_at_once() {
    let shop = Bookstore::start("delete");
    for path in ["/books/5", "/api/books/5"] {
        assert_eq!(shop.get(path).await.status, StatusCode::OK);
        assert_eq!(shop.get(path).await.header("cache-status"), "groupcache; hit");
    }
    let listed = shop.get("/books").await.body;
    assert!(listed.contains("href=\"/books/5\""));
    let deleted = shop.send("DELETE", "/api/books/5", Body::empty()).await;
    assert_eq!(
        (deleted.status, serde_json::from_str::<Value>(&deleted.body).unwrap()["deleted"]["id"].as_i64()),
        (StatusCode::OK, Some(5))
    );
    for path in ["/books/5", "/api/books/5", "/books/05"] {
        assert_eq!(shop.get(path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert!(!shop.get("/books").await.body.contains("href=\"/books/5\""));

    let count = listed.matches("href=\"/books/").count();
    let next = i64::try_from(count).unwrap() + 1;
    let page = format!("/books/{next}");
    assert_eq!(shop.get(&page).await.status, StatusCode::NOT_FOUND, "and that response is cached");
    assert_eq!(shop.get(&page).await.header("cache-status"), "groupcache; hit");
    let book = json!({ "title": "New", "author_id": 1, "genre": "poetry", "year": 2026 });
    let created = shop.send("POST", "/api/books", book.to_string()).await;
    assert_eq!(
        (created.status, created.header("location")),
        (StatusCode::CREATED, &*format!("/api/books/{next}"))
    );
    assert_eq!(shop.get(&page).await.status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_invalidated_by_path_and_by_tag_and_counted() {
    let shop = Bookstore::start("uncache");
    let paths = ["/", "/about", "/books", "/books/5", "/api/books/5"];
    let before = shop.renders(&paths).await;
    let changed = async |before: &BTreeMap<String, u64>| {
        let now = shop.renders(&paths).await;
        let changed =
            now.iter().filter(|(path, render)| before[*path] != **render).map(|(path, _)| path.clone());
        (changed.collect::<Vec<_>>(), now.clone())
    };
    assert_eq!(shop.send("POST", "/uncache/path", "/books/5").await.status, StatusCode::OK);
    let (stale, now) = changed(&before).await;
    assert_eq!(stale, ["/books/5"]);
    assert_eq!(shop.send("POST", "/uncache/tag/static", Body::empty()).await.status, StatusCode::OK);
    assert_eq!(changed(&now).await.0, ["/about"]);
    assert_eq!(shop.send("POST", "/uncache/path", "books").await.status, StatusCode::BAD_REQUEST);
    let stats: Value = serde_json::from_str(&shop.get("/stats").await.body).unwrap();
    assert_eq!((stats["misses"].as_u64(), stats["invalidations"].as_u64()), (Some(7), Some(2)));
    assert_eq!(stats["hits"].as_u64(), Some(8));
}

#[test]
fn an_invalid_option_is_one_line_on_stderr_and_exit_code_2() {
    let run = |arguments: &[&str]| -> Output { program().args(arguments).output().unwrap() };
    for (arguments, named) in [
        (&["--listen", "nowhere"][..], "--listen"),
        (&["--backend", "paper"], "--backend"),
        (&["--database", "mysql://x"], "--database"),
        (&["--database", "sqlite:///no/such/folder/x"], "--database"),
        (&["--colour"], "--colour"),
    ] {
        let output = run(arguments);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), stderr.trim_end().lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains(named), "{stderr}");
    }
    let help = run(&["--help"]);
    assert!(help.status.success());
    assert!(String::from_utf8(help.stdout).unwrap().contains("--database"));
}

/// The books that the load test writes, and the last acknowledged version of each.
struct Ledger {
    books: Vec<Acknowledged>,
    writers: Vec<Mutex<()>>,
}

struct Acknowledged {
    id: i64,
    version: AtomicU64,
}

/// Returns a title from which [`shown`] reads the version of the book.
fn title(id: i64, version: u64) -> String {
    format!("Book{id}Version{version}End")
}

/// Returns the ids and versions of the books that a page shows.
fn shown(page: &str) -> Vec<(i64, u64)> {
    let parse = |piece: &str| {
        let (id, rest) = piece.split_once("Version")?;
        Some((id.parse().ok()?, rest.split_once("End")?.0.parse().ok()?))
    };
    page.split("Book").skip(1).filter_map(parse).collect()
}

/// Describes the versions on a page that are older than those acknowledged before the request.
fn older(page: &str, acknowledged: &BTreeMap<i64, u64>) -> Vec<String> {
    shown(page)
        .into_iter()
        .filter(|(id, version)| acknowledged.get(id).is_some_and(|acknowledged| version < acknowledged))
        .map(|(id, version)| {
            format!("book {id}: version {version} after {} was acknowledged", acknowledged[&id])
        })
        .collect()
}

#[test]
fn the_check_reports_older_versions_only() {
    let acknowledged = BTreeMap::from([(5, 3), (6, 1)]);
    let page = format!("<p>{} {} {}</p>", title(5, 3), title(6, 2), title(7, 0));
    assert!(older(&page, &acknowledged).is_empty());
    let stale = format!("{page}{}", title(5, 2));
    assert_eq!(older(&stale, &acknowledged), ["book 5: version 2 after 3 was acknowledged"]);
}

const CLIENTS: u64 = 200;
const LOAD: Duration = Duration::from_secs(20);
const BOOKS: i64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn no_read_that_starts_after_an_acknowledged_write_shows_older_data() {
    let shop = Arc::new(Bookstore::start("load"));
    let books = (1..=BOOKS).map(|id| Acknowledged { id, version: AtomicU64::new(0) }).collect();
    let ledger = Arc::new(Ledger { books, writers: (0..BOOKS).map(|_| Mutex::default()).collect() });
    for at in 0..ledger.books.len() {
        write(&shop, &ledger, at).await;
    }
    let end = Instant::now() + LOAD;
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        let (shop, ledger) = (Arc::clone(&shop), Arc::clone(&ledger));
        clients.spawn(async move {
            let (mut reads, mut writes) = (0_u64, 0_u64);
            // A linear congruential generator: each client takes its own sequence of steps.
            let mut step = client.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
            while Instant::now() < end {
                step = step.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let at = usize::try_from(step >> 33).unwrap() % ledger.books.len();
                if step % 10 == 0 {
                    writes += u64::from(write(&shop, &ledger, at).await);
                } else {
                    read(&shop, &ledger, at, step >> 20).await;
                    reads += 1;
                }
            }
            (reads, writes)
        });
    }
    let (mut reads, mut writes) = (0, 0);
    while let Some(client) = clients.join_next().await {
        let (read, written) = client.expect("a client saw an older version");
        reads += read;
        writes += written;
    }
    let stats: Value = serde_json::from_str(&shop.get("/stats").await.body).unwrap();
    println!("{reads} reads and {writes} writes by {CLIENTS} clients, no older version; {stats}");
    assert!(reads > 2_000 && writes > 200, "too few operations: {reads} reads, {writes} writes");
    assert!(stats["hits"].as_u64() > stats["misses_absent"].as_u64(), "most reads are hits");
}

/// Writes the next version, unless another client is writing this book. Returns whether it did.
async fn write(shop: &Bookstore, ledger: &Ledger, at: usize) -> bool {
    let Ok(_writer) = ledger.writers[at].try_lock() else { return false };
    let book = &ledger.books[at];
    let version = book.version.load(Ordering::SeqCst) + 1;
    // The book moves between authors and genres, so that each write makes several pages stale.
    let genre = ["novel", "poetry"][usize::from(version.is_multiple_of(2))];
    let body = json!({ "title": title(book.id, version), "author_id": 1 + version % 3, "genre": genre, "year": 2000 });
    let response = shop.send("PUT", &format!("/api/books/{}", book.id), body.to_string()).await;
    assert_eq!(response.status, StatusCode::OK, "{}", response.body);
    book.version.store(version, Ordering::SeqCst);
    true
}

async fn read(shop: &Bookstore, ledger: &Ledger, at: usize, choice: u64) {
    let id = ledger.books[at].id;
    let path = match choice % 6 {
        0 | 1 => format!("/books/{id}"),
        2 => format!("/api/books/{id}"),
        3 => format!("/authors/{}", 1 + choice % 3),
        4 => format!("/feed/json/{}/100", ["novel", "poetry"][usize::from(choice % 4 < 2)]),
        _ => "/books".to_owned(),
    };
    let acknowledged: BTreeMap<i64, u64> =
        ledger.books.iter().map(|book| (book.id, book.version.load(Ordering::SeqCst))).collect();
    let response = shop.get(&path).await;
    assert!(response.status.is_success(), "{path}: {}", response.status);
    let stale = older(&response.body, &acknowledged);
    assert!(stale.is_empty(), "{path}: {stale:?}, {}", response.header("cache-status"));
    if path.contains("/books/") {
        assert!(!shown(&response.body).is_empty(), "{path} shows no version");
    }
}
