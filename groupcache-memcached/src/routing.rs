//! Which server has which key.
//!
//! Rendezvous hashing, also called highest random weight (Thaler and Ravishankar, 1998): each server
//! has a weight for each key, and the key is on the server with the highest. Servers that come or go
//! move no keys but their own.
//!
//! Everything here is fixed for ever: a process that routed otherwise would look for generations where
//! others do not put them.

use groupcache_core::{Error, Result};

use crate::error::NAME;

const SCHEME: &str = "memcached://";
const DEFAULT_PORT: u16 = 11211;

/// A list of servers and how keys are spread over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerList {
    /// `host:port`, as they were written, in lower case.
    names: Vec<String>,
    seeds: Vec<u64>,
}

impl ServerList {
    /// SharedReads `memcached://host:port,host:port`. `setting` is named in errors.
    pub(crate) fn parse(setting: &str, url: &str) -> Result<Self> {
        let wrong = |what: &str| {
            Error::configuration(
                NAME,
                format!("`{setting}` {what}; expected `memcached://host:port,host:port`"),
            )
        };
        let list = url.strip_prefix(SCHEME).ok_or_else(|| wrong("does not begin with `memcached://`"))?;
        let mut names = Vec::new();
        for address in list.strip_suffix('/').unwrap_or(list).split(',') {
            let name =
                name(address).ok_or_else(|| wrong(&format!("has the address `{address}`, which is none")))?;
            if names.contains(&name) {
                return Err(wrong(&format!("has `{name}` twice")));
            }
            names.push(name);
        }
        let seeds = names.iter().map(|name| seed(name)).collect();
        Ok(Self { names, seeds })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// The position in the list of the server that has the key of this hash.
    pub(crate) fn owner(&self, hash: &[u8; 32]) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = *hash;
        let key = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let weights = self.seeds.iter().map(|seed| weight(*seed, key));
        // Of equal weights, which are as rare as equal hashes, the one that does not depend on the order
        // of the list.
        let best = weights.zip(&self.names).enumerate().max_by(|(_, one), (_, other)| one.cmp(other));
        best.map_or(0, |(at, _)| at)
    }
}

/// The weight of a server for a key: the finaliser of SplitMix64 (Steele, Lea and Flood, 2014) over both.
const fn weight(seed: u64, key: u64) -> u64 {
    let mut mixed = seed ^ key;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn seed(name: &str) -> u64 {
    let hash = blake3::derive_key("groupcache-memcached 2026-11 one server of several", name.as_bytes());
    let [a, b, c, d, e, f, g, h, ..] = hash;
    u64::from_be_bytes([a, b, c, d, e, f, g, h])
}

/// `host:port`; `None` if it is no address.
fn name(address: &str) -> Option<String> {
    let address = address.trim().to_ascii_lowercase();
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (format!("[{host}]"), port.strip_prefix(':').or_else(|| port.is_empty().then_some("")))
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (address, Some("")),
        },
    };
    let port = match port? {
        "" => DEFAULT_PORT,
        port => port.parse().ok().filter(|port| *port != 0)?,
    };
    let is_host = |letter: char| letter.is_ascii_alphanumeric() || "-_.[]:".contains(letter);
    (!host.is_empty() && host.chars().all(is_host)).then(|| format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(url: &str) -> ServerList {
        ServerList::parse("url", url).unwrap()
    }

    fn keys(count: u64) -> impl Iterator<Item = [u8; 32]> {
        (0..count).map(|number| *blake3::hash(&number.to_be_bytes()).as_bytes())
    }

    fn owner(list: &ServerList, hash: &[u8; 32]) -> String {
        list.names()[list.owner(hash)].clone()
    }

    #[test]
    fn routing_never_changes() {
        assert_eq!(seed("10.0.0.1:11211"), 5_232_931_982_572_698_179);
        let three = list("memcached://10.0.0.1,10.0.0.2,10.0.0.3");
        let owners: String = keys(64).map(|key| ["1", "2", "3"][three.owner(&key)]).collect();
        assert_eq!(owners, "3122323311232212111333212111321331313312312113231122322332121313");
    }

    #[test]
    fn keys_are_spread_evenly_whatever_the_servers_are_called() {
        for names in ["a,b,c", "10.0.0.1,10.0.0.2,10.0.0.3,10.0.0.4,10.0.0.5", "h:1,h:2,h:3,h:4,h:5,h:6,h:7"]
        {
            let list = list(&format!("memcached://{names}"));
            let mut counts = vec![0_u64; list.names().len()];
            keys(100_000).for_each(|key| counts[list.owner(&key)] += 1);
            let fair = 100_000 / counts.len() as u64;
            assert!(counts.iter().all(|count| count.abs_diff(fair) < fair / 20), "{counts:?}");
        }
    }

    #[test]
    fn a_server_that_goes_moves_its_own_keys_only_and_evenly() {
        let before = list("memcached://a,b,c,d");
        let after = list("memcached://a,c,d");
        let mut moved = [0_u64; 3];
        for key in keys(40_000) {
            if owner(&before, &key) == "b:11211" {
                moved[after.owner(&key)] += 1;
            } else {
                assert_eq!(owner(&before, &key), owner(&after, &key));
            }
        }
        assert!(moved.iter().all(|count| count.abs_diff(3_333) < 333), "{moved:?}");
    }

    #[test]
    fn the_order_of_the_list_does_not_matter() {
        let (one, other) = (list("memcached://a,b,c"), list("memcached://c,b,a"));
        assert!(keys(1_000).all(|key| owner(&one, &key) == owner(&other, &key)));
    }

    #[test]
    fn addresses_are_named_in_one_way() {
        let names = list("memcached://Cache-1.Example,127.0.0.1:1,[::1],[::1]:2/");
        assert_eq!(names.names(), ["cache-1.example:11211", "127.0.0.1:1", "[::1]:11211", "[::1]:2"]);
        for url in [
            "",
            "a",
            "redis://a",
            "memcached://",
            "memcached://a,",
            "memcached://a:x",
            "memcached://a:0",
            "memcached://a:1:2",
            "memcached://a b",
            "memcached://[::1",
            "memcached://[x]:1",
            "memcached://a,A:11211",
            "memcached://user@a",
        ] {
            let error = ServerList::parse("url", url).unwrap_err();
            assert!(error.to_string().contains("`url`"), "{url}: {error}");
        }
    }
}
