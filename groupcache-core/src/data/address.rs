//! The address of an entry.

use crate::data::group::Groups;
use crate::data::key::Key;

/// The key of an entry, and the groups that make it stale.
///
/// Reads take an address. A [`KeyStrategy`](crate::KeyStrategy) derives one from each call; so does a
/// closure:
///
/// ```
/// use groupcache_core::{Address, Group, Groups, Key, KeyStrategy, Result};
///
/// let by_year = |year: &u16| -> Result<Address> {
///     let groups = Group::new("sales").with("year", year).into();
///     Ok(Address { key: Key::of(&("report", year))?, groups })
/// };
///
/// let address = by_year.address(&2026)?;
/// assert_eq!(address.key, Key::of(&("report", 2026))?);
/// assert_eq!(address.groups, Groups::from(Group::new("sales").with("year", 2026)));
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[expect(clippy::exhaustive_structs, reason = "a pair with names")]
pub struct Address {
    /// The key that the entry is stored under.
    pub key: Key,
    /// The groups that are known before the load. A load may add others with
    /// [`depend`](crate::depend).
    pub groups: Groups,
}
