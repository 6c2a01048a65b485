//! Groups: what is invalidated together.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use crate::data::wire::{Reader, put_bytes};

/// What is invalidated together: a name and named fields, such as `book{id=5}` or `book`.
///
/// Two groups are the same if their names and all their fields are; `book` does not contain
/// `book{id=5}`, an entry that shows one row and depends on all rows names both. Fields are compared
/// by their text, so that a path argument `5` and a row's number 5 name one group. Any text is
/// allowed, the empty one included.
///
/// ```
/// use groupcache_core::Group;
///
/// let group = Group::new("sales").with("year", 2026).with("region", "north");
/// assert_eq!(group, Group::new("sales").with("region", "north").with("year", "2026"));
/// assert_eq!(group.to_string(), "sales{region=north,year=2026}");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Group {
    /// The encoding: the name, then each field and its text, sorted by field name, each name once.
    /// Comparing groups, which every hit does, is comparing these bytes.
    encoded: Encoded,
}

/// Room for the usual group without an allocation.
type Encoded = SmallVec<[u8; 48]>;

/// The groups of one entry or of one invalidation: sorted, each once. Cheap to clone.
///
/// ```
/// use groupcache_core::{Group, Groups};
///
/// let groups = Groups::from([Group::new("book"), Group::new("author"), Group::new("book")]);
/// assert_eq!(groups.len(), 2);
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Groups(Arc<[Group]>);

impl Group {
    /// The group of this name without fields.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        let mut encoded = SmallVec::new();
        put_bytes(&mut encoded, name.as_ref().as_bytes());
        Self { encoded }
    }

    /// The group that also has this field. The value is taken by its text; a second value for the
    /// same field replaces the first; the order of fields does not matter.
    ///
    /// # Panics
    ///
    /// If the value's `Display` implementation returns an error, which none should.
    #[must_use]
    pub fn with(self, field: impl AsRef<str>, value: impl fmt::Display) -> Self {
        let mut text = Text::default();
        // Writing to memory fails only if the value's own `Display` does, and then as `to_string`.
        fmt::write(&mut text, format_args!("{value}")).expect("a value that can be displayed");
        self.with_field(field.as_ref(), std::str::from_utf8(&text.0).ok())
    }

    /// As [`with`](Self::with), for what is text already: spares formatting it.
    #[must_use]
    pub fn with_text(self, field: impl AsRef<str>, text: &str) -> Self {
        self.with_field(field.as_ref(), Some(text))
    }

    /// The group of the rows in which this field is null.
    #[must_use]
    pub fn with_null(self, field: impl AsRef<str>) -> Self {
        self.with_field(field.as_ref(), None)
    }

    fn with_field(mut self, field: &str, text: Option<&str>) -> Self {
        if self.fields().last().is_none_or(|(last, _)| last < field) {
            put_field(&mut self.encoded, field, text);
            return self;
        }
        let mut others: Vec<_> = self.fields().filter(|(name, _)| *name != field).collect();
        others.push((field, text));
        others.sort_unstable();
        let mut group = Self::new(self.name());
        for (name, text) in others {
            put_field(&mut group.encoded, name, text);
        }
        group
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        Reader::new(&self.encoded).str().unwrap_or_default()
    }

    /// The fields and their texts (`None` for null), sorted by field name.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let mut from = Reader::new(&self.encoded);
        let _name = from.str();
        // Written by this module or checked when decoded, so it ends with the last field.
        std::iter::from_fn(move || read_field(&mut from))
    }

    /// The injective encoding: groups that differ never encode alike, in any process or release of
    /// this major version.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// The BLAKE3 hash of the encoding: a name of fixed length for stores that limit theirs.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.encoded).as_bytes()
    }

    /// The group of this encoding; `None` if it is none.
    pub(crate) fn decode(encoded: &[u8]) -> Option<Self> {
        let mut from = Reader::new(encoded);
        from.str()?;
        let mut last = None;
        while from.remaining() > 0 {
            let (field, _) = read_field(&mut from)?;
            if last.is_some_and(|last| last >= field) {
                return None;
            }
            last = Some(field);
        }
        Some(Self { encoded: SmallVec::from_slice(encoded) })
    }

    /// About how many bytes this group takes in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + if self.encoded.spilled() { self.encoded.capacity() } else { 0 }
    }
}

/// The text of a value, on the stack if it is short.
#[derive(Default)]
struct Text(SmallVec<[u8; 64]>);

impl fmt::Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

fn put_field(out: &mut Encoded, field: &str, text: Option<&str>) {
    put_bytes(out, field.as_bytes());
    match text {
        Some(text) => {
            out.push(1);
            put_bytes(out, text.as_bytes());
        }
        None => out.push(0),
    }
}

fn read_field<'a>(from: &mut Reader<'a>) -> Option<(&'a str, Option<&'a str>)> {
    let field = from.str()?;
    match from.array()? {
        [0] => Some((field, None)),
        [1] => Some((field, Some(from.str()?))),
        _ => None,
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        let mut open = "{";
        for (field, text) in self.fields() {
            write!(f, "{open}{field}={}", text.unwrap_or("null"))?;
            open = ",";
        }
        f.write_str(if open == "{" { "" } else { "}" })
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Group({self})")
    }
}

impl Groups {
    /// No groups: an entry that only time, space or a delete end.
    #[must_use]
    pub fn none() -> Self {
        static NONE: LazyLock<Groups> = LazyLock::new(|| Groups(Arc::from([])));
        NONE.clone()
    }

    /// These, which are sorted, each once; `None` if they are not.
    pub(crate) fn from_sorted(groups: SmallVec<[Group; 1]>) -> Option<Self> {
        // Most have one, which needs no list on the way.
        match groups.into_inner() {
            Ok(one) => Some(Self(Arc::from(one))),
            Err(groups) => {
                groups.is_sorted_by(|one, next| one < next).then(|| Self(groups.into_vec().into()))
            }
        }
    }

