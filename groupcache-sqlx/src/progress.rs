//! How far the relay of this process has read, for those who wait for it.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

/// Numbers the reads of a relay that delivers to every process.
#[derive(Debug)]
pub(crate) struct Progress {
    next: AtomicU64,
    finished: watch::Sender<u64>,
    wanted: Notify,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { next: AtomicU64::new(1), finished: watch::Sender::new(0), wanted: Notify::new() }
    }

    /// Begins a read. Returns its number.
    pub(crate) fn begin(&self) -> u64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// What the read of this number saw is delivered.
    pub(crate) fn finish(&self, number: u64) {
        self.finished.send_replace(number);
    }

    /// Waits until a read that begins after this call is delivered.
    pub(crate) async fn wait_for_next(&self) {
        let wanted = self.next.load(Ordering::SeqCst);
        self.wanted.notify_one();
        // The sender is part of `self`, so the channel is open.
        drop(self.finished.subscribe().wait_for(|finished| *finished >= wanted).await);
    }

    /// Waits until somebody waits for the next read.
    pub(crate) async fn wanted(&self) {
        self.wanted.notified().await;
    }
}
