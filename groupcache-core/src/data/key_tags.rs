//! The first bytes of the encodings of keys. They never change, as stores outlive releases.

pub(crate) const END: u8 = 0x00;
pub(crate) const UNIT: u8 = 0x01;
pub(crate) const NONE: u8 = 0x02;
pub(crate) const SOME: u8 = 0x03;
pub(crate) const FALSE: u8 = 0x04;
pub(crate) const TRUE: u8 = 0x05;
pub(crate) const NATURAL: u8 = 0x06;
/// Tag of a negative integer, which is written as its bitwise complement: a natural number too.
pub(crate) const NEGATIVE: u8 = 0x07;
pub(crate) const FLOAT: u8 = 0x08;
pub(crate) const CHAR: u8 = 0x09;
pub(crate) const STR: u8 = 0x0a;
pub(crate) const BYTES: u8 = 0x0b;
pub(crate) const SEQ: u8 = 0x0c;
pub(crate) const MAP: u8 = 0x0d;
pub(crate) const VARIANT: u8 = 0x0e;
/// Tag of the name of a struct or an enum, followed by its value.
pub(crate) const NAMED: u8 = 0x0f;
/// Tag of the name that the caller gave a key, followed by its value.
pub(crate) const SPACE: u8 = 0x10;
