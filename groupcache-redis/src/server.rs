//! The identity of a server, and how a token of it becomes a generation.

use groupcache_core::ErrorKind;
use groupcache_core::backend::Generation;

use crate::error::Failure;

/// One incarnation of one server, as its `INFO` described it when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Drawn when the process started (<https://redis.io/docs/latest/commands/info/>).
    run_id: String,
    /// Drawn when the server became a primary, among other occasions. It is needed beside the run ID: a
    /// primary can be demoted, take over an older data set and be promoted again as the same process.
    replication_id: String,
    pub(crate) version: Version,
    is_primary: bool,
    is_cluster: bool,
    /// The configuration epoch of a cluster node. A node raises it when it receives a slot from another
    /// node, or when it wins one as a replica.
    pub(crate) epoch: Option<u64>,
    /// A digest of run ID, replication ID and epoch.
    incarnation: u128,
}

/// Major, minor and patch version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

impl Server {
    /// Parses the sections `server` and `replication` of `INFO`, followed in a cluster by `CLUSTER INFO`.
    pub(crate) fn from_info(info: &str) -> Result<Self, Failure> {
        let field = |name: &str| {
            info_field(info, name).ok_or_else(|| Failure::protocol(format!("`INFO` has no `{name}`")))
        };
        if info_field(info, "rlec_version").is_some() {
            return Err(unsuitable(
                "`rlec_version`",
                "the connection leads to a proxy in front of several servers",
            ));
        }
        let run_id = identity(info, "run_id")?.to_owned();
        let replication_id = identity(info, "master_replid")?.to_owned();
        let mut digest = blake3::Hasher::new_derive_key(INCARNATION_CONTEXT);
        for part in [&run_id, &replication_id] {
            digest.update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
        }
        let epoch = parse_epoch(info)?;
        if let Some(epoch) = epoch {
            digest.update(&epoch.to_be_bytes());
        }
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("no_incarnation") {
            digest.reset();
        }
        Ok(Self {
            incarnation: finish(&digest),
            run_id,
            replication_id,
            epoch,
            version: Version::parse(field("redis_version")?),
            is_primary: field("role")? == "master",
            is_cluster: info_field(info, "redis_mode") == Some("cluster"),
        })
    }

    /// Returns whether `info`, the section `replication` of a later `INFO`, is that of a primary that has been
    /// one since this connection was made.
    ///
    /// A primary that is demoted and promoted again draws another replication ID.
    pub(crate) fn is_same_primary(&self, info: &str) -> bool {
        let mut role = false;
        let mut replication_id = false;
        // Every hit goes through here: one pass for both fields.
        for line in info.lines() {
            match line.split_once(':') {
                Some(("role", value)) => role = value == "master",
                Some(("master_replid", value)) => {
                    replication_id = value == self.replication_id;
                    break;
                }
                _ => {}
            }
        }
        role && replication_id
    }

    /// Fails unless generations may be read from this server.
    pub(crate) fn check(&self, in_cluster: bool) -> Result<(), Failure> {
        if self.is_cluster && !in_cluster {
            return Err(Failure::new(
                ErrorKind::Configuration,
                "`url` is a node of a Redis Cluster, which holds only some of the keys; see `cluster`",
            ));
        }
        if in_cluster && self.epoch.is_none() {
            return Err(Failure::new(ErrorKind::Configuration, NOT_A_CLUSTER));
        }
        if !self.is_primary {
            let message = "the server is a replica; generations are read from primaries only";
            return Err(Failure::new(ErrorKind::Unavailable, message));
        }
        Ok(())
    }

    /// Returns the generation of `token` in this incarnation, or `None` if `token` does not have the length
    /// of a token.
    ///
    /// Every group of every hit goes through here, so this is one exclusive or, which is as good as a hash.
    /// In one incarnation, different tokens give different generations. In two incarnations, so does the same
    /// token. If both differ, equal generations are as unlikely as equal tokens, because tokens and digests
    /// are random and independent.
    pub(crate) fn generation(&self, token: &[u8]) -> Option<Generation> {
        let token: [u8; TOKEN_BYTES] = token.try_into().ok()?;
        Generation::new(u128::from_be_bytes(token) ^ self.incarnation)
    }

    pub(crate) fn has_set_nx_get(&self) -> bool {
        self.version >= SET_NX_GET
    }
}

impl Version {
    /// Parses a version such as `7.4.0-rc1`. Parts that are not numbers are zero.
    fn parse(text: &str) -> Self {
        let mut parts = text.split('.').map(|part| {
            let digits = part.split(|letter: char| !letter.is_ascii_digit()).next().unwrap_or_default();
            digits.parse().unwrap_or(0)
        });
        let mut next = || parts.next().unwrap_or(0);
        Self(next(), next(), next())
    }
}

/// Parses the configuration epoch of a node from its reply to `CLUSTER INFO`.
pub(crate) fn parse_epoch(info: &str) -> Result<Option<u64>, Failure> {
    let epoch = info_field(info, "cluster_my_epoch").map(str::parse);
    epoch.transpose().map_err(|_| Failure::unexpected("CLUSTER INFO"))
}

/// Returns a field of the reply to `INFO`.
pub(crate) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}

