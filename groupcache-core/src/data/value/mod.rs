//! The encoding of cached values: a self-describing format for all of serde's data model.

mod decoder;
mod encoder;
mod format;

use serde::Serialize;
use serde::de::DeserializeOwned;

use self::decoder::Decoder;
use self::encoder::Encoder;
use self::format::ValueError;
use crate::data::wire::{Reader, Sink};
use crate::error::{CRATE_NAME, Error, ErrorKind, Result};

/// Encodes `value`, and checks that the encoding is decoded as the same value.
///
/// A type whose `Serialize` and `Deserialize` disagree would otherwise be another value at a hit, or never
/// be a hit. Equal is what is encoded alike, in any order of the elements of sequences and maps: those of a
/// `HashSet` and a `HashMap` have none.
pub(crate) fn encode<T: Serialize + DeserializeOwned>(value: &T) -> Result<Vec<u8>> {
    let mut body = vec![format::VERSION];
    value.serialize(Encoder::new(&mut body)).map_err(|error| refused(&error.0))?;
    #[cfg(groupcache_mutants)]
    if crate::mutants::is_on("unchecked_value") {
        return Ok(body);
    }
    let decoded: T = read(&body).map_err(|error| refused(&format!("it cannot be decoded: {error}")))?;
    let mut comparison = Comparison { expected: &body[1..], is_equal: true };
    decoded.serialize(Encoder::new(&mut comparison)).map_err(|error| refused(&error.0))?;
    if comparison.is_complete() || is_permuted(&body, &decoded) {
        return Ok(body);
    }
    Err(refused("it is decoded as another value; `Serialize` and `Deserialize` of its type disagree"))
}

/// Decodes what [`encode`] returned.
pub(crate) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    read(body).map_err(|error| Error::new(ErrorKind::Decode, CRATE_NAME).with_message(error.0))
}

/// Estimates how many bytes of the heap the decoded value takes, without its own `size_of`.
///
/// Counts every scalar as eight bytes, and every text and list with what an allocation of it takes.
pub(crate) fn heap_bytes(body: &[u8]) -> usize {
    let (mut from, mut bytes) = (Reader::new(body), 0);
    from.take(1);
    while let Some(tag) = from.peek() {
        from.take(1);
        bytes += match tag {
            format::U8 => skip(&mut from, 1, 8),
            format::U16..=format::U64 | format::I8..=format::I64 | format::CHAR => {
                from.uint().map_or(0, |_| 8)
            }
            format::U128 | format::I128 => skip(&mut from, 16, 16),
            format::F32 => skip(&mut from, 4, 8),
            format::F64 => skip(&mut from, 8, 8),
            format::STR | format::BYTES => from.bytes().map_or(0, |text| TEXT_BYTES + text.len()),
            format::SEQ => from.uint().map_or(0, |_| LIST_BYTES),
            format::MAP => {
                from.uint().map_or(0, |count| LIST_BYTES + 16 * usize::try_from(count).unwrap_or(0))
            }
            format::UNIT_VARIANT
            | format::NEWTYPE_VARIANT
            | format::TUPLE_VARIANT
            | format::STRUCT_VARIANT => from.bytes().map_or(0, |_| 8),
            // One byte of a list of bytes, usually.
            format::SMALL_U8.. => 2,
            _ => 0,
        };
    }
    bytes
}

const TEXT_BYTES: usize = 40;
const LIST_BYTES: usize = 40;

fn skip(from: &mut Reader<'_>, length: usize, bytes: usize) -> usize {
    from.take(length).map_or(0, |_| bytes)
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, ValueError> {
    let mut from = Reader::new(body);
    if from.array() != Some([format::VERSION]) {
        return Err(ValueError("the encoding is of another release".to_owned()));
    }
    let value = T::deserialize(Decoder::new(&mut from))?;
    if from.remaining() == 0 { Ok(value) } else { Err(ValueError::malformed()) }
}

fn refused(why: &str) -> Error {
    Error::new(ErrorKind::Encode, CRATE_NAME).with_message(why)
}

/// Compares what is encoded with what it should be, without keeping it.
struct Comparison<'a> {
    expected: &'a [u8],
    is_equal: bool,
}

