//! Two bookstores on one database and one Redis behave as one, and work without Redis.

use std::time::Duration;

use groupcache_tests::bookstore::{Bookstore, behave_as_one, book};
use groupcache_tests::process::new_directory;
use groupcache_tests::redis_server::RedisServer;

#[test]
fn two_bookstores_on_one_redis_behave_as_one() {
    let Some(mut redis) = RedisServer::start(&[]) else { return };
    let directory = new_directory();
    let database = format!("sqlite://{}", directory.join("books.sqlite").display());
    let (one, other) = (Bookstore::start(&database, &redis.url()), Bookstore::start(&database, &redis.url()));
    behave_as_one(&one, &other);

    // Without Redis pages are rendered again, and the response to a write reports that the cache failed.
    redis.kill();
    assert_eq!(one.get("/books/5").status(), "200");
    let write = one.send("PUT", "/api/books/5", &book("Written without Redis"));
    assert_eq!(write.status(), "503");
    assert!(
        write.body().contains("the write stands") && write.body().contains("Written without Redis"),
        "{}",
        write.body()
    );
    assert!(other.get("/books/5").body().contains("Written without Redis"));

    // Once Redis is back, no older page is served.
    redis.restart();
    let mut responses = Vec::new();
    for _ in 0..500 {
        responses.push(other.get("/books/5"));
        if responses[responses.len() - 1].header("cache-status") == "groupcache; hit" {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(responses.iter().all(|response| response.body().contains("Written without Redis")));
    assert_eq!(
        responses[responses.len() - 1].header("cache-status"),
        "groupcache; hit",
        "the bookstore uses Redis again"
    );
    drop((one, other));
    std::fs::remove_dir_all(directory).expect("removed");
}
