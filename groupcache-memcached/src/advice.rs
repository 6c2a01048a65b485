//! What is dangerous, or a waste, in the configuration of a server.

use std::fmt;

use groupcache_core::Error;
use tokio::net::TcpStream;

use crate::error::{Failure, NAME};
use crate::handshake::{self, ServerInfo, Version};
use crate::server::Server;

/// The oldest that is tested with.
const TESTED: Version = Version(1, 6, 18);

/// Something in the configuration of a server that a cache should not have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    server: String,
    setting: &'static str,
    text: String,
}

impl Advice {
    /// The server that it is about, as it is named in the list.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The setting to look at: an option of the `memcached` program, or one of
    /// [`MemcachedBackendBuilder`](crate::MemcachedBackendBuilder).
    #[must_use]
    pub const fn setting(&self) -> &'static str {
        self.setting
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: `{}`: {}", self.server, self.setting, self.text)
    }
}

/// Asks the server and judges what it says.
pub(crate) async fn of(server: &Server) -> Result<Vec<Advice>, Failure> {
    let settings = server.settings();
    let limit = settings.connect_time_limit;
    let asked = tokio::time::timeout(limit, async {
        let stream = TcpStream::connect(server.name()).await.map_err(Failure::io)?;
        handshake::perform(stream, &*settings.clock).await
    });
    let info = match asked.await {
        Ok(info) => info,
        Err(_) => Err(Failure::timeout(limit, "connect_time_limit")),
    };
    let info = info.map_err(|failure| failure.at(server.name()))?;
    let judged = judge(&info, settings.max_connections, server.joins());
    let advice = |(setting, text)| Advice { server: server.name().to_owned(), setting, text };
    Ok(judged.into_iter().map(advice).collect())
}

/// Logs the advice, once, after the first connection.
pub(crate) async fn log(server: Server) {
    match of(&server).await {
        Ok(all) => {
            for advice in all {
                tracing::warn!(backend = NAME, %advice, "the server's configuration");
            }
        }
        Err(failure) => {
            let error = Error::from(failure);
            tracing::debug!(%error, "the server's configuration could not be looked at");
        }
    }
}

fn judge(info: &ServerInfo, max_connections: usize, joins: bool) -> Vec<(&'static str, String)> {
    let mut all = Vec::new();
    let mut advise = |setting, text: String| all.push((setting, text));
    if info.version < TESTED {
        advise("version", format!("{} is older than {TESTED}, the oldest that is tested with", info.version));
    }
    if info.has("evictions", "off") {
        advise("-M", "evicts nothing: once memory is used up nothing is stored any more".into());
    }
    if let Some(evicted) = info.number("evictions").filter(|evicted| *evicted > 0) {
        advise(
            "-m",
            format!(
                "{evicted} items were evicted; a generation that is evicted makes everything miss that depends \
                 on it"
            ),
        );
    }
    if let Some(file) = info.field("memory_file").filter(|file| *file != "(null)") {
        advise(
            "-e",
            format!(
                "comes back with its contents in `{file}`: safe after an orderly stop, but never let it start \
                 with a copy of that file, nor with one from before it left the list of servers"
            ),
        );
    }
    if let Some(connections) =
        info.number("maxconns").filter(|all| *all < (max_connections as u64).saturating_mul(4))
    {
        advise(
            "-c",
            format!(
                "{connections} connections in all, of which this process may take {max_connections} \
                 (`max_connections`)"
            ),
        );
    }
    if let Some(rejected) = info.number("rejected_connections").filter(|rejected| *rejected > 0) {
        advise("-c", format!("{rejected} connections were refused since it started"));
    }
    if joins && info.number("curr_items").is_some_and(|items| items > 0) {
        advise(
            "overlap",
            "is not empty: if it is to join the list, and no process reads from it yet, empty it first \
             (`flush_all`), or invalidated entries may come back; if it is to leave, all is well"
                .into(),
        );
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handshake::tests::server_info;

    const SOUND: [(&str, &str); 6] = [
        ("evictions", "0"),
        ("curr_items", "7"),
        ("rejected_connections", "0"),
        ("maxconns", "1024"),
        ("evictions", "on"),
        ("memory_file", "(null)"),
    ];

    fn settings(info: &ServerInfo) -> Vec<&'static str> {
        judge(info, 64, false).into_iter().map(|(setting, _)| setting).collect()
    }

    #[test]
    fn each_danger_is_named_and_a_sound_server_needs_no_advice() {
        assert_eq!(settings(&server_info("1.6.18", &SOUND)), [""; 0]);
        assert_eq!(settings(&server_info("1.6.9", &SOUND)), ["version"]);
        for (at, value, setting) in
            [(0, "5", "-m"), (2, "1", "-c"), (3, "200", "-c"), (4, "off", "-M"), (5, "/mnt/memory", "-e")]
        {
            let mut fields = SOUND;
            fields[at].1 = value;
            assert_eq!(settings(&server_info("1.6.18", &fields)), [setting]);
        }
        let joins = judge(&server_info("1.6.18", &SOUND), 64, true);
        assert_eq!(joins.iter().map(|(setting, _)| *setting).collect::<Vec<_>>(), ["overlap"]);
    }
}
