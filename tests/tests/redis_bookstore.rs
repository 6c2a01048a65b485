//! Two bookstores on one database and one Redis behave as one, and go on without Redis.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use groupcache_tests::servers::{RedisServer, new_directory};

struct Bookstore {
    process: Child,
    address: String,
}

struct Answer {
    head: String,
    body: String,
}

impl Bookstore {
    fn start(database: &str, redis: &str) -> Self {
        let mut program = std::env::current_exe().expect("a path");
        program.pop();
        program.pop();
        let program: PathBuf = program.join("examples").join("bookstore");
        let mut process = Command::new(&program)
            .args(["--listen", "127.0.0.1:0", "--backend", redis, "--database", database])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{}: {error}; it is built with the workspace's tests", program.display())
            });
        let mut lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        let first = lines.next().expect("it says where it listens").expect("text");
        let address = first[first.find("http://").expect("a URL") + 7..].trim_end_matches('/').to_owned();
        // Reads on, so that the program never waits for a reader.
        std::thread::spawn(move || lines.for_each(drop));
        Self { process, address }
    }

    /// Asks under one host name, as a load balancer in front of all would.
    fn ask(&self, method: &str, path: &str, body: &str) -> Answer {
        let mut stream = TcpStream::connect(&self.address).expect("it listens");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        Answer { head: head.to_lowercase(), body: body.to_owned() }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, "")
    }
}

impl Answer {
    fn status(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }

    fn header(&self, name: &str) -> &str {
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

fn book(title: &str) -> String {
    format!(r#"{{"title": "{title}", "author_id": 1, "genre": "novel", "year": 1817}}"#)
}

#[test]
fn two_bookstores_on_one_redis_behave_as_one() {
    let Some(mut redis) = RedisServer::start(&[]) else { return };
    let directory = new_directory();
    let database = format!("sqlite://{}", directory.join("books.sqlite").display());
    let (one, other) = (Bookstore::start(&database, &redis.url()), Bookstore::start(&database, &redis.url()));

    for path in ["/books/5", "/books", "/authors/1", "/feed/json/novel/10", "/about"] {
        let first = one.get(path);
        assert_eq!(first.header("cache-status"), "groupcache; fwd=uri-miss; stored", "{path}");
        // The store is under way when the answer is; the other process sees it once it is done.
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

    // What is written through one is seen through the other by the very next read.
    for round in 0..50 {
        let (writer, reader) = if round % 2 == 0 { (&one, &other) } else { (&other, &one) };
        let title = format!("Title of round {round}");
        assert_eq!(writer.ask("PUT", "/api/books/5", &book(&title)).status(), "200");
        for path in ["/books/5", "/api/books/5", "/authors/1", "/books", "/feed/json/novel/100"] {
            assert!(reader.get(path).body.contains(&title), "{path} in round {round}");
        }
    }
    assert_eq!(other.get("/about").header("cache-status"), "groupcache; hit", "others stay");

    // Without Redis pages are made anew, and a write says that the cache was not told.
    redis.kill();
    assert_eq!(one.get("/books/5").status(), "200");
    let write = one.ask("PUT", "/api/books/5", &book("Written without Redis"));
    assert_eq!(write.status(), "503");
    assert!(
        write.body.contains("the write stands") && write.body.contains("Written without Redis"),
        "{}",
        write.body
    );
    assert!(other.get("/books/5").body.contains("Written without Redis"));

    // And with it again, nothing from before is served.
    redis.restart();
    let mut answers = Vec::new();
    for _ in 0..500 {
        answers.push(other.get("/books/5"));
        if answers[answers.len() - 1].header("cache-status") == "groupcache; hit" {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(answers.iter().all(|answer| answer.body.contains("Written without Redis")));
    assert_eq!(answers[answers.len() - 1].header("cache-status"), "groupcache; hit", "Redis is found again");
    drop((one, other));
    std::fs::remove_dir_all(directory).expect("removed");
}
