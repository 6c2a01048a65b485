//! A serde serializer with an injective output that is the same in every process and on every platform.
//!
//! Every value starts with a tag. Strings, byte strings and numbers delimit themselves; sequences and maps
//! end with a tag. No encoding is a prefix of another one, so a sequence of encodings decodes in only one
//! way. Structs and enums have their names in front.
//!
//! Maps are written in the order of their encoded keys, and hash sets in that of their encoded elements. serde
//! presents a set as a sequence, so only the name of the type tells it apart.

use std::any::type_name;
use std::cell::Cell;
use std::fmt;

use serde::ser::{self, Serialize};

use crate::data::hash_set::{is_hash_set, may_be_hash_set};
use crate::data::wire::{put_bytes, put_uint};
use crate::error::{CRATE_NAME, Error, ErrorKind, Result};

/// Encodes `value` and passes the encoding to `read`.
///
/// With a `name`, the encoding differs from that of every value without one and with another name.
pub(crate) fn with_encoded<T: Serialize + ?Sized, R>(
    name: Option<&str>,
    value: &T,
    read: impl FnOnce(&[u8]) -> R,
) -> Result<R> {
    // Taken out of the thread local, because `Serialize` of a value may itself encode a key.
    let mut out = BUFFER.take();
    out.clear();
    if let Some(name) = name {
        out.push(SPACE);
        put_bytes(&mut out, name.as_bytes());
    }
    let outcome = match encode(value, &mut out) {
        Ok(()) => Ok(read(&out)),
        Err(EncodeError(message)) => Err(Error::new(ErrorKind::Encode, CRATE_NAME).with_message(message)),
    };
    if out.capacity() <= BUFFER_BYTES_MAX {
        BUFFER.set(out);
    }
    outcome
}

fn encode<T: Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let name = type_name::<T>();
    value.serialize(Encoder { out, may_be_hash_set: may_be_hash_set(name).then_some(name) })
}

struct Encoder<'a> {
    out: &'a mut Vec<u8>,
    /// The name of the value's type, unless it is certainly no hash set.
    may_be_hash_set: Option<&'static str>,
}

struct Sequence<'a> {
    out: &'a mut Vec<u8>,
    /// The encoded elements of a hash set, which are written in their order.
    set: Option<Vec<Vec<u8>>>,
}

/// Collects the entries, because they are written in the order of their encoded keys.
struct Map<'a> {
    out: &'a mut Vec<u8>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug)]
struct EncodeError(String);

impl Encoder<'_> {
    #[inline]
    fn integer(self, value: i128) {
        if value < 0 {
            self.out.push(NEGATIVE);
            put_uint(self.out, (!value).unsigned_abs());
        } else {
            self.natural(value.unsigned_abs());
        }
    }

    #[inline]
    fn natural(self, value: u128) {
        self.out.push(NATURAL);
        put_uint(self.out, value);
    }

    #[inline]
    fn text(self, tag: u8, text: &str) -> Self {
        self.out.push(tag);
        put_bytes(self.out, text.as_bytes());
        self
    }

    /// Writes the name of a struct or an enum, which keeps types with equal fields apart.
    #[inline]
    fn named(self, name: &str) -> Self {
        self.text(NAMED, name)
    }

    #[inline]
    fn variant(self, name: &str, variant: &str) -> Self {
        self.named(name).text(VARIANT, variant)
    }
}

impl<'a> Encoder<'a> {
    #[inline]
    fn sequence(self) -> Sequence<'a> {
        self.out.push(SEQ);
        let is_set = self.may_be_hash_set.is_some_and(is_hash_set);
        Sequence { out: self.out, set: is_set.then(Vec::new) }
    }

    fn map(self) -> Map<'a> {
        self.out.push(MAP);
        Map { out: self.out, entries: Vec::new() }
    }
}

impl Sequence<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let Some(set) = &mut self.set else { return encode(value, self.out) };
        let mut encoded = Vec::new();
        encode(value, &mut encoded)?;
        set.push(encoded);
        Ok(())
    }

    #[inline]
    fn finish(self) {
        if let Some(elements) = self.set {
            put_sorted(self.out, elements);
        }
        self.out.push(END);
    }
}

