//! Where things are: on which server, and under which name there.

use groupcache_core::backend::LeaseName;

use groupcache_core::{Error, Group, Key, Result};
use smallvec::SmallVec;

use crate::error::NAME;
use crate::routing::ServerList;

/// A hash in hexadecimal digits, and what stands before it.
const SUFFIX_BYTES: usize = 64 + 3;
/// The protocol's limit for a key, less that.
const PREFIX_BYTES_MAX: usize = 250 - SUFFIX_BYTES;

/// A list of servers and the prefix of the keys on them.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) list: ServerList,
    /// Which servers those of the list are among all that the backend knows.
    servers: Vec<usize>,
    key_prefix: String,
}

/// One key of one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) server: usize,
    /// At most 250 visible characters, whatever it is the name of.
    pub(crate) name: SmallVec<[u8; 128]>,
}

impl Placement {
    /// Adds the servers of the list to `known`, those that are not in it.
    pub(crate) fn new(list: ServerList, key_prefix: String, known: &mut Vec<String>) -> Result<Self> {
        if key_prefix.len() > PREFIX_BYTES_MAX || !key_prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message = format!("`key_prefix` is at most {PREFIX_BYTES_MAX} visible ASCII characters");
            return Err(Error::configuration(NAME, message));
        }
        let mut position = |name: &String| {
            known.iter().position(|other| other == name).unwrap_or_else(|| {
                known.push(name.clone());
                known.len() - 1
            })
        };
        let servers = list.names().iter().map(&mut position).collect();
        Ok(Self { list, servers, key_prefix })
    }

    pub(crate) fn key_prefix(&self) -> &str {
        &self.key_prefix
    }

    pub(crate) fn entry(&self, key: &Key) -> Item {
        self.item(b":e:", &key.hash())
    }

    pub(crate) fn generation(&self, group: &Group) -> Item {
        self.item(b":g:", &group.hash())
    }

    pub(crate) fn lease(&self, name: &LeaseName) -> Item {
        self.item(b":l:", name.as_bytes())
    }

    /// The last 67 bytes say what it is, so different prefixes never meet.
    fn item(&self, kind: &[u8; 3], hash: &[u8; 32]) -> Item {
        let mut name = SmallVec::new();
        name.extend_from_slice(self.key_prefix.as_bytes());
        name.extend_from_slice(kind);
        name.extend_from_slice(blake3::Hash::from_bytes(*hash).to_hex().as_bytes());
        Item { server: self.servers[self.list.owner(hash)], name }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(url: &str, prefix: &str, known: &mut Vec<String>) -> Result<Placement> {
        Placement::new(ServerList::parse("url", url).unwrap(), prefix.into(), known)
    }

    #[test]
    fn names_are_short_and_visible_whatever_they_name() {
        let mut known = Vec::new();
        let prefix = "x".repeat(PREFIX_BYTES_MAX);
        let placement = placement("memcached://a,b", &prefix, &mut known).unwrap();
        let long = "\r\n \0é".repeat(10_000);
        let (key, group) = (Key::of(&long).unwrap(), Group::new(&long).with(&long, &long));
        for item in [placement.entry(&key), placement.generation(&group)] {
            assert_eq!(item.name.len(), 250);
            assert!(item.name.iter().all(u8::is_ascii_graphic));
        }
    }

    #[test]
    fn a_prefix_that_will_not_do_is_refused() {
        for prefix in ["a b", "a\r\n", "é", &"x".repeat(PREFIX_BYTES_MAX + 1)] {
            let error = placement("memcached://a", prefix, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("`key_prefix`"), "{error}");
        }
    }

    #[test]
    fn two_lists_share_the_servers_that_are_in_both() {
        let mut known = Vec::new();
        let (old, new) = (
            placement("memcached://a,b", "p", &mut known).unwrap(),
            placement("memcached://c,b", "p", &mut known).unwrap(),
        );
        assert_eq!(known, ["a:11211", "b:11211", "c:11211"]);
        assert_eq!((old.servers, new.servers), (vec![0, 1], vec![2, 1]));
    }
}
