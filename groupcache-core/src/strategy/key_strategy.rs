//! The trait of key strategies, and strategies made of others.

use crate::data::address::Address;
use crate::data::group::Groups;
use crate::data::key::Key;
use crate::error::Result;

/// Derives the key and the groups of an entry from a call.
///
/// `C` is the type of the calls: any type of the application, or one that implements [`Call`](crate::Call)
/// for the supplied strategies. A closure from `&C` to `Result<Address>` is a strategy. A pair of strategies
/// has the key of the first and the groups of both.
///
/// # Behavior
///
/// * **Deterministic**: equal calls have equal keys and groups in every process.
/// * **Injective**: calls whose values may differ have different keys.
/// * **Consistent**: the groups are those that are invalidated when the value changes.
///
/// ```
/// use groupcache_core::{Group, Groups, Key, KeyStrategy, Result};
///
/// struct Report { year: u16, region: String }
///
/// struct ByRegion;
///
/// impl KeyStrategy<Report> for ByRegion {
///     fn key(&self, report: &Report) -> Result<Key> {
///         Key::of(&("report", report.year, &report.region))
///     }
///
///     fn groups(&self, report: &Report) -> Result<Groups> {
///         Ok(Group::new("sales").with("region", &report.region).into())
///     }
/// }
///
/// let address = ByRegion.address(&Report { year: 2026, region: "north".into() })?;
/// assert_eq!(address.key, Key::of(&("report", 2026, "north"))?);
/// # Ok::<(), groupcache_core::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a key strategy for calls of type `{C}`",
    label = "cannot derive a key and groups from a `{C}`",
    note = "the supplied strategies require that `{C}` implements `Call`",
    note = "a closure from `&{C}` to `Result<Address>` is a key strategy; it may have to name the type of its \
            parameter"
)]
pub trait KeyStrategy<C: ?Sized>: Send + Sync {
    /// Returns the key that the entry of this call is stored under.
    ///
    /// # Errors
    ///
    /// An error means that the call has no key. Its value is loaded and not stored.
    fn key(&self, call: &C) -> Result<Key>;

    /// Returns the groups that the entry of this call depends on, as far as they are known before the load.
    ///
    /// # Errors
    ///
    /// An error means that the groups of the call cannot be determined. Its value is loaded and not stored.
    fn groups(&self, call: &C) -> Result<Groups>;

    /// Checks, once and when an application is built, that this strategy suits calls with these argument
    /// names.
    ///
    /// The provided method accepts all calls.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Configuration`](crate::ErrorKind::Configuration), with a message that names the argument
    /// or field.
    fn check(&self, arguments: &[&str]) -> Result<()> {
        let _ = arguments;
        Ok(())
    }

    /// Returns whether the key is [`Call::key`](crate::Call::key) and determines the groups: calls with equal
    /// keys have equal groups for as long as the process runs.
    ///
    /// The cache can then serve a hit in memory without deriving the groups. The provided method returns
    /// `false`, which is always correct.
    fn is_keyed_by_call(&self) -> bool {
        false
    }

    /// Returns the key and the groups. Override the provided method where deriving both at once is cheaper.
    ///
    /// # Errors
    ///
    /// Fails if [`key`](Self::key) or [`groups`](Self::groups) does.
    fn address(&self, call: &C) -> Result<Address> {
        Ok(Address { key: self.key(call)?, groups: self.groups(call)? })
    }
}

impl<C: ?Sized, F: Fn(&C) -> Result<Address> + Send + Sync> KeyStrategy<C> for F {
    fn key(&self, call: &C) -> Result<Key> {
        Ok(self(call)?.key)
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        Ok(self(call)?.groups)
    }

    fn address(&self, call: &C) -> Result<Address> {
        self(call)
    }
}

/// The key of the first strategy and the groups of both.
#[deny(clippy::missing_trait_methods)]
impl<C: ?Sized, S: KeyStrategy<C>, T: KeyStrategy<C>> KeyStrategy<C> for (S, T) {
    fn key(&self, call: &C) -> Result<Key> {
        self.0.key(call)
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        Ok(self.0.groups(call)?.union(&self.1.groups(call)?))
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        self.0.check(arguments)?;
        self.1.check(arguments)
    }

    fn is_keyed_by_call(&self) -> bool {
        self.0.is_keyed_by_call() && self.1.is_keyed_by_call()
    }

    fn address(&self, call: &C) -> Result<Address> {
        let Address { key, groups } = self.0.address(call)?;
        Ok(Address { key, groups: groups.union(&self.1.groups(call)?) })
    }
}

#[deny(clippy::missing_trait_methods)]
impl<C: ?Sized> KeyStrategy<C> for Box<dyn KeyStrategy<C> + '_> {
    fn key(&self, call: &C) -> Result<Key> {
        (**self).key(call)
    }

    fn groups(&self, call: &C) -> Result<Groups> {
        (**self).groups(call)
    }

    fn check(&self, arguments: &[&str]) -> Result<()> {
        (**self).check(arguments)
    }

    fn is_keyed_by_call(&self) -> bool {
        (**self).is_keyed_by_call()
    }

    fn address(&self, call: &C) -> Result<Address> {
        (**self).address(call)
    }
}
