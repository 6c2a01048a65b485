//! What the failure of a call says about its server, for the circuit breaker.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use groupcache_core::Error;
use groupcache_core::backend::BreakerCall;

use crate::error::Failure;

/// Counts how often a connection that had worked before did not respond.
///
/// This is no evidence about the server, because networks silently drop connections. Only what happens on a new
/// connection does.
#[derive(Clone, Default)]
pub(crate) struct Silences(Arc<AtomicU64>);

/// Whether a call waits for a connection, because other calls use all of them.
#[derive(Default)]
pub(crate) struct Progress {
    is_waiting: AtomicBool,
    /// Set instead if another task acts for the call.
    shared: OnceLock<SharedProgress>,
}

/// The progress of a call that another task acts for.
#[derive(Clone, Default)]
pub(crate) struct SharedProgress(Arc<AtomicBool>);

/// A call that reports its outcome to the circuit breaker, even if it is cancelled.
pub(crate) struct ObservedCall<'a> {
    /// `None` once the outcome is reported.
    call: Option<BreakerCall<'a>>,
    pub(crate) progress: Progress,
    silences: &'a Silences,
    silences_before: u64,
}

impl<'a> ObservedCall<'a> {
    pub(crate) fn new(call: BreakerCall<'a>, silences: &'a Silences) -> Self {
        let silences_before = silences.count();
        Self { call: Some(call), progress: Progress::default(), silences, silences_before }
    }

    /// Reports the outcome to the circuit breaker, and returns it.
    pub(crate) fn end<T>(mut self, outcome: Result<T, Failure>) -> Result<T, Error> {
        let is_inconclusive = outcome
            .as_ref()
            .is_err_and(|failure| !failure.is_evidence || (failure.is_late() && self.had_silence()));
        let outcome = outcome.map_err(Error::from);
        match self.call.take() {
            Some(call) if is_inconclusive => call.inconclusive(),
            Some(call) => call.record(&outcome),
            None => {}
        }
        outcome
    }

    /// Returns whether a connection that had worked before did not respond during the call. It may be the
    /// connection of this call, or that of a call that this one waited for.
    fn had_silence(&self) -> bool {
        self.silences.count() != self.silences_before
    }
}

impl Drop for ObservedCall<'_> {
    fn drop(&mut self) {
        let is_inconclusive = self.progress.is_waiting() || self.had_silence();
        if let Some(call) = self.call.take()
            && is_inconclusive
        {
            call.inconclusive();
        }
    }
}

impl Silences {
    pub(crate) fn record(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl Progress {
    pub(crate) fn set_waiting(&self, is_waiting: bool) {
        self.is_waiting.store(is_waiting, Ordering::Release);
    }

    /// Returns the progress for the task that acts for the call from now on.
    pub(crate) fn share(&self) -> SharedProgress {
        self.shared.get_or_init(SharedProgress::default).clone()
    }

    fn is_waiting(&self) -> bool {
        let shared = self.shared.get().map(|SharedProgress(shared)| &**shared);
        shared.unwrap_or(&self.is_waiting).load(Ordering::Acquire)
    }
}

impl SharedProgress {
    pub(crate) fn set_waiting(&self, is_waiting: bool) {
        self.0.store(is_waiting, Ordering::Release);
    }
}