    /// These groups and those.
    #[must_use]
    pub fn union(&self, others: &[Group]) -> Self {
        if others.iter().all(|group| self.contains(group)) {
            return self.clone();
        }
        self.iter().chain(others).cloned().collect()
    }

    /// Whether this group is one of them.
    #[must_use]
    pub fn contains(&self, group: &Group) -> bool {
        self.0.binary_search(group).is_ok()
    }

    /// Whether this is the very same list, which says more quickly that they are equal.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether all of `others` are among them.
    #[must_use]
    pub fn contains_all(&self, others: &Self) -> bool {
        // The common case, on every hit: the same list.
        self == others || others.iter().all(|group| self.contains(group))
    }
}

impl Deref for Groups {
    type Target = [Group];

    fn deref(&self) -> &[Group] {
        &self.0
    }
}

impl fmt::Debug for Groups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<Group> for Groups {
    fn from_iter<I: IntoIterator<Item = Group>>(groups: I) -> Self {
        let mut groups: SmallVec<[Group; 4]> = groups.into_iter().collect();
        groups.sort_unstable();
        groups.dedup();
        let mut groups = groups.into_iter();
        // The usual numbers take one allocation; any other number takes a list on the way.
        match (groups.len(), groups.next(), groups.next()) {
            (1, Some(one), _) => Self(Arc::from([one])),
            (2, Some(one), Some(two)) => Self(Arc::from([one, two])),
            (_, one, two) => Self(one.into_iter().chain(two).chain(groups).collect()),
        }
    }
}

impl From<Group> for Groups {
    fn from(group: Group) -> Self {
        Self(Arc::from([group]))
    }
}

impl<const N: usize> From<[Group; N]> for Groups {
    fn from(groups: [Group; N]) -> Self {
        groups.into_iter().collect()
    }
}

impl From<Vec<Group>> for Groups {
    fn from(groups: Vec<Group>) -> Self {
        groups.into_iter().collect()
    }
}

impl From<&[Group]> for Groups {
    fn from(groups: &[Group]) -> Self {
        groups.iter().cloned().collect()
    }
}

impl From<&Self> for Groups {
    fn from(groups: &Self) -> Self {
        groups.clone()
    }
}

impl<'a> IntoIterator for &'a Groups {
    type Item = &'a Group;
    type IntoIter = std::slice::Iter<'a, Group>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn group() -> impl Strategy<Value = Group> {
        let fields = prop::collection::vec(("[ab=]{0,2}", prop::option::of("[ab,}]{0,2}")), 0..3);
        ("[ab{]{0,2}", fields).prop_map(|(name, fields)| {
            fields.into_iter().fold(Group::new(name), |group, (field, text)| match text {
                Some(text) => group.with(field, text),
                None => group.with_null(field),
            })
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]
        #[test]
        fn groups_encode_alike_exactly_if_they_are_equal(left in group(), right in group()) {
            prop_assert_eq!(left.encoded() == right.encoded(), left == right);
        }

        #[test]
        fn a_group_decodes_from_its_encoding(group in group()) {
            prop_assert_eq!(Group::decode(group.encoded()), Some(group));
        }
    }

    #[test]
    fn the_encoding_never_changes() {
        let group = Group::new("book").with("id", 5).with_null("shelf");
        assert_eq!(group.encoded(), b"\x04book\x02id\x01\x015\x05shelf\x00");
    }

    #[test]
    fn the_hash_never_changes() {
        let hash = blake3::Hash::from_bytes(Group::new("book").with("id", 5).hash());
        assert_eq!(
            hash.to_hex().as_str(),
            "ede615b7e4a862e63afcd0c5b198c3d07b66d249247da48132cb33ee8b11b815"
        );
    }

    #[test]
    fn its_size_counts_what_it_has_elsewhere() {
        assert_eq!(Group::new("book").size_bytes(), size_of::<Group>());
        let long = Group::new("x".repeat(100));
        assert_eq!(long.size_bytes(), size_of::<Group>() + long.encoded.capacity());
        assert!(long.size_bytes() > size_of::<Group>() + 100);
    }

    #[test]
    fn a_list_that_is_not_sorted_or_has_a_group_twice_is_none() {
        let [a, b] = ["a", "b"].map(Group::new);
        let sorted = |groups: Vec<Group>| Groups::from_sorted(groups.into());
        assert_eq!(sorted(vec![]), Some(Groups::none()));
        assert_eq!(sorted(vec![a.clone()]), Some(a.clone().into()));
        assert_eq!(sorted(vec![a.clone(), b.clone()]), Some([a.clone(), b.clone()].into()));
        assert_eq!(sorted(vec![b, a.clone()]), None);
        assert_eq!(sorted(vec![a.clone(), a]), None);
    }

    #[test]
    fn what_is_no_encoding_of_a_group_does_not_decode() {
        let sound = Group::new("book").with("id", 5).with("shelf", 1);
        for cut in [1, 6, 8, sound.encoded().len() - 1] {
            assert_eq!(Group::decode(&sound.encoded()[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Group::decode(b""), None);
        assert_eq!(Group::decode(b"\x01g\x01b\x00\x01a\x00"), None, "fields out of order");
        assert_eq!(Group::decode(b"\x01g\x01b\x00\x01b\x00"), None, "a field twice");
    }

    #[test]
    fn null_is_no_text() {
        assert_ne!(Group::new("book").with_null("shelf"), Group::new("book").with("shelf", "null"));
        assert_ne!(Group::new("book").with_null("shelf"), Group::new("book").with("shelf", ""));
    }
}
