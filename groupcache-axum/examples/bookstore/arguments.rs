//! The command line.

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};

use lexopt::prelude::*;

use crate::open::Location;

pub(crate) const HELP: &str = "\
A small bookstore on SQLite or PostgreSQL: HTML pages, a JSON API and feeds.

Usage: bookstore [OPTIONS]

Options:
  --listen ADDR             IP address and port to serve on [default: 127.0.0.1:3000]
  --backend NAME            where cached pages are stored: memory, a Redis server as
                            redis://[:PASSWORD@]HOST[:PORT][/DATABASE], a Redis Cluster
                            as several URLs separated by commas, or memcached
                            servers as memcached://HOST[:PORT],... [default: memory]
  --database URL            sqlite://PATH of a file, which is created if needed, or
                            postgres://[USER[:PASSWORD]@]HOST[:PORT]/DATABASE. Filled
                            if it has no tables [default: groupcache-bookstore.sqlite
                            in the system's directory for temporary files]
  --help                    print this help and exit
";

/// The command line, parsed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Command {
    Run(Arguments),
    Help,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) listen: SocketAddr,
    pub(crate) backend: Backend,
    pub(crate) database: Location,
}

/// The store of the cached pages.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    Memory,
    Redis(String),
    /// The URLs of some of its nodes.
    RedisCluster(Vec<String>),
    Memcached(String),
}

impl Default for Arguments {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
            backend: Backend::Memory,
            database: Location::Sqlite(std::env::temp_dir().join("groupcache-bookstore.sqlite")),
        }
    }
}

/// A mistake in the command line. `Display` quotes and escapes user input, so that the message is always one
/// line.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ArgumentError {
    #[error("unknown option {0:?}; --help lists the options")]
    UnknownOption(String),
    #[error("unexpected argument {0:?}; --help lists the options")]
    UnexpectedArgument(OsString),
    #[error("--{option}: missing value; {expected}")]
    MissingValue { option: &'static str, expected: &'static str },
    #[error("--{option} {value:?}: {expected}")]
    BadValue { option: &'static str, value: OsString, expected: &'static str },
}

/// Parses the command line. Its first item is the name of the program.
pub(crate) fn parse(line: impl IntoIterator<Item = OsString>) -> Result<Command, ArgumentError> {
    let mut parser = lexopt::Parser::from_iter(line);
    let mut arguments = Arguments::default();
    loop {
        match parser.next() {
            Ok(None) => return Ok(Command::Run(arguments)),
            Ok(Some(Long("help"))) => {
                return match parser.optional_value() {
                    None => Ok(Command::Help),
                    Some(value) => Err(ArgumentError::BadValue {
                        option: "help",
                        value,
                        expected: "this option takes no value",
                    }),
                };
            }
            Ok(Some(Long("listen"))) => arguments.listen = value(&mut parser, &LISTEN)?,
            Ok(Some(Long("backend"))) => arguments.backend = value(&mut parser, &BACKEND)?,
            Ok(Some(Long("database"))) => arguments.database = value(&mut parser, &DATABASE)?,
            Ok(Some(Long(name))) => {
                let name = format!("--{name}");
                return Err(ArgumentError::UnknownOption(match parser.optional_value() {
                    Some(value) => format!("{name}={}", value.to_string_lossy()),
                    None => name,
                }));
            }
            Ok(Some(Short(letter))) => {
                return Err(ArgumentError::UnknownOption(format!("-{letter}")));
            }
            Ok(Some(Value(argument))) => return Err(ArgumentError::UnexpectedArgument(argument)),
            Err(error) => return Err(ArgumentError::UnknownOption(error.to_string())),
        }
    }
}

/// An option that takes a value.
struct ValueOption<T> {
    name: &'static str,
    expected: &'static str,
    read: fn(&str) -> Option<T>,
}

const LISTEN: ValueOption<SocketAddr> = ValueOption {
    name: "listen",
    expected: "expected an IP address and a port, such as 127.0.0.1:3000",
    read: |value| value.parse().ok(),
};

