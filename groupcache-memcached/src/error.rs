//! The failures of this crate, and their conversion from client errors and to errors of the core.

use std::fmt;
use std::io::{self, ErrorKind as Io};
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::{Error, ErrorKind};
use memcache::exp::Error as ClientError;
use tokio::runtime::is_rt_shutdown_err;

pub(crate) const NAME: &str = "memcached";

/// A failed request or attempt to connect. Cloned for each caller that waited for it.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    pub(crate) remedy: Remedy,
    /// Whether the request may be sent again at once, because the connection was found closed. Never after
    /// a time limit.
    pub(crate) retry: bool,
    /// Whether the server may be the cause, so that the circuit breaker counts it.
    pub(crate) is_evidence: bool,
}

/// What to do about the connections to a server after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing. The connection that failed is closed already.
    None,
    /// Repeat the handshake: the server may be another one, or have restarted.
    RepeatHandshake,
    /// Discard all connections and resolve the name again: nothing listens there, or the name leads to
    /// further addresses.
    Reconnect,
    /// The same, and remember that the name led away from the server.
    Leave,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        let (remedy, retry, is_evidence) = (Remedy::None, false, true);
        Self { kind, message: message.into(), source: None, remedy, retry, is_evidence }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub(crate) fn timeout(limit: Duration, setting: &str) -> Self {
        let failure = Self::new(ErrorKind::Timeout, format!("`{setting}` of {limit:?} exceeded"));
        Self { remedy: Remedy::RepeatHandshake, ..failure }
    }

    pub(crate) fn from_io(error: io::Error) -> Self {
        let (kind, remedy, retry) = match error.kind() {
            Io::TimedOut => (ErrorKind::Timeout, Remedy::RepeatHandshake, false),
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof => {
                (ErrorKind::Unavailable, Remedy::RepeatHandshake, true)
            }
            Io::ConnectionRefused | Io::HostUnreachable => (ErrorKind::Unavailable, Remedy::Reconnect, false),
            // The connections were made on a runtime that was shut down, which closed them.
            _ if is_rt_shutdown_err(&error) => (ErrorKind::Unavailable, Remedy::Reconnect, true),
            // Possibly local to this process, such as too many open files: the existing connections may
            // still work.
            _ => (ErrorKind::Unavailable, Remedy::RepeatHandshake, false),
        };
        let message = error.to_string();
        Self { source: Some(Arc::new(error)), remedy, retry, ..Self::new(kind, message) }
    }

    /// Converts an error of the client library, which includes the error responses of the server.
    pub(crate) fn from_client(error: ClientError) -> Self {
        match error {
            ClientError::Io(error) => Self::from_io(error),
            ClientError::Server(message) if message.contains("too large") => Self::new(
                ErrorKind::Capacity,
                format!("{message}; the item limit of the server is its option `-I`"),
            ),
            ClientError::Server(message) if message.contains("memory") => Self::new(
                ErrorKind::Capacity,
                format!("{message}; the memory of the server is its option `-m`"),
            ),
            ClientError::Server(message) => Self::new(ErrorKind::Unavailable, message),
            ClientError::Rejected(message) if message == "ERROR" => Self::too_many_connections(),
            ClientError::Rejected(message) if message.contains("unauthenticated") => Self::unauthenticated(),
            other => {
                let message = format!("{other}; does `servers` name a memcached server?");
                Self { remedy: Remedy::RepeatHandshake, ..Self::protocol(message) }
            }
        }
    }

    pub(crate) fn too_many_connections() -> Self {
        let message = "connection refused: the server is at or near its connection limit, option `-c`";
        Self::new(ErrorKind::Unavailable, message)
    }

    pub(crate) fn unauthenticated() -> Self {
        let message = "the server requires a user name and a password, which this backend does not support";
        Self::new(ErrorKind::Refused, message)
    }

    /// The name of the server resolves to other addresses than before.
    pub(crate) fn address_changed(remedy: Remedy) -> Self {
        let failure = Self::new(ErrorKind::Unavailable, "the name now resolves to another address");
        Self { remedy, retry: true, ..failure }
    }

    /// The response is none that the protocol allows for `command`.
    pub(crate) fn unexpected(command: &str) -> Self {
        Self::protocol(format!("unexpected response to `{command}`; does `servers` name a memcached server?"))
    }

    /// Marks a failure that the server did not cause.
    pub(crate) fn without_evidence(self) -> Self {
        Self { is_evidence: false, ..self }
    }

    /// Returns whether a time limit was exceeded.
    pub(crate) fn is_late(&self) -> bool {
        self.kind == ErrorKind::Timeout
    }

    /// Replaces the message.
    pub(crate) fn with_message(self, message: String) -> Self {
        Self { message, ..self }
    }

    /// Adds the name of the server to the message.
    pub(crate) fn at_server(mut self, name: &str) -> Self {
        self.message = format!("{name}: {}", self.message);
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let error = Self::new(failure.kind, NAME).with_message(failure.message);
        match failure.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_the_server_have_the_kind_that_callers_can_act_on() {
        let server = |message: &str| ClientError::Server(message.to_owned());
        let rejected = |message: &str| ClientError::Rejected(message.to_owned());
        for (error, kind, transient) in [
            (server("object too large for cache"), ErrorKind::Capacity, false),
            (server("out of memory storing object"), ErrorKind::Capacity, false),
            (server("temporary failure"), ErrorKind::Unavailable, true),
            (rejected("ERROR"), ErrorKind::Unavailable, true),
            (rejected("unauthenticated"), ErrorKind::Refused, false),
            (rejected("bad command line format"), ErrorKind::Protocol, false),
            (ClientError::Protocol("HTTP/1.1".into()), ErrorKind::Protocol, false),
        ] {
            let message = error.to_string();
            let error = Error::from(Failure::from_client(error));
            assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{message}");
        }
    }

    #[test]
    fn a_request_on_a_closed_connection_is_retried_and_one_that_timed_out_is_not() {
        let io = |kind: Io| Failure::from_client(ClientError::Io(io::Error::from(kind)));
        for kind in [Io::ConnectionReset, Io::BrokenPipe, Io::UnexpectedEof] {
            assert!(io(kind).retry && io(kind).remedy == Remedy::RepeatHandshake, "{kind}");
        }
        assert!(!io(Io::ConnectionRefused).retry);
        assert_eq!(io(Io::ConnectionRefused).remedy, Remedy::Reconnect);
        let of_this_process = io(Io::Other);
        assert!(!of_this_process.retry && of_this_process.remedy == Remedy::RepeatHandshake);
        let late = io(Io::TimedOut);
        assert!(!late.retry && late.remedy == Remedy::RepeatHandshake);
        assert_eq!(Error::from(late).kind(), ErrorKind::Timeout);
    }
}
