//! What things are called in the store.

use groupcache_core::backend::LeaseName;

use groupcache_core::{Group, Key};

/// A hash in hexadecimal digits, and what stands before it.
const SUFFIX_BYTES: usize = 64 + 3;
/// How many slots a cluster has (<https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/>).
pub(crate) const SLOTS: u16 = 16_384;

const ENTRY: &[u8; 3] = b":e:";
const GENERATION: &[u8; 3] = b":g:";
const LEASE: &[u8; 3] = b":l:";

/// Each byte as two digits. Every key of every hit is written with it.
const HEX: [[u8; 2]; 256] = {
    let digits = b"0123456789abcdef";
    let mut all = [[0; 2]; 256];
    let mut byte = 0;
    while byte < all.len() {
        all[byte] = [digits[byte >> 4], digits[byte & 15]];
        byte += 1;
    }
    all
};

/// The names of everything under one prefix. The last 67 bytes say what it is, so different prefixes
/// never meet.
#[derive(Debug)]
pub(crate) struct Names(pub(crate) String);

impl Names {
    pub(crate) fn entry(&self, key: &Key) -> Vec<u8> {
        self.name(ENTRY, &key.hash())
    }

    pub(crate) fn generation(&self, group: &Group) -> Vec<u8> {
        self.name(GENERATION, &group.hash())
    }

    pub(crate) fn lease(&self, lease: &LeaseName) -> Vec<u8> {
        self.name(LEASE, lease.as_bytes())
    }

    /// Makes the name of a generation out of any other name.
    pub(crate) fn rename_to_generation(&self, name: &mut Vec<u8>, group: &Group) {
        name.truncate(self.0.len());
        put_suffix(name, GENERATION, &group.hash());
    }

    /// About how many bytes a name has.
    pub(crate) const fn name_bytes(&self) -> usize {
        self.0.len() + SUFFIX_BYTES
    }

    fn name(&self, kind: &[u8; 3], hash: &[u8; 32]) -> Vec<u8> {
        let mut name = Vec::with_capacity(self.name_bytes());
        name.extend_from_slice(self.0.as_bytes());
        put_suffix(&mut name, kind, hash);
        name
    }
}

fn put_suffix(name: &mut Vec<u8>, kind: &[u8; 3], hash: &[u8; 32]) {
    name.extend_from_slice(kind);
    let mut digits = [[0; 2]; 32];
    for (pair, byte) in digits.iter_mut().zip(hash) {
        *pair = HEX[usize::from(*byte)];
    }
    name.extend_from_slice(digits.as_flattened());
}

/// The slot that a key is in: CRC-16 (XMODEM) of it, or of what stands between its first braces, if
/// anything does.
pub(crate) fn slot(name: &[u8]) -> u16 {
    let tag = name.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &name[open + 1..];
        rest.iter().position(|byte| *byte == b'}').filter(|length| *length > 0).map(|length| &rest[..length])
    });
    let mut crc = 0_u16;
    for byte in tag.unwrap_or(name) {
        crc ^= u16::from(*byte) << 8;
        for _ in 0..8 {
            crc = if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 };
        }
    }
    crc % SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_server() {
        // As `CLUSTER KEYSLOT` answers.
        for (name, expected) in [
            ("123456789", 0x31c3 % SLOTS),
            ("foo", 12_182),
            ("bar", 5_061),
            ("{foo}bar", 12_182),
            ("x{foo}{bar}", 12_182),
            ("", 0),
        ] {
            assert_eq!(slot(name.as_bytes()), expected, "{name}");
        }
        assert_ne!(slot(b"{}foo"), slot(b"foo"), "empty braces are part of the name");
    }
}
