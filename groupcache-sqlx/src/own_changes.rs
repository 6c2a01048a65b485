//! The changes that transactions of this process deliver to its own cache.
//!
//! Where every process reads every change, the relay would deliver them to this process a second time, and pages
//! that were loaded in between would be loaded again.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::timeout;

/// How many transactions are remembered. The relay delivers those that are forgotten.
const TRANSACTIONS_MAX: usize = 4096;

/// How long the relay waits for a transaction that is about to invalidate. After that, it invalidates too.
const WAIT_LIMIT: Duration = Duration::from_secs(1);

/// Which changes this process has delivered, or is about to. A change has a number: that of its transaction on
/// PostgreSQL, its own on SQLite.
#[derive(Debug, Default)]
pub(crate) struct OwnChanges {
    /// By the last number of each transaction.
    transactions: Mutex<BTreeMap<i64, Own>>,
    ended: Notify,
}

#[derive(Debug, Clone, Copy)]
struct Own {
    first: i64,
    is_delivered: bool,
}

/// A transaction that is about to commit. If it is dropped, the relay delivers the changes.
#[derive(Debug)]
#[must_use]
pub(crate) struct OwnTransaction {
    changes: Arc<OwnChanges>,
    last: i64,
    is_delivered: bool,
}

impl OwnChanges {
    /// Announces the changes of a transaction, before its commit.
    pub(crate) fn announce(self: &Arc<Self>, numbers: RangeInclusive<i64>) -> OwnTransaction {
        let mut transactions = self.lock();
        if transactions.len() >= TRANSACTIONS_MAX {
            transactions.pop_first();
        }
        let (first, last) = numbers.into_inner();
        transactions.insert(last, Own { first, is_delivered: false });
        drop(transactions);
        OwnTransaction { changes: Arc::clone(self), last, is_delivered: false }
    }

    /// Returns whether this process has delivered the change. Waits if it is about to.
    pub(crate) async fn are_delivered(&self, number: i64) -> bool {
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("announced_counts") {
            return self.find(number).is_some();
        }
        let ended = async {
            loop {
                let mut ended = std::pin::pin!(self.ended.notified());
                // From here on, no end is missed.
                ended.as_mut().enable();
                match self.find(number) {
                    Some(own) if !own.is_delivered => ended.await,
                    known => return known.is_some(),
                }
            }
        };
        let outcome = timeout(WAIT_LIMIT, ended).await;
        outcome.unwrap_or_else(|_| {
            // The relay delivers all changes of this transaction, and waits for none of the others.
            let mut transactions = self.lock();
            let late = transactions
                .range(number..)
                .next()
                .filter(|(_, own)| own.first <= number && !own.is_delivered);
            if let Some(last) = late.map(|(last, _)| *last) {
                transactions.remove(&last);
            }
            false
        })
    }

    /// Forgets all transactions: their numbers may be used again.
    pub(crate) fn forget(&self) {
        self.lock().clear();
        self.ended.notify_waiters();
    }

    fn find(&self, number: i64) -> Option<Own> {
        let transactions = self.lock();
        let (_, own) = transactions.range(number..).next()?;
        (own.first <= number).then_some(*own)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i64, Own>> {
        self.transactions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OwnTransaction {
    /// Records that the changes are invalidated in this process.
    pub(crate) fn delivered(mut self) {
        self.is_delivered = true;
    }
}

impl Drop for OwnTransaction {
    fn drop(&mut self) {
        let mut transactions = self.changes.lock();
        if self.is_delivered {
            transactions.entry(self.last).and_modify(|own| own.is_delivered = true);
        } else {
            transactions.remove(&self.last);
        }
        drop(transactions);
        self.changes.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn only_what_was_delivered_counts() {
        let changes = Arc::new(OwnChanges::default());
        let is_delivered = |number| changes.are_delivered(number).now_or_never();
        changes.announce(3..=5).delivered();
        drop(changes.announce(6..=7));
        let found: Vec<_> = (2..=7).map(is_delivered).collect();
        assert_eq!(found, [false, true, true, true, false, false].map(Some));
        changes.announce(7..=7).delivered();
        assert_eq!((is_delivered(6), is_delivered(7)), (Some(false), Some(true)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_transaction_in_flight_is_waited_for_but_not_for_ever() {
        let changes = Arc::new(OwnChanges::default());
        let transaction = changes.announce(1..=1);
        let waits = tokio::spawn({
            let changes = Arc::clone(&changes);
            async move { changes.are_delivered(1).await }
        });
        tokio::task::yield_now().await;
        transaction.delivered();
        assert!(waits.await.unwrap());
        // However many changes it has, the relay waits once.
        let _never = changes.announce(2..=100);
        let began = tokio::time::Instant::now();
        for number in 2..=100 {
            assert!(!changes.are_delivered(number).await);
        }
        assert_eq!(began.elapsed(), WAIT_LIMIT);
    }

    #[tokio::test]
    async fn the_oldest_transactions_are_forgotten() {
        let changes = Arc::new(OwnChanges::default());
        for number in 0..10_000 {
            changes.announce(number..=number).delivered();
        }
        assert_eq!(changes.lock().len(), TRANSACTIONS_MAX);
        assert_eq!(changes.are_delivered(0).now_or_never(), Some(false));
        assert_eq!(changes.are_delivered(9_999).now_or_never(), Some(true));
    }
}