impl Comparison<'_> {
    const fn is_complete(&self) -> bool {
        self.is_equal && self.expected.is_empty()
    }
}

impl Sink for Comparison<'_> {
    fn put(&mut self, bytes: &[u8]) {
        match self.expected.strip_prefix(bytes) {
            Some(rest) => self.expected = rest,
            None => self.is_equal = false,
        }
    }
}

/// Whether `decoded` is what `body` encodes, with the elements of sequences and maps in another order.
fn is_permuted<T: Serialize>(body: &[u8], decoded: &T) -> bool {
    let mut again = Vec::with_capacity(body.len());
    if decoded.serialize(Encoder::new(&mut again)).is_err() || again.len() + 1 != body.len() {
        return false;
    }
    let sorted = |encoded: &[u8]| {
        let mut out = Vec::with_capacity(encoded.len());
        sort(&mut Reader::new(encoded), &mut out).map(|()| out)
    };
    sorted(&body[1..]).is_some_and(|body| Some(body) == sorted(&again))
}

/// Appends the next value of `from`, with the elements of its sequences and maps sorted.
fn sort(from: &mut Reader<'_>, out: &mut Vec<u8>) -> Option<()> {
    let start = *from;
    let [tag] = from.array()?;
    match tag {
        format::SOME => {
            out.push(tag);
            return sort(from, out);
        }
        format::U8 => from.take(1).map(drop)?,
        format::U16..=format::U64 | format::I8..=format::I64 | format::CHAR => from.uint().map(drop)?,
        format::U128 | format::I128 => from.take(16).map(drop)?,
        format::F32 => from.take(4).map(drop)?,
        format::F64 => from.take(8).map(drop)?,
        format::STR | format::BYTES | format::UNIT_VARIANT => from.bytes().map(drop)?,
        format::SEQ | format::MAP => {
            from.uint()?;
            return sort_elements(tag, start, from, out);
        }
        format::TUPLE | format::STRUCT => return sort_elements(tag, start, from, out),
        format::NEWTYPE_VARIANT => {
            from.bytes()?;
            out.extend_from_slice(start.until(from));
            return sort(from, out);
        }
        format::TUPLE_VARIANT | format::STRUCT_VARIANT => {
            from.bytes()?;
            return sort_elements(tag, start, from, out);
        }
        _ => {}
    }
    out.extend_from_slice(start.until(from));
    Some(())
}

