//! Conversion of database errors into errors of the core.

use std::fmt;

use groupcache_core::{Error, ErrorKind};

/// The name of this crate in errors and logs.
pub(crate) const NAME: &str = "groupcache-sqlx";

/// The SQLSTATE of errors that the installed functions raise.
const OURS: &str = "GC001";

/// Why the commit of a transaction that waits for its own invalidations failed.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "a transaction was committed or not")]
pub enum CommitError {
    /// The transaction was rolled back, or the connection was lost and the outcome is unknown. If it was
    /// committed, the relay invalidates.
    NotCommitted(sqlx::Error),
    /// The transaction was committed, and the invalidation was not acknowledged. Old values may be served until
    /// the relay has delivered it.
    NotInvalidated(Error),
}

impl fmt::Display for CommitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotCommitted(_) => "the transaction was not committed",
            Self::NotInvalidated(_) => "the transaction was committed, and its invalidation not acknowledged",
        })
    }
}

impl std::error::Error for CommitError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(match self {
            Self::NotCommitted(error) => error,
            Self::NotInvalidated(error) => error,
        })
    }
}

pub(crate) fn configuration(message: impl Into<String>) -> Error {
    Error::configuration(NAME, message)
}

/// Returns the error of this crate for an error of the database.
pub(crate) fn error_from(error: sqlx::Error) -> Error {
    let (kind, message) = match &error {
        sqlx::Error::Database(database) => {
            let kind = kind_of(&database.code().unwrap_or_default());
            let message = (kind == ErrorKind::Configuration || kind == ErrorKind::Refused)
                .then(|| database.message().to_owned());
            (kind, message)
        }
        sqlx::Error::Configuration(_) | sqlx::Error::Tls(_) => (ErrorKind::Configuration, None),
        sqlx::Error::PoolTimedOut => (ErrorKind::Timeout, None),
        sqlx::Error::Io(_) | sqlx::Error::PoolClosed | sqlx::Error::WorkerCrashed => {
            (ErrorKind::Unavailable, None)
        }
        _ => (ErrorKind::Protocol, None),
    };
    let mapped = Error::new(kind, NAME).with_source(error);
    match message {
        Some(message) => mapped.with_message(message),
        None => mapped,
    }
}

/// The kind of an error with this code: an SQLSTATE, or a result code of SQLite.
fn kind_of(code: &str) -> ErrorKind {
    // An SQLSTATE has five characters. The lowest byte of a result code of SQLite is the kind of its error.
    if let Some(code) = code.parse::<u32>().ok().filter(|_| code.len() < 5) {
        return match code & 0xff {
            // Denied, read-only.
            3 | 8 => ErrorKind::Refused,
            // Busy, locked, input and output, full, cannot be opened.
            5 | 6 | 10 | 13 | 14 => ErrorKind::Unavailable,
            _ => ErrorKind::Protocol,
        };
    }
    match code {
        OURS | "3F000" | "42P01" | "42703" => ErrorKind::Configuration,
        // A missing right; a transaction that only reads.
        "42501" | "25006" => ErrorKind::Refused,
        _ => match code.get(..2) {
            // Connection lost, rolled back for concurrency, no resources, operator intervention.
            Some("08" | "40" | "53" | "55" | "57") => ErrorKind::Unavailable,
            Some("28") => ErrorKind::Refused,
            _ => ErrorKind::Protocol,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_of_both_databases_have_their_kinds() {
        for (code, kind) in [
            ("GC001", ErrorKind::Configuration),
            ("42P01", ErrorKind::Configuration),
            ("42501", ErrorKind::Refused),
            ("28P01", ErrorKind::Refused),
            ("40001", ErrorKind::Unavailable),
            ("57P01", ErrorKind::Unavailable),
            ("08006", ErrorKind::Unavailable),
            ("22012", ErrorKind::Protocol),
            // SQLite: busy, busy because of a snapshot, read-only after a crash, a failed constraint.
            ("5", ErrorKind::Unavailable),
            ("517", ErrorKind::Unavailable),
            ("264", ErrorKind::Refused),
            ("2067", ErrorKind::Protocol),
            ("", ErrorKind::Protocol),
        ] {
            assert_eq!(kind_of(code), kind, "{code}");
        }
    }
}
