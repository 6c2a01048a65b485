//! Two bookstores on one database and three memcached servers behave as one, and work without one of the
//! servers.

use std::time::Duration;

use groupcache_tests::bookstore::{Bookstore, behave_as_one, book};
use groupcache_tests::memcached_server::MemcachedServers;
use groupcache_tests::process::new_directory;

#[test]
fn two_bookstores_on_three_servers_behave_as_one() {
    let Some(mut servers) = MemcachedServers::start(3, &[]) else { return };
    let directory = new_directory();
    let database = format!("sqlite://{}", directory.join("books.sqlite").display());
    let start = || Bookstore::start(&database, &servers.url());
    let (one, other) = (start(), start());
    behave_as_one(&one, &other);

    // Without one of the servers some pages are rendered each time, and the response to a write whose groups
    // are on that server reports that the cache failed.
    let mut refused = 0;
    for down in 0..3 {
        servers.0[down].kill();
        for round in 0..5 {
            let title = format!("Written in round {round} without server {down}");
            let write = one.send("PUT", "/api/books/5", &book(&title));
            assert!(write.body().contains(&title), "{}", write.body());
            if write.status() == "503" {
                refused += 1;
                assert!(write.body().contains("the write stands"), "{}", write.body());
            } else {
                // The invalidation is acknowledged, so the other process shows the write.
                assert_eq!(write.status(), "200");
                assert!(other.get("/books/5").body().contains(&title));
            }
        }
        servers.0[down].restart();
        // Once the server is back, no page from before an acknowledged write is served.
        let title = format!("Written with server {down} again");
        let mut write = one.send("PUT", "/api/books/5", &book(&title));
        for _ in 0..500 {
            if write.status() == "200" {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            write = one.send("PUT", "/api/books/5", &book(&title));
        }
        assert_eq!(write.status(), "200", "the bookstore uses server {down} again");
        let mut responses = Vec::new();
        for _ in 0..500 {
            responses.push(other.get("/books/5"));
            if responses[responses.len() - 1].header("cache-status") == "groupcache; hit" {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert!(responses.iter().all(|response| response.body().contains(&title)));
        assert_eq!(responses[responses.len() - 1].header("cache-status"), "groupcache; hit");
    }
    assert!(refused >= 5, "some server has a group of the book: {refused} writes refused");
    drop((one, other));
    std::fs::remove_dir_all(directory).expect("removed");
}
