//! Conversion of client errors into errors of the core.

use std::time::Duration;

use groupcache_core::{Error, ErrorKind};
use redis::{RedisError, ServerErrorKind};

/// The name of this backend in errors and logs.
pub(crate) const NAME: &str = "redis";

/// Why a request or an attempt to connect failed.
///
/// It can be cloned, because callers that share an attempt to connect share its failure.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    kind: ErrorKind,
    message: Option<String>,
    source: Option<RedisError>,
    /// Whether the connection is of no further use.
    pub(crate) disconnects: bool,
    /// Whether the request may be retried at once on a new connection, because this one was found closed.
    /// Never set after a time limit: the server may still execute the request.
    pub(crate) may_retry: bool,
    /// Whether the server answers all the same, so that there is no reason to keep other requests away.
    pub(crate) server_answers: bool,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: Some(message.into()),
            source: None,
            disconnects: false,
            may_retry: false,
            server_answers: false,
        }
    }

    /// Returns the failure of a request that was sent to a server which is in another incarnation by now.
    pub(crate) fn outdated(message: &str) -> Self {
        let failure = Self::new(ErrorKind::Unavailable, message);
        Self { disconnects: true, may_retry: true, ..failure }
    }

    /// Returns this failure of a connection that is of no further use.
    pub(crate) fn disconnecting(self) -> Self {
        Self { disconnects: true, ..self }
    }

    /// Adds the error of the client that caused this failure.
    pub(crate) fn because(self, source: RedisError) -> Self {
        Self { source: Some(source), ..self }
    }

    /// Returns this failure of a request to a server that is well otherwise.
    pub(crate) fn with_server_that_answers(self) -> Self {
        Self { server_answers: true, ..self }
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Protocol, message)
    }

    /// Returns the failure for a reply that `command` never has.
    pub(crate) fn unexpected(command: &str) -> Self {
        Self::protocol(format!("unexpected reply to {command}; is there a Redis server at `url`?"))
    }

    pub(crate) fn timeout(limit: Duration, setting: &str) -> Self {
        let mut failure = Self::new(ErrorKind::Timeout, format!("`{setting}` is {limit:?}"));
        failure.disconnects = true;
        failure
    }

    /// Returns the failure of a request that the circuit breaker of a cluster node rejected.
    pub(crate) fn circuit_open() -> Self {
        Self::new(ErrorKind::Unavailable, "not sent, as the node did not respond to recent requests")
    }

    /// Returns whether the server had no memory left for a write.
    pub(crate) fn is_out_of_memory(&self) -> bool {
        self.kind == ErrorKind::Capacity
    }

    /// Returns whether the user has no permission for the command.
    pub(crate) fn is_forbidden(&self) -> bool {
        let kind = self.source.as_ref().map(RedisError::kind);
        kind == Some(redis::ErrorKind::Server(ServerErrorKind::NoPerm))
    }

    /// Returns whether a setting is wrong.
    pub(crate) fn is_misconfigured(&self) -> bool {
        self.kind == ErrorKind::Configuration
    }

    /// Returns whether the key holds a value that is not a string.
    pub(crate) fn is_wrong_type(&self) -> bool {
        self.source.as_ref().and_then(RedisError::code) == Some("WRONGTYPE")
    }

    /// Prefixes the message with the activity that failed.
    pub(crate) fn while_doing(mut self, activity: &str) -> Self {
        self.message = Some(match self.message {
            Some(message) => format!("{activity}: {message}"),
            None => activity.to_owned(),
        });
        self
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

/// Converts an error of the client, or of the server as the client reports it.
pub(crate) fn failure_from(error: RedisError) -> Failure {
    let (kind, message) = explain(&error);
    // A primary that was demoted may keep the connection open.
    let read_only = error.kind() == redis::ErrorKind::Server(ServerErrorKind::ReadOnly);
    Failure {
        kind,
        message: message.map(str::to_owned),
        disconnects: error.is_unrecoverable_error() || error.is_timeout() || read_only,
        may_retry: error.is_connection_dropped() && !error.is_timeout(),
        server_answers: false,
        source: Some(error),
    }
}

/// Returns the kind of an error, and what to do about it if the error itself does not make that clear.
fn explain(error: &RedisError) -> (ErrorKind, Option<&'static str>) {
    use redis::ErrorKind as Client;
    use redis::ServerErrorKind as Server;
    match error.kind() {
        _ if error.is_timeout() => (ErrorKind::Timeout, None),
        Client::Io | Client::ClusterConnectionNotFound => (ErrorKind::Unavailable, None),
        Client::AuthenticationFailed => (ErrorKind::Refused, Some(WRONG_PASSWORD)),
        Client::InvalidClientConfig | Client::EmptySentinelList => (ErrorKind::Configuration, None),
        Client::Server(server) => match server {
            Server::BusyLoading => (ErrorKind::Unavailable, Some("the server is loading its data")),
            Server::ReadOnly => {
                (ErrorKind::Unavailable, Some("`url` is a replica, or a primary that was demoted"))
            }
            Server::MasterDown | Server::ClusterDown | Server::TryAgain => (ErrorKind::Unavailable, None),
            Server::NoPerm => (
                ErrorKind::Refused,
                Some("the user in `url` has no permission for a command or key that the cache needs"),
            ),
            Server::Moved | Server::Ask | Server::CrossSlot => {
                (ErrorKind::Configuration, Some("`url` is a node of a Redis Cluster; see `cluster`"))
            }
            _ => explain_code(error.code()),
        },
        Client::Extension => explain_code(error.code()),
        _ => (ErrorKind::Protocol, Some("is there a Redis server at `url`?")),
    }
}

/// Does the same for errors that the client does not classify.
fn explain_code(code: Option<&str>) -> (ErrorKind, Option<&'static str>) {
    match code {
        Some("OOM") => (ErrorKind::Capacity, Some("the server has reached its `maxmemory`")),
        Some("MISCONF") => {
            (ErrorKind::Refused, Some("the server accepts no writes while it cannot save its data to disk"))
        }
        Some("NOAUTH") => (ErrorKind::Refused, Some("`url` has no password, and the server requires one")),
        Some("WRONGPASS") => (ErrorKind::Refused, Some(WRONG_PASSWORD)),
        Some("NOREPLICAS") => (ErrorKind::Unavailable, Some("too few replicas for `min-replicas-to-write`")),
        Some("BUSY" | "UNBLOCKED") => (ErrorKind::Unavailable, None),
        Some("WRONGTYPE") => {
            (ErrorKind::Protocol, Some("another application writes under the same `key_prefix`"))
        }
        _ => (ErrorKind::Protocol, None),
    }
}

const WRONG_PASSWORD: &str = "the server rejected the user name or password in `url`";

#[cfg(test)]
mod tests {
    use super::*;

    fn server_error(line: &str) -> Failure {
        let mut parser = redis::Parser::new();
        let value = parser.parse_value(format!("-{line}\r\n").as_bytes()).unwrap();
        failure_from(value.extract_error().unwrap_err())
    }

    #[test]
    fn server_errors_have_the_kind_that_callers_can_act_on() {
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
            let error = Error::from(server_error(line));
            assert_eq!((error.kind(), error.is_transient()), (kind, transient), "{line}");
        }
    }

    #[test]
    fn a_closed_connection_may_be_retried_and_a_time_limit_may_not() {
        use std::io::{Error as IoError, ErrorKind as Io};

        let closed = failure_from(IoError::from(Io::BrokenPipe).into());
        assert!(closed.may_retry && closed.disconnects);
        let late = failure_from(IoError::from(Io::TimedOut).into());
        assert!(!late.may_retry && late.disconnects);
        assert_eq!(Error::from(late).kind(), ErrorKind::Timeout);
        let demoted = server_error("READONLY You can't write against a read only replica.");
        assert!(!demoted.may_retry && demoted.disconnects);
    }
}
