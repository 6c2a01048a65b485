//! The permit to load: a complete vector, read before the load begins.

use std::sync::Arc;

use crate::backend::lookup::GenerationGuard;
use crate::data::address::Address;
use crate::data::entry::{Entry, GenerationVector};
use crate::data::group::Groups;
use crate::outcome::Miss;
use crate::read::flight_id::FlightId;
use crate::read::held_lease::LeaseClaim;
use crate::read::verdict::StaleCandidate;

/// The permit to load a value: the complete vector of its groups, which rule 2 of the safety promise
/// requires before the load begins.
pub(crate) struct LoadPermit {
    /// Why the read has to load.
    pub(crate) miss: Miss,
    pub(crate) groups: Groups,
    pub(crate) vector: GenerationVector,
    pub(crate) guards: Vec<GenerationGuard>,
    pub(crate) candidate: Option<StaleCandidate>,
    /// What the backend answered about the lease while the vector was completed.
    pub(crate) claim: LeaseClaim,
    /// The vector as the lookup saw it, for `flight_on_missing`.
    #[cfg(groupcache_mutants)]
    pub(crate) seen: Box<GenerationVector>,
}

/// A read that found no usable entry.
pub(crate) struct Missed {
    pub(crate) miss: Miss,
    /// `None` if the backend did not return the generations: the value is not stored.
    pub(crate) permit: Option<Box<LoadPermit>>,
}

impl Missed {
    /// Returns the expired value that may be served if the load fails.
    pub(crate) fn stale_if_error<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.permit.as_ref()?.candidate.as_ref()?.if_error(accept)
    }
}

impl LoadPermit {
    /// Returns the identity of the flight that this permit may lead or join.
    pub(crate) fn flight_id(&self, address: &Address) -> FlightId {
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("flight_by_key") {
            let (groups, vector) = (Groups::none(), GenerationVector::default());
            return FlightId { key: address.key.clone(), groups, vector };
        }
        #[cfg(groupcache_mutants)]
        if crate::mutants::is_on("flight_on_missing") {
            let (groups, vector) = (self.groups.clone(), GenerationVector::clone(&self.seen));
            return FlightId { key: address.key.clone(), groups, vector };
        }
        FlightId { key: address.key.clone(), groups: self.groups.clone(), vector: self.vector.clone() }
    }

    /// Whether the permit's vector has every generation of `entry`.
    pub(crate) fn covers(&self, entry: &Entry) -> bool {
        entry.groups().iter().zip(entry.vector().iter()).all(|(group, generation)| {
            self.groups.binary_search(group).is_ok_and(|at| self.vector[at] == *generation)
        })
    }

    /// Returns the expired value that may be served while a new one is loaded.
    pub(crate) fn stale_while_revalidate<V>(&self, accept: &impl Fn(&Arc<Entry>) -> Option<V>) -> Option<V> {
        self.candidate.as_ref()?.while_revalidate(accept)
    }
}
