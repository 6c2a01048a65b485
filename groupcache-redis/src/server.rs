//! What a server says about itself, and which of its lives it is in.

use groupcache_core::backend::Generation;

use groupcache_core::ErrorKind;

use crate::error::Failure;

/// Redis 7.0 has `SET` with `NX` and `GET` together, and `PEXPIRE` with `GT`.
const SET_NX_GET: Version = Version(7, 0, 0);

/// How many bytes the token of a group has in the store.
pub(crate) const TOKEN_BYTES: usize = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(pub(crate) u32, pub(crate) u32, pub(crate) u32);

/// One life of one server, as its `INFO` told when the connection was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    /// Drawn when the process started (<https://redis.io/docs/latest/commands/info/>).
    run_id: String,
    /// Drawn when it became a primary, among other occasions. A primary that was demoted, took over
    /// an older data set from another one and was promoted again is the same process.
    replication_id: String,
    pub(crate) version: Version,
    is_primary: bool,
    is_cluster: bool,
    /// Of a node of a cluster: raised when it is given a slot by another node, or wins one as a replica.
    pub(crate) epoch: Option<u64>,
    /// A digest of all that makes it this life.
    incarnation: u128,
}

impl Server {
    pub(crate) fn from_info(info: &str) -> Result<Self, Failure> {
        let field = |name: &str| {
            info_field(info, name).ok_or_else(|| {
                Failure::protocol(format!(
                    "`INFO` has no `{name}`, without which an entry from before a restart could not be told \
                     from a new one"
                ))
            })
        };
        let run_id = field("run_id")?.to_owned();
        let replication_id = field("master_replid")?.to_owned();
        let mut digest = blake3::Hasher::new_derive_key("groupcache-redis 2026-11 one life of one server");
        for part in [&run_id, &replication_id] {
            digest.update(&(part.len() as u64).to_be_bytes()).update(part.as_bytes());
        }
        let epoch = epoch_of(info)?;
        if let Some(epoch) = epoch {
            digest.update(&epoch.to_be_bytes());
        }
        #[cfg(groupcache_mutants)]
        if groupcache_core::mutants::is_on("no_incarnation") {
            digest.reset();
        }
        let mut incarnation = [0; 16];
        digest.finalize_xof().fill(&mut incarnation);
        Ok(Self {
            incarnation: u128::from_be_bytes(incarnation),
            run_id,
            replication_id,
            epoch,
            version: Version::parse(field("redis_version")?),
            is_primary: field("role")? == "master",
            is_cluster: info_field(info, "redis_mode") == Some("cluster"),
        })
    }

    /// Whether generations may be read here.
    pub(crate) fn check(&self, in_cluster: bool) -> Result<(), Failure> {
        if self.is_cluster && !in_cluster {
            return Err(Failure::new(
                ErrorKind::Configuration,
                "`url` is a node of a Redis Cluster, of which one node alone guards a part only; see `cluster`",
            ));
        }
        if in_cluster && self.epoch.is_none() {
            return Err(Failure::new(
                ErrorKind::Configuration,
                "`cluster` is set, and this is no node of one",
            ));
        }
        if !self.is_primary {
            let message = "the server is a replica; generations are read from primaries only";
            return Err(Failure::new(ErrorKind::Unavailable, message));
        }
        Ok(())
    }

    /// The generation that this token stands for in this life of this server; `None` for what is no
    /// token of ours.
    ///
    /// Each group of every hit goes through here, so it is one exclusive or, which is as good as a hash:
    /// with one life different tokens are different generations, with one token different lives are, and
    /// where both differ it is as unlikely as that two tokens are equal, being random and independent.
    pub(crate) fn generation(&self, token: &[u8]) -> Option<Generation> {
        let token: [u8; TOKEN_BYTES] = token.try_into().ok()?;
        Generation::new(u128::from_be_bytes(token) ^ self.incarnation)
    }

    /// The same life as seen through `owner`, which still has the slot and said that this server has the
    /// key already. Until the slot is its own, nothing in this server's life tells that what it was given
    /// may be older than what it had before; the owner's life tells.
    pub(crate) fn importing_from(&self, owner: &Self) -> Self {
        let mut digest = blake3::Hasher::new_derive_key("groupcache-redis 2026-11 a key on its way");
        digest.update(&self.incarnation.to_be_bytes()).update(&owner.incarnation.to_be_bytes());
        let mut incarnation = [0; 16];
        digest.finalize_xof().fill(&mut incarnation);
        Self { incarnation: u128::from_be_bytes(incarnation), ..self.clone() }
    }

    pub(crate) fn has_set_nx_get(&self) -> bool {
        self.version >= SET_NX_GET
    }
}

/// The configuration epoch of a node, from its answer to `CLUSTER INFO`.
pub(crate) fn epoch_of(info: &str) -> Result<Option<u64>, Failure> {
    let epoch = info_field(info, "cluster_my_epoch").map(str::parse);
    epoch.transpose().map_err(|_| Failure::unexpected("CLUSTER INFO"))
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

/// A field of the answer to `INFO`.
pub(crate) fn info_field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(run_id: &str, replication_id: &str, role: &str) -> String {
        format!(
            "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nrun_id:{run_id}\r\n\
             # Replication\r\nrole:{role}\r\nmaster_replid:{replication_id}\r\n"
        )
    }

    fn server(run_id: &str, replication_id: &str) -> Server {
        Server::from_info(&info(run_id, replication_id, "master")).unwrap()
    }

    #[test]
    fn a_generation_is_the_token_and_the_life_of_the_server() {
        let token = [7; TOKEN_BYTES];
        let generation = server("a", "x").generation(&token);
        assert!(generation.is_some());
        assert_eq!(server("a", "x").generation(&token), generation);
        assert_ne!(server("b", "x").generation(&token), generation, "another run");
        assert_ne!(server("a", "y").generation(&token), generation, "promoted again");
        assert_ne!(server("ax", "").generation(&token), generation, "the parts are told apart");
        assert_ne!(server("a", "x").generation(&[8; TOKEN_BYTES]), generation, "another token");
        assert_eq!(server("a", "x").generation(&token[1..]), None);
    }

    #[test]
    fn only_a_primary_with_an_identity_will_do() {
        assert!(server("a", "x").check(false).is_ok());
        assert!(Server::from_info(&info("a", "x", "slave")).unwrap().check(false).is_err());
        let without = info("a", "x", "master").replace("run_id", "walk_id");
        assert!(Server::from_info(&without).is_err());
        let node = info("a", "x", "master").replace("standalone", "cluster");
        assert!(Server::from_info(&node).unwrap().check(false).is_err());
    }

    #[test]
    fn versions_compare_by_their_numbers() {
        assert!(Version::parse("7.0.15") > Version::parse("6.2.14"));
        assert!(Version::parse("7.4.0-rc1") > Version(7, 3, 9));
        assert_eq!(Version::parse("8"), Version(8, 0, 0));
        assert_eq!(Version::parse("unknown"), Version(0, 0, 0));
    }
}
