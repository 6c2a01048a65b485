//! The mutants of a load that need a backend. See `crate::mutants`.

use crate::backend::Backend;
use crate::backend::lookup::TimeLeft;
use crate::cache::Cache;
use crate::data::entry::Entry;
use crate::load_context::Sealed;
use crate::mutants::is_on;

impl<B: Backend> Cache<B> {
    /// `late_generations`: the vector is read after the load instead of before it.
    pub(crate) async fn read_vector_late(&self, mut sealed: Sealed) -> Sealed {
        if (is_on("late_generations") || is_on("late_generations_conditional"))
            && let Ok(minted) = self.inner().backend.mint(&sealed.groups).await
        {
            sealed.vector = minted.vector;
            sealed.guards.push(minted.guard);
        }
        sealed
    }

    /// `late_generations_conditional`: in addition, the entry is stored only if its vector is current.
    pub(crate) async fn is_refused_by_condition(&self, entry: &Entry) -> bool {
        if !is_on("late_generations_conditional") {
            return false;
        }
        let lookup = self.inner().backend.lookup(entry.key(), entry.groups(), TimeLeft::NotNeeded).await;
        !lookup.is_ok_and(|lookup| lookup.current.equals(entry.vector()))
    }
}
