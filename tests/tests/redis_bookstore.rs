//! Two bookstores on one database and one Redis behave as one, and go on without Redis.

use std::time::Duration;

use groupcache_tests::bookstore::{Bookstore, behave_as_one, book};
use groupcache_tests::servers::{RedisServer, new_directory};

#[test]
fn two_bookstores_on_one_redis_behave_as_one() {
    let Some(mut redis) = RedisServer::start(&[]) else { return };
    let directory = new_directory();
    let database = format!("sqlite://{}", directory.join("books.sqlite").display());
    let (one, other) = (Bookstore::start(&database, &redis.url()), Bookstore::start(&database, &redis.url()));
    behave_as_one(&one, &other);

    // Without Redis pages are made anew, and a write says that the cache was not told.
    redis.kill();
    assert_eq!(one.get("/books/5").status(), "200");
    let write = one.ask("PUT", "/api/books/5", &book("Written without Redis"));
    assert_eq!(write.status(), "503");
    assert!(
        write.body().contains("the write stands") && write.body().contains("Written without Redis"),
        "{}",
        write.body()
    );
    assert!(other.get("/books/5").body().contains("Written without Redis"));

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
    assert!(answers.iter().all(|answer| answer.body().contains("Written without Redis")));
    assert_eq!(answers[answers.len() - 1].header("cache-status"), "groupcache; hit", "Redis is found again");
    drop((one, other));
    std::fs::remove_dir_all(directory).expect("removed");
}
