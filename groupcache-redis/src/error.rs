//! From the client's errors to those of the core.

use std::time::Duration;

use groupcache_core::{Error, ErrorKind};
use redis::{RedisError, ServerErrorKind};

pub(crate) const NAME: &str = "redis";

/// What went wrong, for one caller or for all who waited for the same connection.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: Option<String>,
    source: Option<RedisError>,
    /// Whether the connection is of no more use.
    pub(crate) disconnects: bool,
    /// Whether nothing can be said against trying again at once on another connection: this one was
    /// found closed. Never after a time limit.
    pub(crate) retry: bool,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: Some(message.into()), source: None, disconnects: false, retry: false }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    pub(crate) fn unexpected(command: &str) -> Self {
        Self::protocol(format!("an answer to {command} that is none; is this a Redis server at `url`?"))
    }

    pub(crate) fn timeout(limit: Duration, setting: &str) -> Self {
        let mut failure = Self::new(ErrorKind::Timeout, format!("`{setting}` is {limit:?}"));
        failure.disconnects = true;
        failure
    }

    /// Whether the server had no memory left for a write.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.kind == ErrorKind::Capacity
    }

    /// Whether the key guards something that is no string.
    pub(crate) fn is_wrong_type(&self) -> bool {
        self.source.as_ref().and_then(RedisError::code) == Some("WRONGTYPE")
    }

    /// The same, and what was being done.
    pub(crate) fn while_doing(mut self, what: &str) -> Self {
        self.message = Some(match self.message {
            Some(message) => format!("{what}: {message}"),
            None => what.to_owned(),
        });
        self
    }
}

/// What the client, or the server through it, said.
pub(crate) fn failure_from(error: RedisError) -> Failure {
    let (kind, message) = explain(&error);
    let read_only = error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly);
    Failure {
        kind,
        message: message.map(str::to_owned),
        // A demoted primary that keeps the connection open.
        disconnects: error.is_unrecoverable_error() || error.is_timeout() || read_only,
        retry: error.is_connection_dropped() && !error.is_timeout(),
        source: Some(error),
    }
}

/// A kind, and what to do about it where that is not plain from what the server said.
fn explain(error: &RedisError) -> (ErrorKind, Option<&'static str>) {
    use redis::ErrorKind as Client;
    use redis::ServerErrorKind as Server;
    match error.kind() {
        _ if error.is_timeout() => (ErrorKind::Timeout, None),
        Client::Io | Client::ClusterConnectionNotFound => (ErrorKind::Unavailable, None),
        Client::AuthenticationFailed => {
            (ErrorKind::Refused, Some("the user name or password in `url` is not the server's"))
        }
        Client::InvalidClientConfig | Client::EmptySentinelList => (ErrorKind::Configuration, None),
        Client::Server(server) => match server {
            Server::BusyLoading => (ErrorKind::Unavailable, Some("the server is loading its data")),
            Server::ReadOnly => {
                (ErrorKind::Unavailable, Some("`url` is a replica, or a primary that was demoted"))
            }
            Server::MasterDown | Server::ClusterDown | Server::TryAgain => (ErrorKind::Unavailable, None),
            Server::NoPerm => (
                ErrorKind::Refused,
                Some("the user in `url` may not use a command or key that the cache needs"),
            ),
            Server::Moved | Server::Ask | Server::CrossSlot => {
                (ErrorKind::Configuration, Some("`url` is a node of a Redis Cluster; see `cluster`"))
            }
            _ => by_code(error.code()),
        },
        Client::Extension => by_code(error.code()),
        _ => (ErrorKind::Protocol, Some("is this a Redis server at `url`?")),
    }
}

/// Errors that the client passes on as they are.
fn by_code(code: Option<&str>) -> (ErrorKind, Option<&'static str>) {
    match code {
        Some("OOM") => (ErrorKind::Capacity, Some("the server's `maxmemory` is used up")),
        Some("MISCONF") => {
            (ErrorKind::Refused, Some("the server takes no writes while it cannot save its data to disk"))
        }
        Some("NOAUTH") => (ErrorKind::Refused, Some("`url` has no password and the server asks for one")),
        Some("WRONGPASS") => {
            (ErrorKind::Refused, Some("the user name or password in `url` is not the server's"))
        }
        Some("NOREPLICAS") => (ErrorKind::Unavailable, Some("too few replicas for `min-replicas-to-write`")),
        Some("BUSY" | "UNBLOCKED") => (ErrorKind::Unavailable, None),
        Some("WRONGTYPE") => {
            (ErrorKind::Protocol, Some("another application writes under the same `key_prefix`"))
        }
        _ => (ErrorKind::Protocol, None),
    }
}

impl From<RedisError> for Failure {
    fn from(error: RedisError) -> Self {
        failure_from(error)
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let mut error = Self::new(failure.kind, NAME);
        if let Some(message) = failure.message {
            error = error.with_message(message);
        }
        match failure.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> Failure {
        let mut parser = redis::Parser::new();
        let value = parser.parse_value(format!("-{line}\r\n").as_bytes()).unwrap();
        failure_from(value.extract_error().unwrap_err())
    }

    #[test]
    fn what_the_server_says_has_the_kind_that_callers_can_act_on() {
        for (line, kind, transient) in [
            ("OOM command not allowed when used memory > 'maxmemory'.", ErrorKind::Capacity, false),
            ("MISCONF Redis is configured to save RDB snapshots", ErrorKind::Refused, false),
            ("LOADING Redis is loading the dataset in memory", ErrorKind::Unavailable, true),
            ("READONLY You can't write against a read only replica.", ErrorKind::Unavailable, true),
            ("NOREPLICAS Not enough good replicas to write.", ErrorKind::Unavailable, true),
            ("NOAUTH Authentication required.", ErrorKind::Refused, false),
            ("NOPERM this user has no permissions", ErrorKind::Refused, false),
            ("WRONGPASS invalid username-password pair", ErrorKind::Refused, false),
            ("WRONGTYPE Operation against a key", ErrorKind::Protocol, false),
            ("MOVED 3999 127.0.0.1:6381", ErrorKind::Configuration, false),
            ("ERR unknown command", ErrorKind::Protocol, false),
        ] {
            let error = Error::from(said(line));
            assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{line}");
        }
    }

    #[test]
    fn a_closed_connection_may_be_retried_and_a_time_limit_may_not() {
        use std::io::{Error as IoError, ErrorKind as Io};

        let closed = failure_from(IoError::from(Io::BrokenPipe).into());
        assert!(closed.retry && closed.disconnects);
        let late = failure_from(IoError::from(Io::TimedOut).into());
        assert!(!late.retry && late.disconnects);
        assert_eq!(Error::from(late).kind(), ErrorKind::Timeout);
        let demoted = said("READONLY You can't write against a read only replica.");
        assert!(!demoted.retry && demoted.disconnects);
    }
}
