//! The handshake: reads the version, statistics and settings of a server.
//!
//! It uses the text protocol, which the client library does not offer on a meta connection.

use std::fmt;
use std::io;
use std::time::Instant;

use groupcache_core::{Clock, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::Failure;
use crate::expiry::ServerTime;

/// What a server reported in its handshake.
#[derive(Debug, Clone)]
pub(crate) struct ServerInfo {
    pub(crate) version: Version,
    pub(crate) time: ServerTime,
    /// The item limit, option `-I`.
    pub(crate) item_bytes_max: Option<usize>,
    text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

/// Performs the handshake on `stream`.
pub(crate) async fn perform(stream: &mut TcpStream, clock: &dyn Clock) -> Result<ServerInfo, Failure> {
    stream.write_all(REQUESTS).await.map_err(Failure::from_io)?;
    let mut response = Vec::new();
    loop {
        let read = stream.read_buf(&mut response).await;
        let text = String::from_utf8_lossy(&response);
        // Checked before the outcome of the read: a server that refuses closes the connection too.
        if let Some(failure) = refusal(&text) {
            return Err(failure);
        }
        if text.ends_with("END\r\n") && text.matches("\r\nEND\r\n").count() == 2 {
            return ServerInfo::parse(text.into_owned(), clock.now());
        }
        match read.map_err(Failure::from_io)? {
            0 => return Err(Failure::from_io(io::ErrorKind::UnexpectedEof.into())),
            _ if response.len() > RESPONSE_BYTES_MAX => return Err(not_memcached()),
            _ => {}
        }
    }
}

/// Returns why the server cannot be used, as soon as the response so far shows it.
fn refusal(text: &str) -> Option<Failure> {
    let mut lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::trim_end);
    let first = lines.next()?;
    if first.starts_with("ERROR Too many open connections") {
        return Some(Failure::too_many_connections());
    }
    if first.contains("unauthenticated") {
        return Some(Failure::unauthenticated());
    }
    let Some(version) = first.strip_prefix("VERSION ") else {
        return Some(not_memcached());
    };
    let too_old = |reason: &str| {
        let message =
            format!("`servers` names memcached {version}, which {reason}; 1.6 or later is required");
        Failure::new(ErrorKind::Configuration, message)
    };
    if Version::parse(version) < Version(1, 6, 0) {
        return Some(too_old("has no meta protocol"));
    }
    match lines.next() {
        Some("EN O7") | None => None,
        Some(_) => Some(too_old("has the meta protocol as it was before it was declared stable")),
    }
}

fn not_memcached() -> Failure {
    Failure::protocol("not the response of a memcached server; does `servers` name one?")
}

impl ServerInfo {
    fn parse(text: String, received_at: Instant) -> Result<Self, Failure> {
        let version = text.strip_prefix("VERSION ").and_then(|rest| rest.lines().next()).unwrap_or_default();
        let version = Version::parse(version);
        let unix_seconds = field(&text, "time").and_then(|time| time.parse().ok());
        let unix_seconds = unix_seconds.ok_or_else(not_memcached)?;
        let time = ServerTime { unix_seconds, received_at };
        let item_bytes_max = field(&text, "item_size_max").and_then(|bytes| bytes.parse().ok());
        Ok(Self { version, time, item_bytes_max, text })
    }

    /// Returns a statistic or setting by its name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.text, name)
    }

    /// Returns a statistic or setting that is a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// Returns whether a statistic or setting has this value. Finds each value of a name that occurs twice:
    /// `evictions` is a number among the statistics and a word among the settings.
    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        self.text.lines().any(|line| line.strip_prefix("STAT ") == Some(&format!("{name} {value}")))
    }

    /// Returns whether both come from the same server process.
    pub(crate) fn is_same_incarnation(&self, other: &Self) -> bool {
        let identity = |info: &Self| (info.number("pid"), info.version, info.item_bytes_max);
        let started_at = |info: &Self| Some(info.time.unix_seconds.saturating_sub(info.number("uptime")?));
        identity(self) == identity(other)
            && started_at(self).zip(started_at(other)).is_some_and(|(one, other)| one.abs_diff(other) <= 1)
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '))
}

impl Version {
    fn parse(text: &str) -> Self {
        let mut parts = text.split('.').map(|part| {
            let digits = part.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
            digits.parse().unwrap_or(0)
        });
        let mut next = || parts.next().unwrap_or(0);
        Self(next(), next(), next())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

/// The `mg` of a key that does not exist shows whether the server implements the meta protocol as it was
/// declared stable, and repeats the opaque token (`O`).
const REQUESTS: &[u8] = b"version\r\nmg groupcache:handshake v O7\r\nstats\r\nstats settings\r\n";
/// Many times the length of any server's response.
const RESPONSE_BYTES_MAX: usize = 256 << 10;

#[cfg(test)]
pub(crate) mod tests {
    use groupcache_core::{Clock, Error, SystemClock};

    use super::*;

    /// Returns what a server with these statistics and settings reports.
    pub(crate) fn server_info(version: &str, fields: &[(&str, &str)]) -> ServerInfo {
        let mut lines = format!("VERSION {version}\r\nEN\r\nSTAT time 1800000000\r\n");
        for (name, value) in fields {
            lines.push_str(&format!("STAT {name} {value}\r\n"));
        }
        ServerInfo::parse(lines, SystemClock.now()).unwrap()
    }

    #[test]
    fn an_unusable_server_is_refused_with_the_reason() {
        let refused = |text: &str| refusal(text).map(|failure| Error::from(failure).to_string());
        for text in
            ["", "VERSI", "VERSION 1.6.18\r\n", "VERSION 1.6.18\r\nEN O", "VERSION 1.7.0\r\nEN O7\r\nSTAT"]
        {
            assert_eq!(refused(text), None, "{text}");
        }
        for (text, reason) in [
            ("ERROR Too many open connections\r\n", "`-c`"),
            ("CLIENT_ERROR unauthenticated\r\n", "password"),
            ("HTTP/1.1 400 Bad Request\r\n", "`servers`"),
            ("-ERR unknown command\r\n", "`servers`"),
            ("VERSION 1.5.22\r\nERROR\r\n", "`servers` names memcached 1.5.22"),
            ("VERSION 1.4\r\n", "1.6 or later"),
            ("VERSION 1.6.1\r\nERROR\r\n", "declared stable"),
            ("VERSION 1.6.8\r\nEN\r\n", "declared stable"),
        ] {
            let refused = refused(text);
            assert!(refused.as_ref().is_some_and(|message| message.contains(reason)), "{text}: {refused:?}");
        }
    }

    #[test]
    fn another_process_is_another_incarnation() {
        let one = server_info("1.6.18", &[("pid", "7"), ("uptime", "100")]);
        assert!(one.is_same_incarnation(&server_info("1.6.18", &[("pid", "7"), ("uptime", "100")])));
        assert!(!one.is_same_incarnation(&server_info("1.6.18", &[("pid", "8"), ("uptime", "100")])));
        assert!(!one.is_same_incarnation(&server_info("1.6.18", &[("pid", "7"), ("uptime", "5")])));
        assert!(!one.is_same_incarnation(&server_info("1.6.19", &[("pid", "7"), ("uptime", "100")])));
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(Version::parse("1.6.18") > Version::parse("1.6.9"));
        assert!(Version::parse("1.7.0-rc1") > Version(1, 6, 99));
        assert_eq!(Version::parse("unknown"), Version(0, 0, 0));
    }
}
