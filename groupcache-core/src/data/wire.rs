//! Numbers and byte strings in the encodings of keys, groups and entries.

use smallvec::{Array, SmallVec};

/// A growable buffer to encode into.
pub(crate) trait Sink {
    fn put(&mut self, bytes: &[u8]);

    fn put_byte(&mut self, byte: u8) {
        self.put(&[byte]);
    }
}

impl Sink for Vec<u8> {
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_byte(&mut self, byte: u8) {
        self.push(byte);
    }
}

impl<const SIZE: usize> Sink for SmallVec<[u8; SIZE]>
where
    [u8; SIZE]: Array<Item = u8>,
{
    fn put(&mut self, bytes: &[u8]) {
        self.extend_from_slice(bytes);
    }

    fn put_byte(&mut self, byte: u8) {
        self.push(byte);
    }
}

/// Appends an unsigned number in LEB128: seven bits a byte, least significant first.
pub(crate) fn put_uint(out: &mut impl Sink, mut value: u128) {
    loop {
        let low = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            out.put_byte(low);
            return;
        }
        out.put_byte(low | 0x80);
    }
}

/// Appends the length of a byte string, then its bytes.
pub(crate) fn put_bytes(out: &mut impl Sink, bytes: &[u8]) {
    match u8::try_from(bytes.len()) {
        // The common case: the length fits in one byte.
        Ok(length) if length < 0x80 => out.put_byte(length),
        _ => put_uint(out, bytes.len() as u128),
    }
    out.put(bytes);
}

/// Decodes what [`put_uint`] and [`put_bytes`] wrote. Every method returns `None` for malformed input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    pub(crate) const fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Returns the next byte without taking it.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.rest.first().copied()
    }

    /// Returns what a copy of this reader has read since.
    pub(crate) fn until(&self, later: &Self) -> &'a [u8] {
        &self.rest[..self.rest.len() - later.rest.len()]
    }

    pub(crate) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(length)?;
        self.rest = tail;
        Some(head)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn uint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            // The tenth byte has room for one more bit only.
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// Returns a length or a count. One that exceeds the remaining input is malformed, so corrupted input
    /// never causes a large allocation.
    pub(crate) fn length(&mut self) -> Option<usize> {
        let length = usize::try_from(self.uint()?).ok()?;
        (length <= self.rest.len()).then_some(length)
    }

    pub(crate) fn bytes(&mut self) -> Option<&'a [u8]> {
        let length = self.length()?;
        self.take(length)
    }

    pub(crate) fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_round_trip_and_truncated_ones_do_not_decode() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut out = Vec::new();
            put_uint(&mut out, u128::from(value));
            assert_eq!(Reader::new(&out).uint(), Some(value));
            assert_eq!(Reader::new(&out[..out.len() - 1]).uint(), None);
        }
        assert_eq!(Reader::new(&[0xff; 11]).uint(), None);
        let too_large = [[0xff; 9].as_slice(), &[0x02]].concat();
        assert_eq!(Reader::new(&too_large).uint(), None);
    }

    #[test]
    fn byte_strings_of_all_lengths_round_trip() {
        for length in [0, 1, 127, 128, 129, 255, 256, 16_383, 16_384] {
            let bytes = vec![7; length];
            let mut out = Vec::new();
            put_bytes(&mut out, &bytes);
            let mut from = Reader::new(&out);
            assert_eq!(from.bytes(), Some(&*bytes), "{length}");
            assert_eq!(from.remaining(), 0);
        }
    }

    #[test]
    fn a_length_beyond_the_input_does_not_decode() {
        let mut out = Vec::new();
        put_uint(&mut out, 1 << 40);
        out.extend_from_slice(b"abc");
        assert_eq!(Reader::new(&out).bytes(), None);
    }
}