const BACKEND: ValueOption<Backend> = ValueOption {
    name: "backend",
    expected: "expected memory, redis://HOST or memcached://HOST,HOST",
    read: |value| match value.split_once("://") {
        None if value == "memory" => Some(Backend::Memory),
        // A comma alone does not separate nodes: it may be part of a password.
        Some(("redis", nodes)) if nodes.contains(",redis://") => {
            let nodes: Vec<_> = nodes.split(",redis://").map(|node| format!("redis://{node}")).collect();
            nodes.iter().all(|node| node != "redis://").then_some(Backend::RedisCluster(nodes))
        }
        Some(("redis" | "unix", address)) if !address.is_empty() => Some(Backend::Redis(value.to_owned())),
        Some(("memcached", list)) if !list.is_empty() => Some(Backend::Memcached(value.to_owned())),
        _ => None,
    },
};

const DATABASE: ValueOption<Location> = ValueOption {
    name: "database",
    expected: "expected sqlite://PATH with the path of a file and nothing after it, or postgres://HOST/DATABASE",
    read: |value| match value.split_once("://")? {
        ("sqlite", path) => {
            let names_a_file = !path.is_empty() && !path.starts_with(':') && !path.contains(['?', '\0']);
            names_a_file.then(|| std::path::absolute(path).ok()).flatten().map(Location::Sqlite)
        }
        ("postgres" | "postgresql", rest) if !rest.is_empty() => Some(Location::Postgres(value.to_owned())),
        _ => None,
    },
};

fn value<T>(parser: &mut lexopt::Parser, option: &ValueOption<T>) -> Result<T, ArgumentError> {
    let value = parser
        .value()
        .map_err(|_| ArgumentError::MissingValue { option: option.name, expected: option.expected })?;
    match value.to_str().and_then(option.read) {
        Some(meaning) => Ok(meaning),
        None => Err(ArgumentError::BadValue { option: option.name, value, expected: option.expected }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &[&str]) -> Result<Command, ArgumentError> {
        parse(["bookstore"].iter().chain(line).map(|word| OsString::from(*word)))
    }

    #[test]
    fn an_empty_command_line_means_the_defaults() {
        assert_eq!(parsed(&[]), Ok(Command::Run(Arguments::default())));
    }

    #[test]
    fn values_may_follow_a_space_or_an_equals_sign() {
        let expected = Arguments {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 80)),
            backend: Backend::Memory,
            database: Location::Sqlite("/shop/books.db".into()),
        };
        assert_eq!(
            parsed(&["--listen=0.0.0.0:80", "--backend", "memory", "--database=sqlite:///shop/books.db",]),
            Ok(Command::Run(expected))
        );
    }

    #[test]
    fn several_redis_urls_are_a_cluster() {
        let backend = |value: &str| match parsed(&["--backend", value]) {
            Ok(Command::Run(arguments)) => Some(arguments.backend),
            _ => None,
        };
        let nodes = vec!["redis://one:1".to_owned(), "redis://two:2".to_owned()];
        assert_eq!(backend("redis://one:1,redis://two:2"), Some(Backend::RedisCluster(nodes)));
        assert_eq!(backend("redis://:a,b@one"), Some(Backend::Redis("redis://:a,b@one".to_owned())));
        assert_eq!(backend("redis://one,redis://"), None);
    }

    #[test]
    fn every_error_is_one_line_with_the_option_and_the_value() {
        let cases: [(&[&str], &[&str]); 13] = [
            (&["--listen", "3000"], &["--listen", "\"3000\""]),
            (&["--listen", "a\nb"], &["--listen", "\"a\\nb\""]),
            (&["--backend", "redis"], &["--backend", "\"redis\""]),
            (&["--backend", "redis://"], &["--backend", "redis://"]),
            (&["--backend", "memcached://"], &["--backend", "memcached://"]),
            (&["--database", "x.db"], &["--database", "\"x.db\""]),
            (&["--database", "sqlite://"], &["--database", "\"sqlite://\""]),
            (&["--database", "sqlite://:memory:"], &["--database", ":memory:"]),
            (&["--database", "postgres://"], &["--database", "postgres://"]),
            (&["--listen"], &["--listen", "missing"]),
            (&["--colour=red"], &["--colour=red"]),
            (&["-x"], &["-x"]),
            (&["books"], &["\"books\""]),
        ];
        for (line, parts) in cases {
            let message = parsed(line).expect_err("the line is invalid").to_string();
            assert!(!message.contains('\n'), "{message}");
            for part in parts {
                assert!(message.contains(part), "{part} is missing in: {message}");
            }
        }
    }
}
