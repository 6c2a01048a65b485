//! Two bookstores on one database and three memcached servers behave as one, and go on without one of
//! them.

use std::time::Duration;

use groupcache_tests::bookstore::{Bookstore, behave_as_one, book};
use groupcache_tests::memcached::MemcachedServers;
use groupcache_tests::servers::new_directory;

#[test]
fn two_bookstores_on_three_servers_behave_as_one() {
    let Some(mut servers) = MemcachedServers::start(3, &[]) else { return };
    let directory = new_directory();
    let database = format!("sqlite://{}", directory.join("books.sqlite").display());
    let start = || Bookstore::start(&database, &servers.url());
    let (one, other) = (start(), start());
    behave_as_one(&one, &other);

    // Without one of the servers some pages are made anew each time, and a write whose groups are there
    // says that the cache was not told.
    let mut refused = 0;
    for down in 0..3 {
        servers.0[down].kill();
        for round in 0..5 {
            let title = format!("Written in round {round} without server {down}");
            let write = one.ask("PUT", "/api/books/5", &book(&title));
            assert!(write.body().contains(&title), "{}", write.body());
            if write.status() == "503" {
                refused += 1;
                assert!(write.body().contains("the write stands"), "{}", write.body());
            } else {
                // Acknowledged, so the other process shows it.
                assert_eq!(write.status(), "200");
                assert!(other.get("/books/5").body().contains(&title));
            }
        }
        servers.0[down].restart();
        // And with it again, nothing is served from before what was acknowledged.
        let title = format!("Written with server {down} again");
        let mut write = one.ask("PUT", "/api/books/5", &book(&title));
        for _ in 0..500 {
            if write.status() == "200" {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            write = one.ask("PUT", "/api/books/5", &book(&title));
        }
        assert_eq!(write.status(), "200", "server {down} is found again");
        let mut answers = Vec::new();
        for _ in 0..500 {
            answers.push(other.get("/books/5"));
            if answers[answers.len() - 1].header("cache-status") == "groupcache; hit" {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(answers.iter().all(|answer| answer.body().contains(&title)));
        assert_eq!(answers[answers.len() - 1].header("cache-status"), "groupcache; hit");
    }
    assert!(refused >= 5, "a book's groups are on some of the servers: {refused} refused");
    drop((one, other));
    std::fs::remove_dir_all(directory).expect("removed");
}
