//! The names of keys in the store.

use groupcache_core::backend::LeaseName;
use groupcache_core::{Group, Key};

/// Names keys under one prefix.
///
/// A name is the prefix, a kind and a hash in hexadecimal digits. Kind and hash have a fixed length, so names
/// under different prefixes never collide.
#[derive(Debug)]
pub(crate) struct Names {
    prefix: String,
}

impl Names {
    pub(crate) const fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    pub(crate) fn entry(&self, key: &Key) -> Vec<u8> {
        self.name(ENTRY, &key.hash())
    }

    pub(crate) fn generation(&self, group: &Group) -> Vec<u8> {
        self.name(GENERATION, &group.hash())
    }

    pub(crate) fn lease(&self, lease: &LeaseName) -> Vec<u8> {
        self.name(LEASE, lease.as_bytes())
    }

    pub(crate) fn put_entry(&self, buffer: &mut Vec<u8>, key: &Key) {
        self.put(buffer, ENTRY, &key.hash());
    }

    pub(crate) fn put_generation(&self, buffer: &mut Vec<u8>, group: &Group) {
        self.put(buffer, GENERATION, &group.hash());
    }

    /// Returns the length of a name.
    pub(crate) const fn name_bytes(&self) -> usize {
        self.prefix.len() + SUFFIX_BYTES
    }

    fn name(&self, kind: &[u8; 3], hash: &[u8; 32]) -> Vec<u8> {
        let mut name = Vec::with_capacity(self.name_bytes());
        self.put(&mut name, kind, hash);
        name
    }

    fn put(&self, buffer: &mut Vec<u8>, kind: &[u8; 3], hash: &[u8; 32]) {
        buffer.extend_from_slice(self.prefix.as_bytes());
        buffer.extend_from_slice(kind);
        let mut digits = [[0; 2]; 32];
        for (pair, byte) in digits.iter_mut().zip(hash) {
            *pair = HEX[usize::from(*byte)];
        }
        buffer.extend_from_slice(digits.as_flattened());
    }
}

const ENTRY: &[u8; 3] = b":e:";
const GENERATION: &[u8; 3] = b":g:";
const LEASE: &[u8; 3] = b":l:";

/// The length of a kind and a hash in hexadecimal digits.
const SUFFIX_BYTES: usize = 3 + 64;

/// The two digits of each byte, in a table because every hit writes several names.
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
