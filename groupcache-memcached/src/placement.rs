//! The placement of items: the server that stores each, and its name there.

use groupcache_core::backend::LeaseName;
use groupcache_core::{Error, Group, Key, Result};
use smallvec::SmallVec;

use crate::error::NAME;
use crate::routing::ServerList;

/// A list of servers and the prefix of the keys on them.
#[derive(Debug, Clone)]
pub(crate) struct Placement {
    pub(crate) list: ServerList,
    /// For each server of the list, its position among all servers of the backend.
    servers: Vec<usize>,
    key_prefix: String,
}

/// The list of servers that a server belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    /// The backend's own list, and perhaps that of `overlap` too.
    Own,
    /// Only the list of `overlap`.
    OverlapOnly,
}

/// Where one item is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// The position of its server among all servers of the backend.
    pub(crate) server: usize,
    /// What the protocol calls a key: at most 250 visible characters.
    pub(crate) name: SmallVec<[u8; 128]>,
}

impl Placement {
    /// Appends the servers of `list` to `names`, the servers of the backend, unless they are in it already.
    pub(crate) fn new(list: ServerList, key_prefix: String, names: &mut Vec<String>) -> Result<Self> {
        if key_prefix.len() > PREFIX_BYTES_MAX || !key_prefix.bytes().all(|byte| byte.is_ascii_graphic()) {
            let message =
                format!("`key_prefix` must consist of at most {PREFIX_BYTES_MAX} visible ASCII characters");
            return Err(Error::configuration(NAME, message));
        }
        let mut position = |name: &String| {
            names.iter().position(|other| other == name).unwrap_or_else(|| {
                names.push(name.clone());
                names.len() - 1
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

    /// The kind and the hash have a fixed length, so items of different prefixes never have the same name.
    fn item(&self, kind: &[u8; 3], hash: &[u8; 32]) -> Item {
        let mut name = SmallVec::new();
        name.extend_from_slice(self.key_prefix.as_bytes());
        name.extend_from_slice(kind);
        name.extend_from_slice(blake3::Hash::from_bytes(*hash).to_hex().as_bytes());
        Item { server: self.servers[self.list.owner(hash)], name }
    }
}

/// The kind, and a hash in hexadecimal digits.
const SUFFIX_BYTES: usize = 3 + 64;
/// What the suffix leaves of the longest key that the protocol allows.
const PREFIX_BYTES_MAX: usize = 250 - SUFFIX_BYTES;

#[cfg(test)]
mod tests {
    use super::*;

    fn placement(url: &str, prefix: &str, names: &mut Vec<String>) -> Result<Placement> {
        Placement::new(ServerList::parse("url", url).unwrap(), prefix.into(), names)
    }

    #[test]
    fn item_names_are_short_and_visible_for_any_key_and_group() {
        let mut names = Vec::new();
        let prefix = "x".repeat(PREFIX_BYTES_MAX);
        let placement = placement("memcached://a,b", &prefix, &mut names).unwrap();
        let long = "\r\n \0é".repeat(10_000);
        let (key, group) = (Key::of(&long).unwrap(), Group::new(&long).with(&long, &long));
        for item in [placement.entry(&key), placement.generation(&group)] {
            assert_eq!(item.name.len(), 250);
            assert!(item.name.iter().all(u8::is_ascii_graphic));
        }
    }

    #[test]
    fn an_invalid_prefix_is_refused() {
        for prefix in ["a b", "a\r\n", "é", &"x".repeat(PREFIX_BYTES_MAX + 1)] {
            let error = placement("memcached://a", prefix, &mut Vec::new()).unwrap_err();
            assert!(error.to_string().contains("`key_prefix`"), "{error}");
        }
    }

    #[test]
    fn two_lists_share_the_servers_that_both_contain() {
        let mut names = Vec::new();
        let (old, new) = (
            placement("memcached://a,b", "p", &mut names).unwrap(),
            placement("memcached://c,b", "p", &mut names).unwrap(),
        );
        assert_eq!(names, ["a:11211", "b:11211", "c:11211"]);
        assert_eq!((old.servers, new.servers), (vec![0, 1], vec![2, 1]));
    }
}
