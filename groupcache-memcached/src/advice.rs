//! Advice on the configuration of a server: what is dangerous or wasteful for a cache.

use std::fmt;

use groupcache_core::Error;

use crate::error::{Failure, NAME};
use crate::handshake::{ServerInfo, Version};
use crate::placement::Membership;

/// Advice on one setting of one server.
///
/// [`Display`](fmt::Display) shows the server, the setting and the explanation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Advice {
    server: String,
    setting: &'static str,
    text: String,
}

impl Advice {
    /// Returns the name of the server, as in the list of servers.
    #[must_use]
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Returns the name of the setting: an option of the `memcached` program, `version`, or a setter of
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

/// Returns advice on the configuration that a server reported.
pub(crate) fn for_server(
    name: &str,
    info: &ServerInfo,
    max_connections: usize,
    membership: Membership,
) -> Vec<Advice> {
    let mut all = configuration(info);
    all.extend(connections(info, max_connections));
    all.extend(joining(info, membership));
    let advice = |(setting, text)| Advice { server: name.to_owned(), setting, text };
    all.into_iter().map(advice).collect()
}

/// Logs the advice, or at debug level that the server did not report its configuration.
pub(crate) fn log(advice: Result<Vec<Advice>, Failure>) {
    match advice {
        Ok(all) => {
            for advice in all {
                tracing::warn!(backend = NAME, %advice, "server configuration");
            }
        }
        Err(failure) => {
            let error = Error::from(failure);
            tracing::debug!(%error, "cannot check the server configuration");
        }
    }
}

/// A setting and the explanation.
type Finding = (&'static str, String);

fn configuration(info: &ServerInfo) -> Vec<Finding> {
    let mut findings = Vec::new();
    if info.version < TESTED_MIN {
        let text = format!("{} is older than {TESTED_MIN}, the oldest tested version", info.version);
        findings.push(("version", text));
    }
    if info.has("evictions", "off") {
        let text = "evictions are disabled: once the memory is full, nothing more is stored".into();
        findings.push(("-M", text));
    }
    if let Some(evicted) = info.number("evictions").filter(|evicted| *evicted > 0) {
        let text = format!(
            "{evicted} items were evicted; every entry that depends on an evicted generation is a miss"
        );
        findings.push(("-m", text));
    }
    if let Some(file) = info.field("memory_file").filter(|file| *file != "(null)") {
        let text = format!(
            "the server restores its contents from `{file}`: this is safe after an orderly stop, but never \
             start it with a copy of that file, or with a file from before it left the list of servers"
        );
        findings.push(("-e", text));
    }
    findings
}

fn connections(info: &ServerInfo, max_connections: usize) -> Vec<Finding> {
    let mut findings = Vec::new();
    let comfortable = (max_connections as u64).saturating_mul(4);
    if let Some(limit) = info.number("maxconns").filter(|limit| *limit < comfortable) {
        let text = format!(
            "the server accepts {limit} connections, of which this process may use {max_connections} \
             (`max_connections`)"
        );
        findings.push(("-c", text));
    }
    if let Some(rejected) = info.number("rejected_connections").filter(|rejected| *rejected > 0) {
        findings.push(("-c", format!("the server has refused {rejected} connections since it started")));
    }
    findings
}

fn joining(info: &ServerInfo, membership: Membership) -> Option<Finding> {
    let is_filled = info.number("curr_items").is_some_and(|items| items > 0);
    (membership == Membership::OverlapOnly && is_filled).then(|| {
        let text = "the server is not empty: if it joins the list and no process reads from it yet, empty it \
                    first (`flush_all`), or invalidated entries may return; if it leaves the list, ignore this";
        ("overlap", text.into())
    })
}

/// The oldest version that the tests run against.
const TESTED_MIN: Version = Version(1, 6, 18);

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

    fn settings(info: &ServerInfo, membership: Membership) -> Vec<&'static str> {
        for_server("a:11211", info, 64, membership).iter().map(Advice::setting).collect()
    }

    #[test]
    fn each_danger_is_named_and_a_sound_server_needs_no_advice() {
        let own = |info: &ServerInfo| settings(info, Membership::Own);
        assert_eq!(own(&server_info("1.6.18", &SOUND)), [""; 0]);
        assert_eq!(own(&server_info("1.6.9", &SOUND)), ["version"]);
        for (at, value, setting) in
            [(0, "5", "-m"), (2, "1", "-c"), (3, "200", "-c"), (4, "off", "-M"), (5, "/mnt/memory", "-e")]
        {
            let mut fields = SOUND;
            fields[at].1 = value;
            assert_eq!(own(&server_info("1.6.18", &fields)), [setting]);
        }
        assert_eq!(settings(&server_info("1.6.18", &SOUND), Membership::OverlapOnly), ["overlap"]);
    }
}
