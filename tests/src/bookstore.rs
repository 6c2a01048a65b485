//! The example `bookstore` as a process.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The example `bookstore`, as `cargo test --workspace` builds it. Dropping it kills the process.
#[derive(Debug)]
pub struct Bookstore {
    process: Child,
    address: String,
}

/// A response of the bookstore.
#[derive(Debug)]
pub struct Response {
    head: String,
    body: String,
}

impl Bookstore {
    /// Starts a bookstore on this database and this backend, on a free port.
    ///
    /// # Panics
    ///
    /// Panics if the bookstore is not built or does not start.
    #[must_use]
    pub fn start(database: &str, backend: &str) -> Self {
        let mut program = std::env::current_exe().expect("a path");
        program.pop();
        program.pop();
        let program: PathBuf = program.join("examples").join("bookstore");
        let mut process = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--backend", backend, "--database", database])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; build it with `cargo build --example bookstore`", program.display())
            });
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("it prints its address").expect("text");
        let address = first[first.find("http://").expect("a URL") + 7..].trim_end_matches('/').to_owned();
        // Reads on, so that the program never blocks on its standard output.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// Sends a request with the same host name to every bookstore, as a load balancer does.
    ///
    /// # Panics
    ///
    /// Panics if the bookstore does not respond.
    #[must_use]
    pub fn send(&self, method: &str, path: &str, body: &str) -> Response {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut response = String::new();
        stream.read_to_string(&mut response).expect("a response");
        let (head, body) = response.split_once("\r\n\r\n").expect("a head");
        Response { head: head.to_lowercase(), body: body.to_owned() }
    }

    /// Sends a GET request.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path, "")
    }
}

impl Response {
    /// Returns the status.
    #[must_use]
    pub fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    /// Returns the body.
    #[must_use]
    pub fn body(&self) -> &str {
        &self.body
    }

    /// Returns a header by its name in lower case, or an empty string.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.unwrap_or_default()
    }
}

impl Drop for Bookstore {
    fn drop(&mut self) {
        if let Err(error) = self.process.kill().and_then(|()| self.process.wait()) {
            eprintln!("{error}");
        }
    }
}

/// Returns the body of a PUT request for a book.
#[must_use]
pub fn book(title: &str) -> String {
    format!(r#"{{"title": "{title}", "author_id": 1, "genre": "novel", "year": 1817}}"#)
}

/// Checks that each of two processes sees the changes of the other, with a shared database and store.
///
/// # Panics
///
/// Panics if one of them does not.
pub fn behave_as_one(one: &Bookstore, other: &Bookstore) {
    for path in ["/books/5", "/books", "/authors/1", "/feed/json/novel/10", "/about"] {
        let first = one.get(path);
        assert_eq!(first.header("cache-status"), "groupcache; fwd=uri-miss; stored", "{path}");
        // The entry is stored after the response, and the other process sees it only then.
        let mut second = other.get(path);
        for _ in 0..100 {
            if second.header("cache-status") == "groupcache; hit" {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            second = other.get(path);
        }
        assert_eq!(second.header("cache-status"), "groupcache; hit", "{path}");
    }

    // The next read of one process shows a write through the other.
    for round in 0..50 {
        let (writer, reader) = if round % 2 == 0 { (one, other) } else { (other, one) };
        let title = format!("Title of round {round}");
        assert_eq!(writer.send("PUT", "/api/books/5", &book(&title)).status(), "200");
        for path in ["/books/5", "/api/books/5", "/authors/1", "/books", "/feed/json/novel/100"] {
            assert!(reader.get(path).body.contains(&title), "{path} in round {round}");
        }
    }
    assert_eq!(other.get("/about").header("cache-status"), "groupcache; hit", "unrelated pages stay cached");
}