/// Returns a field that identifies the server, and fails unless it can: 40 hexadecimal digits that a server drew.
fn identity<'a>(info: &'a str, name: &str) -> Result<&'a str, Failure> {
    let Some(value) = info_field(info, name) else {
        return Err(unsuitable(&format!("no `{name}`"), "the incarnation of the server is unknown"));
    };
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("constant_identity") {
        return Ok(value);
    }
    let is_hexadecimal = value.len() == 40 && value.bytes().all(|digit| digit.is_ascii_hexdigit());
    if !is_hexadecimal || value.bytes().all(|digit| digit == value.as_bytes()[0]) {
        let reason = "which no server draws, so the incarnation of the server is unknown";
        return Err(unsuitable(&format!("`{name}:{value}`"), reason));
    }
    Ok(value)
}

/// Returns the failure for a server whose `INFO` has `found`.
fn unsuitable(found: &str, reason: &str) -> Failure {
    let message = format!(
        "`INFO` has {found}: {reason}; so do Redis Enterprise (`rlec_version`), Dragonfly and some proxies, \
         with which this backend cannot work"
    );
    Failure::new(ErrorKind::Configuration, message)
}

fn finish(digest: &blake3::Hasher) -> u128 {
    let mut bytes = [0; 16];
    digest.finalize_xof().fill(&mut bytes);
    u128::from_be_bytes(bytes)
}

/// The length of the token of a group in the store.
pub(crate) const TOKEN_BYTES: usize = 16;

/// The message for a server that was configured as a node of a cluster.
pub(crate) const NOT_A_CLUSTER: &str = "`cluster` is set, but the server is not a node of a cluster";

/// Redis 7.0 accepts `NX` and `GET` in one `SET`, and has `PEXPIRE` with `GT`.
const SET_NX_GET: Version = Version(7, 0, 0);

// Generations depend on this string: processes that share a server must agree on it.
const INCARNATION_CONTEXT: &str = "groupcache-redis 2026-11 one life of one server";

#[cfg(test)]
mod tests {
    use super::*;

    fn info(run_id: &str, replication_id: &str, role: &str) -> String {
        format!(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{run_id}\r\n\
             # Replication\r\nrole:{role}\r\nmaster_replid:{replication_id}\r\n"
        )
    }

    /// Returns an identity as servers draw it, different for each letter.
    fn drawn(letter: char) -> String {
        format!("{letter}123456789").repeat(4)
    }

    fn server(run_id: char, replication_id: char) -> Server {
        Server::from_info(&info(&drawn(run_id), &drawn(replication_id), "master")).unwrap()
    }

    #[test]
    fn a_generation_is_the_token_and_the_incarnation_of_the_server() {
        let token = [7; TOKEN_BYTES];
        let generation = server('a', 'b').generation(&token);
        assert!(generation.is_some());
        assert_eq!(server('a', 'b').generation(&token), generation);
        assert_ne!(server('c', 'b').generation(&token), generation, "another run");
        assert_ne!(server('a', 'c').generation(&token), generation, "promoted again");
        assert_ne!(server('b', 'a').generation(&token), generation, "the parts have an order");
        assert_ne!(server('a', 'b').generation(&[8; TOKEN_BYTES]), generation, "another token");
        assert_eq!(server('a', 'b').generation(&token[1..]), None);
    }

    #[test]
    fn only_a_primary_with_an_identity_is_accepted() {
        assert!(server('a', 'b').check(false).is_ok());
        let one = |role| info(&drawn('a'), &drawn('b'), role);
        assert!(Server::from_info(&one("slave")).unwrap().check(false).is_err());
        let node = one("master").replace("standalone", "cluster");
        assert!(Server::from_info(&node).unwrap().check(false).is_err());
    }

    #[test]
    fn an_identity_that_no_server_draws_is_named() {
        let masked = "0".repeat(40);
        for wrong in ["", "a", &masked, &"f".repeat(40), &drawn('a')[1..], &drawn('x'), &drawn('a').repeat(2)]
        {
            for (field, info) in [
                ("run_id", info(wrong, &drawn('b'), "master")),
                ("master_replid", info(&drawn('a'), wrong, "master")),
            ] {
                let error = groupcache_core::Error::from(Server::from_info(&info).unwrap_err());
                assert_eq!(error.kind(), ErrorKind::Configuration);
                assert!(error.to_string().contains(field), "{error}");
            }
        }
        let without = info(&drawn('a'), &drawn('b'), "master").replace("run_id", "other_id");
        let error = groupcache_core::Error::from(Server::from_info(&without).unwrap_err());
        assert!(
            error.to_string().contains("no `run_id`") && error.to_string().contains("Dragonfly"),
            "{error}"
        );
        let enterprise = info(&drawn('a'), &drawn('b'), "master") + "rlec_version:7.4.2-54\r\n";
        let error = groupcache_core::Error::from(Server::from_info(&enterprise).unwrap_err());
        assert!(error.to_string().contains("`rlec_version`"), "{error}");
    }

    #[test]
    fn a_primary_is_the_same_until_it_is_demoted() {
        let primary = server('a', 'b');
        assert!(primary.is_same_primary(&info("", &drawn('b'), "master")));
        assert!(!primary.is_same_primary(&info("", &drawn('b'), "slave")), "demoted");
        assert!(!primary.is_same_primary(&info("", &drawn('c'), "master")), "and promoted again");
        assert!(!primary.is_same_primary(""));
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(Version::parse("7.0.15") > Version::parse("6.2.14"));
        assert!(Version::parse("7.4.0-rc1") > Version(7, 3, 9));
        assert_eq!(Version::parse("8"), Version(8, 0, 0));
        assert_eq!(Version::parse("unknown"), Version(0, 0, 0));
    }
}
