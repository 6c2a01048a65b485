//! Groups: what is invalidated together.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

use smallvec::SmallVec;

use crate::wire::{Reader, put_bytes, put_uint};

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
    name: Cow<'static, str>,
    /// Sorted by field name, each name once.
    fields: SmallVec<[(Cow<'static, str>, FieldText); 1]>,
}

/// `None` is a row's null: equal to itself and to no text.
type FieldText = Option<Box<str>>;

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
    pub fn new(name: impl Into<Cow<'static, str>>) -> Self {
        Self {
            name: name.into(),
            fields: SmallVec::new(),
        }
    }

    /// The group that also has this field. The value is taken by its text; a second value for the
    /// same field replaces the first; the order of fields does not matter.
    #[must_use]
    pub fn with(self, field: impl Into<Cow<'static, str>>, value: impl fmt::Display) -> Self {
        self.with_text(field.into(), Some(value.to_string().into_boxed_str()))
    }

    /// The group of the rows in which this field is null.
    #[must_use]
    pub fn with_null(self, field: impl Into<Cow<'static, str>>) -> Self {
        self.with_text(field.into(), None)
    }

    fn with_text(mut self, field: Cow<'static, str>, text: FieldText) -> Self {
        match self.fields.binary_search_by(|(name, _)| name.cmp(&field)) {
            Ok(at) => self.fields[at].1 = text,
            Err(at) => self.fields.insert(at, (field, text)),
        }
        self
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The fields and their texts (`None` for null), sorted by field name.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = (&str, Option<&str>)> {
        self.fields.iter().map(|(name, text)| (&**name, text.as_deref()))
    }

    /// The injective encoding: groups that differ never encode alike, in any process or release of
    /// this major version.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(48);
        self.encode_into(&mut out);
        out
    }

    /// The BLAKE3 hash of the encoding: a name of fixed length for stores that limit theirs.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        *blake3::hash(&self.encoded()).as_bytes()
    }

    pub(crate) fn encode_into(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.name.as_bytes());
        put_uint(out, self.fields.len() as u128);
        for (name, text) in &self.fields {
            put_bytes(out, name.as_bytes());
            match text {
                Some(text) => {
                    out.push(1);
                    put_bytes(out, text.as_bytes());
                }
                None => out.push(0),
            }
        }
    }

    pub(crate) fn decode(from: &mut Reader<'_>) -> Option<Self> {
        let mut group = Self::new(from.str()?.to_owned());
        for _ in 0..from.length()? {
            let name = Cow::Owned(from.str()?.to_owned());
            let text = match from.array()? {
                [0] => None,
                [1] => Some(from.str()?.into()),
                _ => return None,
            };
            group = group.with_text(name, text);
        }
        Some(group)
    }

    /// About how many bytes this group takes in memory.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let texts = self
            .fields
            .iter()
            .map(|(name, text)| name.len() + text.as_deref().map_or(0, str::len));
        size_of::<Self>() + self.name.len() + texts.sum::<usize>()
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        for (at, (name, text)) in self.fields.iter().enumerate() {
            f.write_str(if at == 0 { "{" } else { "," })?;
            write!(f, "{name}={}", text.as_deref().unwrap_or("null"))?;
        }
        f.write_str(if self.fields.is_empty() { "" } else { "}" })
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
        Self(groups.into_iter().collect())
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
            fields
                .into_iter()
                .fold(Group::new(name), |group, (field, text)| match text {
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
            prop_assert_eq!(Group::decode(&mut Reader::new(&group.encoded())), Some(group));
        }
    }

    #[test]
    fn the_encoding_never_changes() {
        let group = Group::new("book").with("id", 5).with_null("shelf");
        assert_eq!(group.encoded(), b"\x04book\x02\x02id\x01\x015\x05shelf\x00");
    }

    #[test]
    fn null_is_no_text() {
        assert_ne!(
            Group::new("book").with_null("shelf"),
            Group::new("book").with("shelf", "null")
        );
        assert_ne!(
            Group::new("book").with_null("shelf"),
            Group::new("book").with("shelf", "")
        );
    }
}