fn sort_elements(tag: u8, start: Reader<'_>, from: &mut Reader<'_>, out: &mut Vec<u8>) -> Option<()> {
    out.extend_from_slice(start.until(from));
    let (is_of_pairs, is_ordered) = match tag {
        format::SEQ => (false, false),
        format::MAP | format::STRUCT | format::STRUCT_VARIANT => (true, false),
        _ => (false, true),
    };
    let mut elements = Vec::new();
    while from.peek()? != format::END {
        let mut element = Vec::new();
        sort(from, &mut element)?;
        if is_of_pairs {
            sort(from, &mut element)?;
        }
        elements.push(element);
    }
    from.take(1)?;
    if !is_ordered {
        elements.sort_unstable();
    }
    elements.iter().for_each(|element| out.extend_from_slice(element));
    out.push(format::END);
    Some(())
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Shape {
        Unit,
        New(Option<()>),
        Pair(u8, char),
        Named { b: bool, a: f32 },
    }

    #[expect(clippy::needless_pass_by_value, reason = "keeps the golden rows short")]
    fn encoded<T: Serialize + DeserializeOwned>(value: T) -> Vec<u8> {
        encode(&value).unwrap()
    }

    #[test]
    fn the_encoding_never_changes() {
        let half = 0.5_f32.to_be_bytes();
        let golden: &[(Vec<u8>, &[u8])] = &[
            (encoded(()), b"\x01"),
            (encoded(None::<u8>), b"\x02"),
            (encoded(Some(())), b"\x03\x01"),
            (encoded((false, true)), b"\x16\x04\x05\x00"),
            (encoded(5_u8), b"\x85"),
            (encoded(200_u8), b"\x06\xc8"),
            (encoded(300_u16), b"\x07\xac\x02"),
            (encoded(300_u32), b"\x08\xac\x02"),
            (encoded(300_u64), b"\x09\xac\x02"),
            (encoded(1_u128), b"\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01"),
            (encoded(-1_i8), b"\x0b\x01"),
            (encoded(1_i16), b"\x0c\x02"),
            (encoded(-2_i32), b"\x0d\x03"),
            (encoded(-300_i64), b"\x0e\xd7\x04"),
            (encoded(-1_i128), &[b"\x0f", &[0xff; 16][..]].concat()),
            (encoded(0.5_f32), &[b"\x10", &half[..]].concat()),
            (encoded(0.5_f64), &[b"\x11", &0.5_f64.to_be_bytes()[..]].concat()),
            (encoded('é'), b"\x12\xe9\x01"),
            (encoded("é".to_owned()), b"\x13\x02\xc3\xa9"),
            (encoded(vec![1_u8, 2]), b"\x15\x02\x81\x82\x00"),
            (encoded(BTreeMap::from([(1_u8, 'a')])), b"\x17\x01\x81\x12\x61\x00"),
            (encoded(Shape::Unit), b"\x19\x04Unit"),
            (encoded(Shape::New(None)), b"\x1a\x03New\x02"),
            (encoded(Shape::Pair(1, 'a')), b"\x1b\x04Pair\x81\x12\x61\x00"),
            (
                encoded(Shape::Named { b: true, a: 0.5 }),
                &[b"\x1c\x05Named\x13\x01b\x05\x13\x01a\x10", &half[..], b"\x00"].concat(),
            ),
        ];
        for (encoded, expected) in golden {
            assert_eq!(encoded[0], 0xc1);
            assert_eq!(encoded[1..].escape_ascii().to_string(), expected.escape_ascii().to_string());
        }
    }

    #[test]
    fn a_type_that_gained_fields_and_options_reads_what_was_stored_before() {
        #[derive(Serialize, Deserialize)]
        struct Old {
            id: u32,
            gone: Vec<Shape>,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        struct New {
            #[serde(default)]
            pages: u8,
            id: Option<u64>,
        }
        let gone = vec![Shape::Unit, Shape::New(None), Shape::Pair(1, 'a'), Shape::Named { b: true, a: 0.5 }];
        let old = encoded(Old { id: 5, gone });
        assert_eq!(decode::<New>(&old).unwrap(), New { pages: 0, id: Some(5) });
    }

    #[test]
    fn elements_are_in_any_order_in_sequences_and_maps_only() {
        let permuted = |body: &[u8], other: &Value| is_permuted(body, other);
        let body = encoded(serde_json::json!([1, {"a": [], "b": 2}]));
        assert!(permuted(&body, &serde_json::json!([{"b": 2, "a": []}, 1])));
        assert!(!permuted(&body, &serde_json::json!([1, {"a": 2, "b": []}])));
        assert!(!is_permuted(&encoded((1_u8, 2_u8)), &(2_u8, 1_u8)));
        let map = |pairs: [(u8, u8); 2]| HashMap::from(pairs);
        assert!(is_permuted(&encoded(map([(1, 2), (3, 4)])), &map([(3, 4), (1, 2)])));
        assert!(!is_permuted(&encoded(map([(1, 2), (3, 4)])), &map([(1, 4), (3, 2)])));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(4096) })]

        #[test]
        fn no_bytes_make_decoding_panic(bytes in prop::collection::vec(prop_oneof![0..0x20_u8, any::<u8>()], 0..64)) {
            let mut body = vec![format::VERSION];
            body.extend(bytes);
            drop(decode::<Value>(&body));
            drop(decode::<(Shape, HashMap<String, Option<Shape>>)>(&body));
            sort(&mut Reader::new(&body[1..]), &mut Vec::new()).unwrap_or_default();
        }
    }

    #[test]
    fn corrupted_nesting_is_an_error() {
        for tag in [format::SOME, format::TUPLE, format::STRUCT] {
            assert!(decode::<Value>(&[vec![format::VERSION], vec![tag; 1 << 20]].concat()).is_err());
        }
    }
}
