//! The mutants of a load that need a backend. See `crate::mutants`.

use std::collections::BTreeMap;

use crate::backend::Backend;
use crate::backend::lookup::TimeLeft;
use crate::cache::Cache;
use crate::data::entry::{Entry, Generation};
use crate::data::group::{Group, Groups};
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

    /// `late_generations`, for a load of several keys.
    pub(crate) async fn mint_late(&self, of: BTreeMap<Group, Generation>) -> BTreeMap<Group, Generation> {
        if !is_on("late_generations") {
            return of;
        }
        let groups: Groups = of.keys().cloned().collect();
        match self.inner().backend.mint(&groups).await {
            Ok(minted) => groups.into_iter().zip(minted.vector.iter().copied()).collect(),
            Err(_) => of,
        }
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
