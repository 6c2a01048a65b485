//! Groups: the unit of invalidation.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use crate::data::wire::{Reader, put_bytes};

/// A group of entries that are invalidated together: a name and named fields, such as `book` or `book{id=5}`.
///
/// Two groups are equal if their names and all their fields are equal. `book` does not contain `book{id=5}`:
/// an entry that shows one row and depends on all rows names both groups.
///
/// Fields are compared by their text, so the path argument `"5"` and the number 5 of a row name the same
/// group. Names, fields and values may be any text, including the empty text.
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
    /// The name, then each field with its text, sorted by field name without duplicates. Every hit compares
    /// groups, which is a comparison of these bytes.
    encoded: Encoded,
}

/// Holds a typical group without an allocation.
type Encoded = SmallVec<[u8; 48]>;

/// The groups of one entry or of one invalidation, sorted by their encodings and without duplicates. Cheap to
/// clone.
///
/// ```
/// use groupcache_core::{Group, Groups};
///
/// let mut groups = Groups::from([Group::new("book"), Group::new("author"), Group::new("book")]);
/// assert_eq!(groups.len(), 2);
///
/// groups.extend([Group::new("author"), Group::new("shelf")]);
/// assert_eq!(groups.len(), 3);
/// assert!(groups.contains(&Group::new("shelf")));
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Groups(Arc<[Group]>);

impl Group {
    /// Creates a group without fields.
    #[must_use]
    pub fn new(name: impl AsRef<str>) -> Self {
        let mut encoded = SmallVec::new();
        put_bytes(&mut encoded, name.as_ref().as_bytes());
        Self { encoded }
    }

    /// Adds a field, whose value is formatted with `Display`.
    ///
    /// A second value for the same field replaces the first. The order of fields does not matter.
    ///
    /// # Panics
    ///
    /// Panics if the `Display` implementation of `value` returns an error, as `to_string` does.
    #[must_use]
    pub fn with(mut self, field: impl AsRef<str>, value: impl fmt::Display) -> Self {
        let field = field.as_ref();
        if self.ends_before(field) {
            put_bytes(&mut self.encoded, field.as_bytes());
            self.encoded.push(1);
            put_displayed(&mut self.encoded, format_args!("{value}"));
            return self;
        }
        let mut text = Text::default();
        put_displayed(&mut text, format_args!("{value}"));
        self.with_field(field, Reader::new(&text).str())
    }

    /// Adds a field whose value is text already, without the cost of formatting it. Otherwise like
    /// [`with`](Self::with).
    #[must_use]
    pub fn with_text(self, field: impl AsRef<str>, text: &str) -> Self {
        self.with_field(field.as_ref(), Some(text))
    }

    /// Adds a field that is null. Null differs from every text, including the empty one.
    #[must_use]
    pub fn with_null(self, field: impl AsRef<str>) -> Self {
        self.with_field(field.as_ref(), None)
    }

    fn with_field(mut self, field: &str, text: Option<&str>) -> Self {
        if self.ends_before(field) {
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

    /// Whether all fields come before `field`.
    fn ends_before(&self, field: &str) -> bool {
        let mut from = Reader::new(&self.encoded);
        // Most groups have no field yet.
        from.bytes().is_some() && from.remaining() == 0
            || self.fields().last().is_none_or(|(last, _)| last < field)
    }

    /// Returns the name.
    #[must_use]
    pub fn name(&self) -> &str {
        Reader::new(&self.encoded).str().unwrap_or_default()
    }

    /// Iterates over the fields and their texts, sorted by field name. The text of null is `None`.
    pub fn fields(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let mut from = Reader::new(&self.encoded);
        let _name = from.str();
        // `encoded` is always well-formed, so the iteration ends after the last field.
        std::iter::from_fn(move || read_field(&mut from))
    }

    /// Returns the encoding. It is injective and the same in every process and in every release of this major
    /// version.
    #[must_use]
    pub fn encoded(&self) -> &[u8] {
        &self.encoded
    }

    /// Returns the BLAKE3 hash of the encoding, for stores that limit the length of their keys.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.encoded).as_bytes()
    }

    /// Decodes a group, or returns `None` if `encoded` is malformed.
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

    /// Returns the approximate size of the group in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        size_of::<Self>() + if self.encoded.spilled() { self.encoded.capacity() } else { 0 }
    }
}

/// A formatted value and its length. Short texts need no allocation.
type Text = SmallVec<[u8; 64]>;

