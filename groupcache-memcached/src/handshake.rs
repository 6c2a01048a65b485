//! What a server says about itself, asked in the text protocol, which the client does not speak.

use std::time::Instant;

use groupcache_core::{Clock, ErrorKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::error::Failure;
use crate::expiry::ServerTime;

/// The version, a look at a key that nobody has, the statistics and the settings. The look shows
/// whether the server speaks the meta protocol as it is since it was declared stable, and repeats the
/// mark (`O`) that tells answers apart.
const QUESTIONS: &[u8] = b"version\r\nmg groupcache:greeting v O7\r\nstats\r\nstats settings\r\n";
/// Many times as long as any server's answer.
const ANSWER_BYTES_MAX: usize = 256 << 10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

/// What a server said.
#[derive(Debug, Clone)]
pub(crate) struct ServerInfo {
    pub(crate) version: Version,
    pub(crate) time: ServerTime,
    /// The item limit, `-I`.
    pub(crate) item_bytes_max: Option<usize>,
    lines: String,
}

/// Asks and hangs up.
pub(crate) async fn perform(mut stream: TcpStream, clock: &dyn Clock) -> Result<ServerInfo, Failure> {
    stream.write_all(QUESTIONS).await.map_err(Failure::io)?;
    let mut answer = Vec::new();
    loop {
        let read = stream.read_buf(&mut answer).await;
        let said = String::from_utf8_lossy(&answer);
        if let Some(failure) = refusal(&said) {
            return Err(failure);
        }
        if said.ends_with("END\r\n") && said.matches("\r\nEND\r\n").count() == 2 {
            return ServerInfo::parse(said.into_owned(), clock.now());
        }
        match read.map_err(Failure::io)? {
            0 => return Err(Failure::io(std::io::ErrorKind::UnexpectedEof.into())),
            _ if answer.len() > ANSWER_BYTES_MAX => return Err(not_memcached()),
            _ => {}
        }
    }
}

/// Why the server will not do, as soon as it has said so.
fn refusal(said: &str) -> Option<Failure> {
    let mut lines = said.split_inclusive('\n').filter(|line| line.ends_with('\n')).map(str::trim_end);
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
    let too_old = |what: &str| {
        let message = format!("`servers` names memcached {version}, which {what}; 1.6 or later is needed");
        Failure::new(ErrorKind::Configuration, message)
    };
    if Version::parse(version) < Version(1, 6, 0) {
        return Some(too_old("has no meta protocol"));
    }
    match lines.next() {
        Some("EN O7") | None => None,
        Some(_) => Some(too_old("speaks the meta protocol as it was before it was declared stable")),
    }
}

fn not_memcached() -> Failure {
    Failure::protocol("no answer of a memcached server; is this one at `servers`?")
}

impl ServerInfo {
    fn parse(lines: String, heard_at: Instant) -> Result<Self, Failure> {
        let version = lines.strip_prefix("VERSION ").and_then(|rest| rest.lines().next()).unwrap_or_default();
        let version = Version::parse(version);
        let said = field(&lines, "time").and_then(|time| time.parse().ok()).ok_or_else(not_memcached)?;
        let time = ServerTime { said, heard_at };
        let item_bytes_max = field(&lines, "item_size_max").and_then(|bytes| bytes.parse().ok());
        Ok(Self { version, time, item_bytes_max, lines })
    }

    /// One of its statistics or settings, by the name that it calls it.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        field(&self.lines, name)
    }

    /// A number among them.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.field(name)?.parse().ok()
    }

    /// Whether it said this of something of which it may say several things: `evictions` is a number
    /// among the statistics and a word among the settings.
    pub(crate) fn has(&self, name: &str, value: &str) -> bool {
        self.lines.lines().any(|line| line.strip_prefix("STAT ") == Some(&format!("{name} {value}")))
    }

    /// Whether this is the same process, which has not been replaced meanwhile.
    pub(crate) fn is_same_incarnation(&self, other: &Self) -> bool {
        let life = |info: &Self| (info.number("pid"), info.version, info.item_bytes_max);
        let began = |info: &Self| Some(info.time.said.saturating_sub(info.number("uptime")?));
        life(self) == life(other)
            && began(self).zip(began(other)).is_some_and(|(one, other)| one.abs_diff(other) <= 1)
    }
}

fn field<'a>(lines: &'a str, name: &str) -> Option<&'a str> {
    lines.lines().find_map(|line| line.strip_prefix("STAT ")?.strip_prefix(name)?.strip_prefix(' '))
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

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use groupcache_core::{Clock, Error, SystemClock};

    use super::*;

    /// What a server with these statistics and settings said.
    pub(crate) fn server_info(version: &str, fields: &[(&str, &str)]) -> ServerInfo {
        let mut lines = format!("VERSION {version}\r\nEN\r\nSTAT time 1800000000\r\n");
        for (name, value) in fields {
            lines.push_str(&format!("STAT {name} {value}\r\n"));
        }
        ServerInfo::parse(lines, SystemClock.now()).unwrap()
    }

    #[test]
    fn what_will_not_do_is_said_to_be_what_it_is() {
        let refused = |said: &str| refusal(said).map(|failure| Error::from(failure).to_string());
        for said in
            ["", "VERSI", "VERSION 1.6.18\r\n", "VERSION 1.6.18\r\nEN O", "VERSION 1.7.0\r\nEN O7\r\nSTAT"]
        {
            assert_eq!(refused(said), None, "{said}");
        }
        for (said, reason) in [
            ("ERROR Too many open connections\r\n", "`-c`"),
            ("CLIENT_ERROR unauthenticated\r\n", "password"),
            ("HTTP/1.1 400 Bad Request\r\n", "`servers`"),
            ("-ERR unknown command\r\n", "`servers`"),
            ("VERSION 1.5.22\r\nERROR\r\n", "`servers` names memcached 1.5.22"),
            ("VERSION 1.4\r\n", "1.6 or later"),
            ("VERSION 1.6.1\r\nERROR\r\n", "declared stable"),
            ("VERSION 1.6.8\r\nEN\r\n", "declared stable"),
        ] {
            let refused = refused(said);
            assert!(refused.as_ref().is_some_and(|why| why.contains(reason)), "{said}: {refused:?}");
        }
    }

    #[test]
    fn another_process_is_another_life() {
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
