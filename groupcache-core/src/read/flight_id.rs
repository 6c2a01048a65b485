//! What identifies a flight.

use crate::data::entry::GenerationVector;
use crate::data::group::Groups;
use crate::data::key::Key;

/// What is being loaded, and under which complete vector. A lease among processes has the same identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct FlightId {
    pub(crate) key: Key,
    pub(crate) groups: Groups,
    pub(crate) vector: GenerationVector,
}
