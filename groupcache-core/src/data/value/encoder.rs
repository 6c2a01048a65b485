//! The serde serializer of values.

use serde::ser::{self, Serialize};

use super::format::{self as tag, ValueError};
use crate::data::wire::{Sink, put_bytes, put_uint};

/// Encodes one value.
pub(super) struct Encoder<'a, S> {
    out: &'a mut S,
    depth: u16,
}

/// Encodes elements or fields up to the end.
pub(super) struct Elements<'a, S> {
    out: &'a mut S,
    depth: u16,
}

impl<'a, S: Sink> Encoder<'a, S> {
    pub(super) const fn new(out: &'a mut S) -> Self {
        Self { out, depth: 0 }
    }

    fn natural(self, tag: u8, value: u64) {
        self.out.put_byte(tag);
        put_uint(self.out, value.into());
    }

    /// Encodes numbers of a small magnitude in few bytes, whatever their sign.
    fn integer(self, tag: u8, value: i64) {
        self.natural(tag, ((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn text(self, tag: u8, text: &[u8]) {
        self.out.put_byte(tag);
        put_bytes(self.out, text);
    }

    /// Begins what ends with `END`. `name` is that of a variant.
    fn elements(self, tag: u8, name: Option<&str>) -> Result<Elements<'a, S>, ValueError> {
        let depth = ValueError::deeper(self.depth)?;
        self.out.put_byte(tag);
        if let Some(name) = name {
            put_bytes(self.out, name.as_bytes());
        }
        Ok(Elements { out: self.out, depth })
    }

    /// Begins a sequence or a map. The number of elements is a hint: `END` decides.
    fn counted(self, tag: u8, count: Option<usize>) -> Result<Elements<'a, S>, ValueError> {
        let elements = self.elements(tag, None)?;
        put_uint(elements.out, count.unwrap_or_default() as u128);
        Ok(elements)
    }
}

impl<S: Sink> Elements<'_, S> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        value.serialize(Encoder { out: self.out, depth: self.depth })
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), ValueError> {
        Encoder { out: self.out, depth: self.depth }.text(tag::STR, name.as_bytes());
        self.element(value)
    }

    fn finish(self) {
        self.out.put_byte(tag::END);
    }
}

macro_rules! numbers {
    ($($method:ident: $type:ty => $via:ident $tag:ident),* $(,)?) => {
        $(fn $method(self, value: $type) -> Result<(), ValueError> {
            self.$via(tag::$tag, value.into());
            Ok(())
        })*
    };
}

macro_rules! fixed {
    ($($method:ident: $type:ty => $tag:ident),* $(,)?) => {
        $(fn $method(self, value: $type) -> Result<(), ValueError> {
            self.out.put_byte(tag::$tag);
            self.out.put(&value.to_be_bytes());
            Ok(())
        })*
    };
}

impl<'a, S: Sink> ser::Serializer for Encoder<'a, S> {
    type Ok = ();
    type Error = ValueError;
    type SerializeSeq = Elements<'a, S>;
    type SerializeTuple = Elements<'a, S>;
    type SerializeTupleStruct = Elements<'a, S>;
    type SerializeTupleVariant = Elements<'a, S>;
    type SerializeMap = Elements<'a, S>;
    type SerializeStruct = Elements<'a, S>;
    type SerializeStructVariant = Elements<'a, S>;

    numbers! {
        serialize_i8: i8 => integer I8, serialize_i16: i16 => integer I16,
        serialize_i32: i32 => integer I32, serialize_i64: i64 => integer I64,
        serialize_u16: u16 => natural U16, serialize_u32: u32 => natural U32, serialize_u64: u64 => natural U64,
    }

    fixed! {
        serialize_i128: i128 => I128, serialize_u128: u128 => U128,
        serialize_f32: f32 => F32, serialize_f64: f64 => F64,
    }

    fn serialize_bool(self, value: bool) -> Result<(), ValueError> {
        self.out.put_byte(if value { tag::TRUE } else { tag::FALSE });
        Ok(())
    }

    fn serialize_u8(self, value: u8) -> Result<(), ValueError> {
        if value < tag::SMALL_U8 {
            self.out.put_byte(tag::SMALL_U8 | value);
        } else {
            self.out.put(&[tag::U8, value]);
        }
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), ValueError> {
        self.natural(tag::CHAR, u32::from(value).into());
        Ok(())
    }

    fn serialize_str(self, value: &str) -> Result<(), ValueError> {
        self.text(tag::STR, value.as_bytes());
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), ValueError> {
        self.text(tag::BYTES, value);
        Ok(())
    }

    fn serialize_none(self) -> Result<(), ValueError> {
        self.out.put_byte(tag::NONE);
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), ValueError> {
        let depth = ValueError::deeper(self.depth)?;
        self.out.put_byte(tag::SOME);
        value.serialize(Encoder { out: self.out, depth })
    }

    fn serialize_unit(self) -> Result<(), ValueError> {
        self.out.put_byte(tag::UNIT);
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), ValueError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), ValueError> {
        self.text(tag::UNIT_VARIANT, variant.as_bytes());
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), ValueError> {
        self.elements(tag::NEWTYPE_VARIANT, Some(variant))?.element(value)
    }

    fn serialize_seq(self, count: Option<usize>) -> Result<Elements<'a, S>, ValueError> {
        self.counted(tag::SEQ, count)
    }

    fn serialize_tuple(self, _: usize) -> Result<Elements<'a, S>, ValueError> {
        self.elements(tag::TUPLE, None)
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Elements<'a, S>, ValueError> {
        self.elements(tag::TUPLE, None)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements<'a, S>, ValueError> {
        self.elements(tag::TUPLE_VARIANT, Some(variant))
    }

    fn serialize_map(self, count: Option<usize>) -> Result<Elements<'a, S>, ValueError> {
        self.counted(tag::MAP, count)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Elements<'a, S>, ValueError> {
        self.elements(tag::STRUCT, None)
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Elements<'a, S>, ValueError> {
        self.elements(tag::STRUCT_VARIANT, Some(variant))
    }
}

macro_rules! elements {
    ($($trait:ident::$method:ident),* $(,)?) => {
        $(impl<S: Sink> ser::$trait for Elements<'_, S> {
            type Ok = ();
            type Error = ValueError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
                self.element(value)
            }

            fn end(self) -> Result<(), ValueError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

elements! {
    SerializeSeq::serialize_element,
    SerializeTuple::serialize_element,
    SerializeTupleStruct::serialize_field,
    SerializeTupleVariant::serialize_field,
}

impl<S: Sink> ser::SerializeMap for Elements<'_, S> {
    type Ok = ();
    type Error = ValueError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), ValueError> {
        self.element(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), ValueError> {
        self.element(value)
    }

    fn end(self) -> Result<(), ValueError> {
        self.finish();
        Ok(())
    }
}

macro_rules! structs {
    ($($trait:ident),* $(,)?) => {
        $(impl<S: Sink> ser::$trait for Elements<'_, S> {
            type Ok = ();
            type Error = ValueError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), ValueError> {
                self.field(name, value)
            }

            fn end(self) -> Result<(), ValueError> {
                self.finish();
                Ok(())
            }
        })*
    };
}

structs!(SerializeStruct, SerializeStructVariant);
