//! The order of stores of one key: a value that `insert` stored is not replaced by one that an earlier load
//! of this process results in.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};

use crate::data::key::Key;
use crate::sync::{Mutex, RandomState};

const SHARDS: usize = 32;

/// The keys that are being loaded or stored.
#[derive(Debug)]
pub(crate) struct StoreOrder {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
}

type Shard = HashMap<Key, Arc<KeyOrder>>;

#[derive(Debug, Default)]
struct KeyOrder {
    /// How many inserts have begun to store.
    inserts: AtomicU64,
    /// Held during a store.
    turn: Arc<AsyncMutex<()>>,
}

/// A load of one key, from before the loader runs. The key is known as long as one of its tickets is.
#[derive(Debug)]
pub(crate) struct StoreTicket {
    order: Arc<StoreOrder>,
    key: Key,
    of_key: Arc<KeyOrder>,
    inserts: u64,
}

/// The turn to store. Other stores of the key begin when it is dropped.
#[derive(Debug)]
pub(crate) struct StoreTurn {
    // Dropped before the ticket.
    _turn: OwnedMutexGuard<()>,
    _ticket: StoreTicket,
}

impl StoreOrder {
    pub(crate) fn new() -> Arc<Self> {
        let shards = (0..SHARDS).map(|_| Mutex::new(Shard::new())).collect();
        Arc::new(Self { shards, hasher: RandomState::default() })
    }

    /// Returns the ticket of a load that begins now.
    pub(crate) fn begin(self: &Arc<Self>, key: &Key) -> StoreTicket {
        let of_key = Arc::clone(self.shard(key).lock().entry(key.clone()).or_default());
        let inserts = of_key.inserts.load(Ordering::SeqCst);
        StoreTicket { order: Arc::clone(self), key: key.clone(), of_key, inserts }
    }

    fn shard(&self, key: &Key) -> &Mutex<Shard> {
        #[expect(clippy::cast_possible_truncation, reason = "any bits of a hash will do")]
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        &self.shards[at]
    }
}

impl KeyOrder {
    async fn lock(&self) -> OwnedMutexGuard<()> {
        // Waiting for tokio's mutex takes from the budget of the task, even if the mutex is free.
        match Arc::clone(&self.turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => Arc::clone(&self.turn).lock_owned().await,
        }
    }
}

impl StoreTicket {
    /// Waits until no other store of the key is in flight. Returns `None` if an insert has begun to store
    /// since this load began.
    pub(crate) async fn turn(self) -> Option<StoreTurn> {
        let turn = self.of_key.lock().await;
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("unfenced_insert") {
            return Some(StoreTurn { _turn: turn, _ticket: self });
        }
        let is_first = self.inserts == self.of_key.inserts.load(Ordering::SeqCst);
        is_first.then_some(StoreTurn { _turn: turn, _ticket: self })
    }

    /// Waits for the turn of an insert. From then on no load that has begun stores a value.
    pub(crate) async fn insert(self) -> StoreTurn {
        let turn = self.of_key.lock().await;
        self.of_key.inserts.fetch_add(1, Ordering::SeqCst);
        StoreTurn { _turn: turn, _ticket: self }
    }
}

impl Drop for StoreTicket {
    fn drop(&mut self) {
        let mut shard = self.order.shard(&self.key).lock();
        // The one in the table and this one. New ones are made under the lock only.
        if Arc::strong_count(&self.of_key) == 2 {
            shard.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_that_began_before_an_insert_stores_nothing_after_it() {
        let (order, key) = (StoreOrder::new(), Key::of("k").unwrap());
        let (earlier, insert) = (order.begin(&key), order.begin(&key));
        let other_key = order.begin(&Key::of("other").unwrap());
        let inserting = insert.insert().await;
        let later = order.begin(&key);
        let mut waiting = Box::pin(later.turn());
        assert!(futures_util::FutureExt::now_or_never(&mut waiting).is_none(), "two stores at once");
        drop(inserting);
        assert!(waiting.await.is_some());
        assert!(earlier.turn().await.is_none());
        assert!(other_key.turn().await.is_some());
        assert!(order.shards.iter().all(|shard| shard.lock().is_empty()));
    }
}