/// Appends a formatted value as `put_bytes` would, without formatting it elsewhere first.
fn put_displayed<const SIZE: usize>(out: &mut SmallVec<[u8; SIZE]>, value: fmt::Arguments<'_>) {
    struct Append<'a, const SIZE: usize>(&'a mut SmallVec<[u8; SIZE]>);

    impl<const SIZE: usize> fmt::Write for Append<'_, SIZE> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }

    let start = out.len();
    out.push(0);
    fmt::write(&mut Append(out), value).expect("a value that can be displayed");
    match u8::try_from(out.len() - start - 1) {
        Ok(length) if length < 0x80 => out[start] = length,
        _ => {
            let text = out[start + 1..].to_vec();
            out.truncate(start);
            put_bytes(out, &text);
        }
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
    /// Returns the empty list. An entry without groups is never invalidated; it only expires, is evicted or
    /// is deleted.
    #[must_use]
    pub fn none() -> Self {
        static NONE: LazyLock<Groups> = LazyLock::new(|| Groups(Arc::from([])));
        NONE.clone()
    }

    /// Returns the groups, or `None` if they are not sorted and free of duplicates.
    pub(crate) fn from_sorted(groups: SmallVec<[Group; 1]>) -> Option<Self> {
        // The common case, one group, needs no intermediate `Vec`.
        match groups.into_inner() {
            Ok(group) => Some(Self(Arc::from(group))),
            Err(groups) => {
                groups.is_sorted_by(|group, next| group < next).then(|| Self(groups.into_vec().into()))
            }
        }
    }

    /// Returns the groups of both lists. Allocates nothing if `self` contains all of `others`.
    #[must_use]
    pub fn union(&self, others: &[Group]) -> Self {
        if others.iter().all(|group| self.contains(group)) {
            return self.clone();
        }
        self.iter().chain(others).cloned().collect()
    }

    /// Returns whether `group` is one of the groups.
    #[must_use]
    pub fn contains(&self, group: &Group) -> bool {
        self.0.binary_search(group).is_ok()
    }

    /// Returns whether both are clones of one list: a cheap test that implies equality.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Returns whether all of `others` are among the groups.
    #[must_use]
    pub fn contains_all(&self, others: &Self) -> bool {
        // The common case, on every hit: an equal list.
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
        // One or two groups, the common cases, need no intermediate `Vec`.
        match (groups.len(), groups.next(), groups.next()) {
            (1, Some(first), _) => Self(Arc::from([first])),
            (2, Some(first), Some(second)) => Self(Arc::from([first, second])),
            (_, first, second) => Self(first.into_iter().chain(second).chain(groups).collect()),
        }
    }
}

impl From<Group> for Groups {
    fn from(group: Group) -> Self {
        Self(Arc::from([group]))
    }
}

/// The group without fields of this name.
impl From<&str> for Groups {
    fn from(name: &str) -> Self {
        Group::new(name).into()
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

impl IntoIterator for Groups {
    type Item = Group;
    type IntoIter = std::vec::IntoIter<Group>;

    /// Clones the groups, as other clones of the list may exist.
    fn into_iter(self) -> Self::IntoIter {
        Vec::from(&*self.0).into_iter()
    }
}

impl Extend<Group> for Groups {
    /// Adds groups. The list stays sorted and without duplicates; its clones do not change.
    fn extend<I: IntoIterator<Item = Group>>(&mut self, groups: I) {
        let added: SmallVec<[Group; 4]> = groups.into_iter().collect();
        *self = self.union(&added);
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
        fn encodings_are_equal_exactly_if_the_groups_are(left in group(), right in group()) {
            prop_assert_eq!(left.encoded() == right.encoded(), left == right);
        }

        #[test]
        fn a_group_decodes_from_its_encoding(group in group()) {
            prop_assert_eq!(Group::decode(group.encoded()), Some(group));
        }

        #[test]
        fn an_extended_list_equals_a_list_of_all(
            left in prop::collection::vec(group(), 0..5),
            right in prop::collection::vec(group(), 0..5),
        ) {
            let mut extended = Groups::from(left.clone());
            extended.extend(right.clone());
            prop_assert!(extended.is_sorted_by(|group, next| group < next));
            prop_assert_eq!(&extended, &left.into_iter().chain(right).collect::<Groups>());
            let list: Vec<_> = extended.iter().cloned().collect();
            prop_assert_eq!(extended.into_iter().collect::<Vec<_>>(), list);
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
    fn an_extension_by_duplicates_changes_nothing() {
        let [a, b] = ["a", "b"].map(Group::new);
        let original = Groups::from([a.clone(), b.clone()]);
        let mut groups = original.clone();
        groups.extend([b.clone(), a.clone(), b.clone()]);
        assert!(groups.is(&original), "not even the allocation");
        groups.extend([]);
        assert!(groups.is(&original));

        let mut none = Groups::none();
        none.extend([b.clone(), a.clone(), b]);
        assert_eq!(none, original);
        assert_eq!(Groups::none().len(), 0, "clones keep their groups");
        assert_eq!(none.into_iter().next(), Some(a));
    }

    #[test]
    fn the_size_counts_the_heap() {
        assert_eq!(Group::new("book").size_bytes(), size_of::<Group>());
        let long = Group::new("x".repeat(100));
        assert_eq!(long.size_bytes(), size_of::<Group>() + long.encoded.capacity());
        assert!(long.size_bytes() > size_of::<Group>() + 100);
    }

    #[test]
    fn a_list_that_is_unsorted_or_has_duplicates_is_rejected() {
        let [a, b] = ["a", "b"].map(Group::new);
        let sorted = |groups: Vec<Group>| Groups::from_sorted(groups.into());
        assert_eq!(sorted(vec![]), Some(Groups::none()));
        assert_eq!(sorted(vec![a.clone()]), Some(a.clone().into()));
        assert_eq!(sorted(vec![a.clone(), b.clone()]), Some([a.clone(), b.clone()].into()));
        assert_eq!(sorted(vec![b, a.clone()]), None);
        assert_eq!(sorted(vec![a.clone(), a]), None);
    }

    #[test]
    fn a_malformed_encoding_does_not_decode() {
        let sound = Group::new("book").with("id", 5).with("shelf", 1);
        for cut in [1, 6, 8, sound.encoded().len() - 1] {
            assert_eq!(Group::decode(&sound.encoded()[..cut]), None, "cut at {cut}");
        }
        assert_eq!(Group::decode(b""), None);
        assert_eq!(Group::decode(b"\x01g\x01b\x00\x01a\x00"), None, "fields out of order");
        assert_eq!(Group::decode(b"\x01g\x01b\x00\x01b\x00"), None, "a duplicate field");
    }

    #[test]
    fn null_differs_from_every_text() {
        assert_ne!(Group::new("book").with_null("shelf"), Group::new("book").with("shelf", "null"));
        assert_ne!(Group::new("book").with_null("shelf"), Group::new("book").with("shelf", ""));
    }
}
