//! The tags of encoded values, and the error of both directions.
//!
//! Every value starts with a tag. The tags tell apart what serde's data model tells apart: `Some(())` and
//! `None`, `1_u8` and `1_u16`, a tuple and a sequence. So a value is decoded as what it was, whether its type
//! drives the decoding or the tags do, as for `#[serde(untagged)]`, `#[serde(tag)]` and `#[serde(flatten)]`.
//!
//! Both directions are human readable for serde. Types that look at this, such as `IpAddr`, are inside tagged
//! enums always decoded as human readable, so they must be encoded that way.

use std::fmt;

use serde::{de, ser};

/// The first byte of every encoded value. No MessagePack starts with it, in which values were stored before.
pub(super) const VERSION: u8 = 0xc1;

/// How deeply values may be nested, so that decoding never overflows the stack.
pub(super) const DEPTH_MAX: u16 = 256;

/// Ends a sequence, a map, a struct, and the data of a tuple or struct variant.
pub(super) const END: u8 = 0x00;
pub(super) const UNIT: u8 = 0x01;
pub(super) const NONE: u8 = 0x02;
pub(super) const SOME: u8 = 0x03;
pub(super) const FALSE: u8 = 0x04;
pub(super) const TRUE: u8 = 0x05;
pub(super) const U8: u8 = 0x06;
pub(super) const U16: u8 = 0x07;
pub(super) const U32: u8 = 0x08;
pub(super) const U64: u8 = 0x09;
pub(super) const U128: u8 = 0x0a;
pub(super) const I8: u8 = 0x0b;
pub(super) const I16: u8 = 0x0c;
pub(super) const I32: u8 = 0x0d;
pub(super) const I64: u8 = 0x0e;
pub(super) const I128: u8 = 0x0f;
pub(super) const F32: u8 = 0x10;
pub(super) const F64: u8 = 0x11;
pub(super) const CHAR: u8 = 0x12;
pub(super) const STR: u8 = 0x13;
pub(super) const BYTES: u8 = 0x14;
/// A sequence: the number of elements, which is a hint only, the elements, `END`.
pub(super) const SEQ: u8 = 0x15;
pub(super) const TUPLE: u8 = 0x16;
/// A map: the number of entries, which is a hint only, keys and values, `END`.
pub(super) const MAP: u8 = 0x17;
pub(super) const STRUCT: u8 = 0x18;
pub(super) const UNIT_VARIANT: u8 = 0x19;
pub(super) const NEWTYPE_VARIANT: u8 = 0x1a;
pub(super) const TUPLE_VARIANT: u8 = 0x1b;
pub(super) const STRUCT_VARIANT: u8 = 0x1c;
/// From here on, a tag is a `u8` below 128: most bytes of a `Vec<u8>` take one byte.
pub(super) const SMALL_U8: u8 = 0x80;

/// Why a value cannot be encoded or decoded.
#[derive(Debug)]
pub(super) struct ValueError(pub(super) String);

impl ValueError {
    pub(super) fn malformed() -> Self {
        Self("the encoding is malformed".to_owned())
    }

    /// Returns the depth of what is inside `depth`.
    pub(super) fn deeper(depth: u16) -> Result<u16, Self> {
        match depth < DEPTH_MAX {
            true => Ok(depth + 1),
            false => Err(Self(format!("the value is nested more than {DEPTH_MAX} levels deep"))),
        }
    }
}

impl fmt::Display for ValueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ValueError {}

impl ser::Error for ValueError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

impl de::Error for ValueError {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}
