//! The error type: opaque, with a kind to match on.

use std::error::Error as StdError;
use std::fmt;

/// The result of a fallible operation of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The error of a cache operation. A miss is not an error.
///
/// `Display` prints this level only. The cause, if there is one, is the [`source`](StdError::source).
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {kind}{}", message.as_deref().map(|message| format!(": {message}")).unwrap_or_default())]
pub struct Error {
    kind: ErrorKind,
    backend: &'static str,
    message: Option<Box<str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// The kind of an [`Error`], for callers that handle some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store is full, or the value is larger than the store allows.
    Capacity,
    /// A setting is wrong; the message names it.
    Configuration,
    /// Stored bytes are corrupted or were written by another release.
    Decode,
    /// A key or a value could not be serialised.
    Encode,
    /// The value depends on groups that were found after their data was read, so it was not stored. They are
    /// known from now on: call again.
    LateGroups,
    /// The load did not end within its
    /// [hard timeout](crate::EntryOptions::load_hard_timeout).
    LoadTimeout,
    /// The loader marked its value as not to be stored.
    Private,
    /// The store sent a response that its protocol does not allow here.
    Protocol,
    /// The store refused the operation: wrong credentials, missing permission, a read-only replica.
    Refused,
    /// The store did not respond within the time limit. The operation may or may not have taken effect.
    Timeout,
    /// The store is unreachable or not ready.
    Unavailable,
}

impl Error {
    /// Creates an error. `backend` is the [name](crate::Backend::name) of the backend, or of the crate, that
    /// detected it.
    #[must_use]
    pub const fn new(kind: ErrorKind, backend: &'static str) -> Self {
        Self { kind, backend, message: None, source: None }
    }

    /// Creates an [`ErrorKind::Configuration`] error. `message` names the setting and what it should be.
    #[must_use]
    pub fn configuration(backend: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Configuration, backend).with_message(message)
    }

    /// Sets a message, which `Display` prints after the kind. It is about this level, not about the cause.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into().into_boxed_str());
        self
    }

    /// Sets the cause, which [`source`](StdError::source) returns.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Returns the kind.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Returns the name of the backend, or of the crate, that detected the error.
    #[must_use]
    pub const fn backend(&self) -> &'static str {
        self.backend
    }

    /// Returns whether the same operation may succeed later without a change of the configuration.
    ///
    /// True for [`Timeout`](ErrorKind::Timeout), [`LoadTimeout`](ErrorKind::LoadTimeout),
    /// [`LateGroups`](ErrorKind::LateGroups) and [`Unavailable`](ErrorKind::Unavailable) only. A full store or a
    /// wrong password needs an operator.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        use ErrorKind::{LateGroups, LoadTimeout, Timeout, Unavailable};
        matches!(self.kind, LateGroups | LoadTimeout | Timeout | Unavailable)
    }
}

impl ErrorKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "the store has no room",
            Self::Configuration => "wrong configuration",
            Self::Decode => "stored bytes cannot be decoded",
            Self::Encode => "value cannot be encoded",
            Self::LateGroups => "groups were found after their data was read",
            Self::LoadTimeout => "the load took longer than its hard timeout",
            Self::Private => "the value is not to be stored",
            Self::Protocol => "unexpected response from the store",
            Self::Refused => "the store refused the operation",
            Self::Timeout => "no response within the time limit",
            Self::Unavailable => "the store is unavailable",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name in errors that this crate detects itself.
pub(crate) const CRATE_NAME: &str = "groupcache-core";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_prints_one_level_and_source_returns_the_next() {
        let error = Error::new(ErrorKind::Unavailable, "redis").with_source(std::io::Error::other("refused"));
        assert_eq!(error.to_string(), "redis: the store is unavailable");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("refused"));
    }

    #[test]
    fn only_timeouts_late_groups_and_unavailable_stores_are_transient() {
        assert!(Error::new(ErrorKind::LateGroups, "x").is_transient());
        assert!(Error::new(ErrorKind::LoadTimeout, "x").is_transient());
        assert!(!Error::new(ErrorKind::Private, "x").is_transient());
        assert!(Error::new(ErrorKind::Timeout, "x").is_transient());
        assert!(Error::new(ErrorKind::Unavailable, "x").is_transient());
        assert!(!Error::new(ErrorKind::Capacity, "x").is_transient());
        assert!(!Error::configuration("x", "`listen` is not an address").is_transient());
    }
}
