//! The sizes of the futures that callers hold.
//!
//! A future is moved into the task or the future that awaits it, and has room for every step that it may
//! take. A miss must not make the future of a hit large: its steps are moved to the heap (`off_hit_path`).
//! The bounds are a little above what these futures measure with the memory backend on a 64-bit machine.

use std::convert::Infallible;
use std::mem::size_of_val;

use bytes::Bytes;
use groupcache_core::{Address, Backend, BoxBackend, Cache, Group, Key, Loaded};
use groupcache_memory::MemoryBackend;

struct Sizes {
    get: usize,
    get_or_load: usize,
    insert: usize,
    invalidate: usize,
    read: usize,
}

fn sizes(backend: impl Backend) -> Sizes {
    let cache = Cache::builder(backend).build();
    let group = || Group::new("book").with("id", 5);
    let load = || async { Ok::<_, groupcache_core::Error>(1_u64) };
    let address = Address { key: Key::of("k").expect("a string is a key"), groups: group().into() };
    let load_bytes = || async { Ok::<_, Infallible>(Loaded::store((), Bytes::new())) };
    Sizes {
        get: size_of_val(&cache.get::<u64, _, _>("k", group())),
        get_or_load: size_of_val(&cache.get_or_load("k", group(), load)),
        insert: size_of_val(&cache.insert("k", group(), load)),
        invalidate: size_of_val(&cache.invalidate(group())),
        read: size_of_val(&cache.read(&address, |entry| Some(entry.body().clone()), load_bytes)),
    }
}

fn assert_at_most(name: &str, size: usize, bound: usize) {
    assert!(size <= bound, "the future of {name} takes {size} bytes, more than {bound}");
}

#[test]
fn the_futures_of_reads_and_writes_stay_small() {
    let backend = MemoryBackend::with_max_bytes(1 << 20);
    for sizes in [sizes(backend.clone()), sizes(BoxBackend::new(backend))] {
        assert_at_most("get", sizes.get, 704);
        assert_at_most("get_or_load", sizes.get_or_load, 1408);
        assert_at_most("insert", sizes.insert, 1280);
        assert_at_most("invalidate", sizes.invalidate, 512);
        assert_at_most("read", sizes.read, 1216);
    }
}
