//! From the client's errors to those of the core.

use std::fmt;
use std::io::{self, ErrorKind as Io};
use std::sync::Arc;
use std::time::Duration;

use groupcache_core::{Error, ErrorKind};
use memcache::exp::Error as ClientError;
use tokio::runtime::is_rt_shutdown_err;

pub(crate) const NAME: &str = "memcached";

/// What went wrong, for one caller or for all who waited for the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: String,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    /// What to do about the connections.
    pub(crate) remedy: Remedy,
    /// Whether nothing can be said against trying again at once: the connection was found closed.
    /// Never after a time limit.
    pub(crate) retry: bool,
}

/// What a failure says about the connections there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Nothing; the one that failed is closed.
    None,
    /// The server may be another one by now: ask it again who it is.
    RepeatHandshake,
    /// Nobody listens there: find the address anew.
    Reconnect,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, remedy: Remedy::None, retry: false }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub(crate) fn timeout(limit: Duration, setting: &str) -> Self {
        let failure = Self::new(ErrorKind::Timeout, format!("`{setting}` is {limit:?}"));
        Self { remedy: Remedy::RepeatHandshake, ..failure }
    }

    pub(crate) fn io(error: io::Error) -> Self {
        let (kind, remedy, retry) = match error.kind() {
            Io::TimedOut => (ErrorKind::Timeout, Remedy::RepeatHandshake, false),
            Io::ConnectionReset | Io::ConnectionAborted | Io::BrokenPipe | Io::UnexpectedEof => {
                (ErrorKind::Unavailable, Remedy::RepeatHandshake, true)
            }
            Io::ConnectionRefused | Io::HostUnreachable => (ErrorKind::Unavailable, Remedy::Reconnect, false),
            // That of the runtime that made it: closed, whatever the server does.
            _ if is_rt_shutdown_err(&error) => (ErrorKind::Unavailable, Remedy::Reconnect, true),
            // Perhaps of this process alone, such as too many open files: the connections there are may do.
            _ => (ErrorKind::Unavailable, Remedy::RepeatHandshake, false),
        };
        let message = error.to_string();
        Self { kind, message, source: Some(Arc::new(error)), remedy, retry }
    }

    /// What the client, or the server through it, said.
    pub(crate) fn of(error: ClientError) -> Self {
        match error {
            ClientError::Io(error) => Self::io(error),
            ClientError::Server(said) if said.contains("too large") => {
                Self::new(ErrorKind::Capacity, format!("{said}; the server's item limit is its option `-I`"))
            }
            ClientError::Server(said) if said.contains("memory") => {
                Self::new(ErrorKind::Capacity, format!("{said}; the server's memory is its option `-m`"))
            }
            ClientError::Server(said) => Self::new(ErrorKind::Unavailable, said),
            ClientError::Rejected(said) if said == "ERROR" => Self::too_many_connections(),
            ClientError::Rejected(said) if said.contains("unauthenticated") => Self::unauthenticated(),
            other => {
                let message = format!("{other}; is this a memcached server at `servers`?");
                Self { remedy: Remedy::RepeatHandshake, ..Self::protocol(message) }
            }
        }
    }

    pub(crate) fn too_many_connections() -> Self {
        let message = "refused; the server has as many connections as its option `-c` allows, or nearly so";
        Self::new(ErrorKind::Unavailable, message)
    }

    pub(crate) fn unauthenticated() -> Self {
        Self::new(ErrorKind::Refused, "the server asks for a user and a password, which is not supported")
    }

    /// The name of the server leads elsewhere by now.
    pub(crate) fn moved() -> Self {
        let failure = Self::new(ErrorKind::Unavailable, "its name leads to another address by now");
        Self { remedy: Remedy::Reconnect, retry: true, ..failure }
    }

    /// An answer that is none of those that this command has.
    pub(crate) fn unexpected(command: &str) -> Self {
        Self::protocol(format!("an answer to {command} that is none; is this a memcached server?"))
    }

    /// The same, and where.
    pub(crate) fn at(mut self, server: &str) -> Self {
        self.message = format!("{server}: {}", self.message);
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
    fn what_the_server_says_has_the_kind_that_callers_can_act_on() {
        let server = |said: &str| ClientError::Server(said.to_owned());
        let rejected = |said: &str| ClientError::Rejected(said.to_owned());
        for (error, kind, transient) in [
            (server("object too large for cache"), ErrorKind::Capacity, false),
            (server("out of memory storing object"), ErrorKind::Capacity, false),
            (server("temporary failure"), ErrorKind::Unavailable, true),
            (rejected("ERROR"), ErrorKind::Unavailable, true),
            (rejected("unauthenticated"), ErrorKind::Refused, false),
            (rejected("bad command line format"), ErrorKind::Protocol, false),
            (ClientError::Protocol("HTTP/1.1".into()), ErrorKind::Protocol, false),
        ] {
            let said = error.to_string();
            let error = Error::from(Failure::of(error));
            assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{said}");
        }
    }

    #[test]
    fn a_closed_connection_may_be_retried_and_a_time_limit_may_not() {
        let io = |kind: Io| Failure::of(ClientError::Io(io::Error::from(kind)));
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
