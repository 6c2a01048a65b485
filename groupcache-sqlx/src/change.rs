//! From the rows of an outbox to groups.

use groupcache_core::{BoxInvalidator, Group, Groups, Invalidator, Result};

/// How many changes are invalidated at once.
pub(crate) const BATCH: usize = 1000;

/// Returns the canonical text of a case-insensitive field.
///
/// It is what the relay makes of the text of a [case-insensitive](crate::Column::case_insensitive) column. Use it
/// for the groups that the application builds, and in [`Model::argument`](groupcache_core::Model::argument).
///
/// ```
/// use groupcache_core::Group;
/// use groupcache_sqlx::fold_case;
///
/// let profile = Group::new("user").with("username", fold_case("Zoë"));
/// assert_eq!(profile, Group::new("user").with("username", fold_case("ZOË")));
/// ```
#[must_use]
pub fn fold_case(text: &str) -> String {
    // Databases and locales disagree on a sigma at the end of a word, and on an i with or without its dot. They are
    // one letter here: a group that joins more values than the database does is invalidated too often, never too
    // seldom.
    let letters = text.chars().flat_map(char::to_lowercase).filter(|letter| *letter != '\u{307}');
    let one = |letter| match letter {
        'ς' => 'σ',
        'ı' => 'i',
        letter => letter,
    };
    letters.map(one).collect()
}

/// A group as a trigger wrote it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) name: String,
    pub(crate) fields: Vec<String>,
    pub(crate) texts: Vec<Option<String>>,
    /// The fields whose case does not count.
    pub(crate) folded: Vec<String>,
}

impl Change {
    fn group(&self) -> Group {
        let texts = self.fields.iter().zip(&self.texts);
        texts.fold(Group::new(&self.name), |group, (field, text)| match text {
            Some(text) if self.folded.contains(field) => group.with_text(field, &fold_case(text)),
            Some(text) => group.with_text(field, text),
            None => group.with_null(field),
        })
    }
}

/// Invalidates the groups of these changes, in batches.
pub(crate) async fn invalidate(invalidator: &BoxInvalidator, changes: &[Change]) -> Result<()> {
    for batch in changes.chunks(BATCH) {
        invalidator.invalidate(&groups_of(batch)).await?;
    }
    Ok(())
}

/// The groups of these changes, each once.
pub(crate) fn groups_of(changes: &[Change]) -> Groups {
    changes.iter().map(Change::group).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_groups_are_joined_and_case_is_folded_where_declared() {
        let change = |text: Option<&str>| Change {
            name: "user".into(),
            fields: vec!["id".into(), "name".into()],
            texts: vec![Some("A".into()), text.map(Into::into)],
            folded: vec!["name".into()],
        };
        let group = Group::new("user").with("id", "A");
        let expected = Groups::from([group.clone().with("name", "x"), group.with_null("name")]);
        assert_eq!(groups_of(&[change(Some("X")), change(Some("x")), change(None)]), expected);
    }

    #[test]
    fn folding_does_not_depend_on_the_place_in_a_word() {
        assert_eq!(fold_case("ΣΑΣ"), "σασ");
        assert_eq!(fold_case("É"), "é");
        assert_eq!(fold_case("ας"), fold_case("ΑΣ"));
        for letter in ["i", "I", "İ", "ı", "i\u{307}"] {
            assert_eq!(fold_case(letter), "i", "{letter}");
        }
    }
}
