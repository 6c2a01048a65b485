//! One opaque error with a kind that callers can match on.

use std::error::Error as StdError;
use std::fmt;

/// What a fallible operation of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a cache operation failed. A miss is not an error.
///
/// `Display` prints this level only; the cause, where there is one, is
/// [`source`](StdError::source).
#[derive(Debug, thiserror::Error)]
#[error("{backend}: {kind}{}", message.as_deref().map(|message| format!(": {message}")).unwrap_or_default())]
pub struct Error {
    kind: ErrorKind,
    backend: &'static str,
    message: Option<Box<str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What went wrong, as far as a caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The store has no room for this, or it is larger than the store allows.
    Capacity,
    /// A setting is wrong; the message names it.
    Configuration,
    /// Stored bytes are not what this release writes.
    Decode,
    /// A key or a value could not be turned into bytes.
    Encode,
    /// The store answered something that its protocol does not allow here.
    Protocol,
    /// The store refused the operation (credentials, read-only replica, permissions).
    Refused,
    /// No answer within the time limit. The operation may or may not have happened.
    Timeout,
    /// The store cannot be reached, or is not ready.
    Unavailable,
}

impl Error {
    /// An error of `kind`, found by `backend` (the [name](crate::Backend::name) of a backend, or of
    /// the crate that noticed).
    #[must_use]
    pub const fn new(kind: ErrorKind, backend: &'static str) -> Self {
        Self { kind, backend, message: None, source: None }
    }

    /// A wrong setting: `message` names it and says what would be right.
    #[must_use]
    pub fn configuration(backend: &'static str, message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Configuration, backend).with_message(message)
    }

    /// Says more about this very level than its kind does.
    #[must_use]
    pub fn with_message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into().into_boxed_str());
        self
    }

    /// Attaches the cause.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What went wrong.
    #[must_use]
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Who noticed: the name of a backend or of one of this project's crates.
    #[must_use]
    pub const fn backend(&self) -> &'static str {
        self.backend
    }

    /// Whether the same operation may succeed later without anything being reconfigured.
    ///
    /// True for [`Timeout`](ErrorKind::Timeout) and [`Unavailable`](ErrorKind::Unavailable) only: a
    /// full store, a wrong password or a wrong setting stay wrong until somebody acts.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self.kind, ErrorKind::Timeout | ErrorKind::Unavailable)
    }
}

impl ErrorKind {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Capacity => "no room in the store",
            Self::Configuration => "wrong configuration",
            Self::Decode => "stored bytes do not decode",
            Self::Encode => "value does not encode",
            Self::Protocol => "unexpected answer from the store",
            Self::Refused => "the store refused",
            Self::Timeout => "no answer within the time limit",
            Self::Unavailable => "the store is unavailable",
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_shows_one_level_and_source_shows_the_next() {
        let error = Error::new(ErrorKind::Unavailable, "redis").with_source(std::io::Error::other("refused"));
        assert_eq!(error.to_string(), "redis: the store is unavailable");
        assert_eq!(error.source().map(ToString::to_string).as_deref(), Some("refused"));
    }

    #[test]
    fn only_errors_that_pass_by_themselves_are_transient() {
        assert!(Error::new(ErrorKind::Timeout, "x").is_transient());
        assert!(Error::new(ErrorKind::Unavailable, "x").is_transient());
        assert!(!Error::new(ErrorKind::Capacity, "x").is_transient());
        assert!(!Error::configuration("x", "`listen` is not an address").is_transient());
    }
}
