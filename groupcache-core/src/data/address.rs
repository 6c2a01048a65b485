//! Where an entry is and what it depends on.

use crate::data::group::Groups;
use crate::data::key::Key;

/// Where an entry is, and what makes it stale.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a pair with names")]
pub struct Address {
    /// What it is stored under.
    pub key: Key,
    /// What it depends on, as far as that is known before it is computed.
    pub groups: Groups,
}
