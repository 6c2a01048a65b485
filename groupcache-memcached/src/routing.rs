//! Decides which server owns which key.
//!
//! This is rendezvous hashing, also called highest random weight (Thaler and Ravishankar, 1998): each server
//! has a weight for each key, and the server with the highest weight owns the key. Adding or removing a
//! server moves only the keys of that server.
//!
//! The functions in this file must never change. Processes that route differently do not see each other's
//! invalidations.

use std::net::Ipv6Addr;

use groupcache_core::{Error, Result};

use crate::error::NAME;

/// A list of servers and how keys are spread over them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerList {
    /// `host:port`, as given, in lower case.
    names: Vec<String>,
    seeds: Vec<u64>,
}

impl ServerList {
    /// Parses `memcached://host:port,host:port`. Errors name `setting`, and repeat nothing that is not a valid
    /// address: it may be a password.
    pub(crate) fn parse(setting: &str, url: &str) -> Result<Self> {
        let invalid = |problem: &str| {
            let message = format!("`{setting}` {problem}; expected `memcached://host:port,host:port`");
            Error::configuration(NAME, message)
        };
        let list = url.strip_prefix(SCHEME).ok_or_else(|| invalid("does not begin with `memcached://`"))?;
        if list.contains('@') {
            let problem = "contains a user name or a password, which this backend does not support";
            return Err(invalid(problem));
        }
        let mut names = Vec::new();
        for (position, address) in (1..).zip(list.strip_suffix('/').unwrap_or(list).split(',')) {
            let name = normalized(address);
            #[cfg(groupcache_mutants)]
            if name.is_none() && groupcache_core::mutants::is_on("repeated_address") {
                return Err(invalid(&format!("contains the invalid address `{address}`")));
            }
            let name = name.ok_or_else(|| {
                invalid(&format!("contains an invalid address at position {position} of the list"))
            })?;
            if names.contains(&name) {
                return Err(invalid(&format!("contains `{name}` twice")));
            }
            names.push(name);
        }
        let seeds = names.iter().map(|name| seed(name)).collect();
        Ok(Self { names, seeds })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    /// Returns the position in the list of the server that owns the key with this hash.
    pub(crate) fn owner(&self, hash: &[u8; 32]) -> usize {
        let [a, b, c, d, e, f, g, h, ..] = *hash;
        let key = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        let weights = self.seeds.iter().map(|seed| weight(*seed, key));
        // The name decides between equal weights, so that the order of the list does not matter.
        let best = weights.zip(&self.names).enumerate().max_by(|(_, one), (_, other)| one.cmp(other));
        best.map_or(0, |(at, _)| at)
    }
}

/// The weight of a server for a key: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014) over both.
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

/// Returns the address as `host:port` in lower case, or `None` if it is invalid.
fn normalized(address: &str) -> Option<String> {
    let address = address.trim().to_ascii_lowercase();
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<Ipv6Addr>().ok()?;
            (format!("[{host}]"), port.strip_prefix(':').or_else(|| port.is_empty().then_some("")))
        }
        None => match address.split_once(':') {
            Some((host, port)) => (host.to_owned(), Some(port)),
            None => (address, Some("")),
        },
    };
    let port = match port? {
        "" => PORT_DEFAULT,
        port => port.parse().ok().filter(|port| *port != 0)?,
    };
    let is_host = |letter: char| letter.is_ascii_alphanumeric() || "-_.[]:".contains(letter);
    (!host.is_empty() && host.chars().all(is_host)).then(|| format!("{host}:{port}"))
}

const SCHEME: &str = "memcached://";
const PORT_DEFAULT: u16 = 11211;

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
    fn keys_are_spread_evenly_for_any_names_of_servers() {
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
    fn removing_a_server_moves_only_its_own_keys_and_spreads_them_evenly() {
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
    fn addresses_are_normalized_and_invalid_ones_refused() {
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