impl Map<'_> {
    fn entry<T: Serialize + ?Sized>(&mut self, key: Vec<u8>, value: &T) -> Result<(), EncodeError> {
        let mut encoded = Vec::new();
        encode(value, &mut encoded)?;
        self.entries.push((key, encoded));
        Ok(())
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), EncodeError> {
        let mut key = Vec::with_capacity(name.len() + 2);
        encode(name, &mut key)?;
        self.entry(key, value)
    }

    fn finish(mut self) {
        self.entries.sort();
        for (key, value) in self.entries {
            self.out.extend_from_slice(&key);
            self.out.extend_from_slice(&value);
        }
        self.out.push(END);
    }
}

#[cold]
fn put_sorted(out: &mut Vec<u8>, mut elements: Vec<Vec<u8>>) {
    elements.sort_unstable();
    elements.iter().for_each(|element| out.extend_from_slice(element));
}

macro_rules! integers {
    ($($method:ident: $type:ty => $via:ident),* $(,)?) => {
        $(#[inline]
        fn $method(self, value: $type) -> Result<(), EncodeError> {
            self.$via(value.into());
            Ok(())
        })*
    };
}

impl<'a> ser::Serializer for Encoder<'a> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Sequence<'a>;
    type SerializeTuple = Sequence<'a>;
    type SerializeTupleStruct = Sequence<'a>;
    type SerializeTupleVariant = Sequence<'a>;
    type SerializeMap = Map<'a>;
    type SerializeStruct = Map<'a>;
    type SerializeStructVariant = Map<'a>;

    integers! {
        serialize_i8: i8 => integer, serialize_i16: i16 => integer, serialize_i32: i32 => integer,
        serialize_i64: i64 => integer, serialize_i128: i128 => integer,
        serialize_u8: u8 => natural, serialize_u16: u16 => natural, serialize_u32: u32 => natural,
        serialize_u64: u64 => natural, serialize_u128: u128 => natural,
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), EncodeError> {
        self.out.push(if value { TRUE } else { FALSE });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), EncodeError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), EncodeError> {
        self.out.push(FLOAT);
        self.out.extend_from_slice(&value.to_bits().to_be_bytes());
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), EncodeError> {
        self.out.push(CHAR);
        put_uint(self.out, u32::from(value).into());
        Ok(())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), EncodeError> {
        self.text(STR, value);
        Ok(())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), EncodeError> {
        self.out.push(BYTES);
        put_bytes(self.out, value);
        Ok(())
    }

    #[inline]
    fn serialize_none(self) -> Result<(), EncodeError> {
        self.out.push(NONE);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        self.out.push(SOME);
        encode(value, self.out)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), EncodeError> {
        self.out.push(UNIT);
        Ok(())
    }

    fn serialize_unit_struct(self, name: &'static str) -> Result<(), EncodeError> {
        self.named(name).serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), EncodeError> {
        self.variant(name, variant).serialize_unit()
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        encode(value, self.named(name).out)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        encode(value, self.variant(name, variant).out)
    }

    #[inline]
    fn serialize_seq(self, _: Option<usize>) -> Result<Sequence<'a>, EncodeError> {
        Ok(self.sequence())
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Sequence<'a>, EncodeError> {
        Ok(self.sequence())
    }

    fn serialize_tuple_struct(self, name: &'static str, _: usize) -> Result<Sequence<'a>, EncodeError> {
        Ok(self.named(name).sequence())
    }

    fn serialize_tuple_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Sequence<'a>, EncodeError> {
        Ok(self.variant(name, variant).sequence())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map<'a>, EncodeError> {
        Ok(self.map())
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Map<'a>, EncodeError> {
        Ok(self.named(name).map())
    }

    fn serialize_struct_variant(
        self,
        name: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Map<'a>, EncodeError> {
        Ok(self.variant(name, variant).map())
    }
}

macro_rules! sequences {
    ($($trait:ident::$method:ident),* $(,)?) => {
        $(impl ser::$trait for Sequence<'_> {
            type Ok = ();
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
                self.element(value)
            }

            #[inline]
            fn end(self) -> Result<(), EncodeError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

sequences! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

impl ser::SerializeMap for Map<'_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        let mut encoded = Vec::new();
        encode(key, &mut encoded)?;
        self.entries.push((encoded, Vec::new()));
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        match self.entries.last_mut() {
            Some((_, encoded)) => encode(value, encoded),
            None => Err(ser::Error::custom("the value of a map came before its key")),
        }
    }

    fn end(self) -> Result<(), EncodeError> {
        self.finish();
        Ok(())
    }
}

macro_rules! structs {
    ($($trait:ident),* $(,)?) => {
        $(impl ser::$trait for Map<'_> {
            type Ok = ();
            type Error = EncodeError;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), EncodeError> {
                self.field(name, value)
            }

            fn end(self) -> Result<(), EncodeError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

structs!(SerializeStruct, SerializeStructVariant);

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for EncodeError {}

impl ser::Error for EncodeError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

thread_local! {
    /// Reused, because every read encodes a key.
    static BUFFER: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// A larger buffer is freed after use.
const BUFFER_BYTES_MAX: usize = 1 << 16;

const END: u8 = 0x00;
const UNIT: u8 = 0x01;
const NONE: u8 = 0x02;
const SOME: u8 = 0x03;
const FALSE: u8 = 0x04;
const TRUE: u8 = 0x05;
const NATURAL: u8 = 0x06;
/// Tag of a negative integer, which is written as its bitwise complement: a natural number too.
const NEGATIVE: u8 = 0x07;
const FLOAT: u8 = 0x08;
const CHAR: u8 = 0x09;
const STR: u8 = 0x0a;
const BYTES: u8 = 0x0b;
const SEQ: u8 = 0x0c;
const MAP: u8 = 0x0d;
const VARIANT: u8 = 0x0e;
/// Tag of the name of a struct or an enum, followed by its value.
const NAMED: u8 = 0x0f;
/// Tag of the name that the caller gave a key, followed by its value.
const SPACE: u8 = 0x10;

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
        with_encoded(None, value, <[u8]>::to_vec)
    }

    #[test]
    fn the_encoding_never_changes() {
        let golden: &[(Value, &[u8])] = &[
            (serde_json::json!(null), &[UNIT]),
            (serde_json::json!(300), &[NATURAL, 0xac, 0x02]),
            (serde_json::json!(-1), &[NEGATIVE, 0x00]),
            (serde_json::json!("ab"), &[STR, 2, b'a', b'b']),
            (serde_json::json!([true, "x"]), &[SEQ, TRUE, STR, 1, b'x', END]),
            (
                serde_json::json!({"b": 1, "a": 2}),
                &[MAP, STR, 1, b'a', NATURAL, 2, STR, 1, b'b', NATURAL, 1, END],
            ),
        ];
        for (value, bytes) in golden {
            assert_eq!(encode(value).unwrap(), *bytes, "{value}");
        }
    }

    #[test]
    fn values_that_collide_without_delimiters_encode_differently() {
        let pairs = [
            (serde_json::json!({"a": "bc"}), serde_json::json!({"ab": "c"})),
            (serde_json::json!(["a", "b"]), serde_json::json!(["ab"])),
            (serde_json::json!([1, 23]), serde_json::json!([12, 3])),
            (serde_json::json!(1), serde_json::json!("1")),
            (serde_json::json!([[1], 2]), serde_json::json!([[1, 2]])),
            (serde_json::json!(""), serde_json::json!(null)),
            (serde_json::json!([]), serde_json::json!({})),
        ];
        for (left, right) in pairs {
            assert_ne!(encode(&left).unwrap(), encode(&right).unwrap(), "{left} {right}");
        }
    }

    #[test]
    fn maps_encode_alike_in_any_order_and_integers_in_any_width() {
        let forward: HashMap<String, u8> = (0..50).map(|n| (n.to_string(), n)).collect();
        let sorted: BTreeMap<String, i64> = (0..50).map(|n| (n.to_string(), n)).collect();
        assert_eq!(encode(&forward).unwrap(), encode(&sorted).unwrap());
        assert_eq!(encode(&i128::MIN).unwrap()[0], NEGATIVE);
        assert_ne!(encode(&i128::MIN).unwrap(), encode(&(i128::MIN + 1)).unwrap());
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[ab\\x00\\x01]{0,3}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map("[ab]{0,2}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn values_encode_alike_exactly_if_they_are_equal(left in value(), right in value()) {
            prop_assert_eq!(encode(&left).unwrap() == encode(&right).unwrap(), left == right);
        }
    }
}
