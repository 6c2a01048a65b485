//! Rows of the outbox as they come from the file.
//!
//! Texts travel as hexadecimal digits, separated by commas, a null as `-`: so a text can hold anything, zero bytes
//! too, and needs no function that some builds of SQLite lack.

use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};

use crate::change::Change;

/// A change and its number.
#[derive(Debug)]
pub(crate) struct Numbered {
    pub(crate) id: i64,
    pub(crate) change: Change,
    /// In seconds.
    pub(crate) age: f64,
}

/// What `Numbered` reads.
pub(crate) const COLUMNS: &str =
    "id, name, fields, texts, folded, (julianday('now') - written_at) * 86400.0 AS age";

impl FromRow<'_, SqliteRow> for Numbered {
    fn from_row(row: &SqliteRow) -> sqlx::Result<Self> {
        let list = |column: &str| Ok::<_, sqlx::Error>(decode(&row.try_get::<String, _>(column)?));
        Ok(Self {
            id: row.try_get("id")?,
            age: row.try_get("age")?,
            change: Change {
                name: row.try_get("name")?,
                fields: list("fields")?.into_iter().flatten().collect(),
                texts: list("texts")?,
                folded: list("folded")?.into_iter().flatten().collect(),
            },
        })
    }
}

/// The list as triggers hold it.
pub(crate) fn encode<'a>(texts: impl IntoIterator<Item = &'a str>) -> String {
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02X}")).collect::<String>();
    texts.into_iter().map(|text| hex(text) + ",").collect()
}

fn decode(list: &str) -> Vec<Option<String>> {
    let text = |hex: &str| {
        let byte = |at: usize| hex.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        let bytes: Vec<u8> = (0..hex.len()).step_by(2).filter_map(byte).collect();
        // SQLite does not check that a text is UTF-8; what reads it for Rust replaces what is not.
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let items = list.split_terminator(',');
    items.map(|item| (item != "-").then(|| text(item))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_come_back_as_they_were() {
        for list in [vec![], vec![""], vec!["", "a,b-", "É\0"]] {
            let decoded: Vec<_> = decode(&encode(list.iter().copied())).into_iter().flatten().collect();
            assert_eq!(decoded, list);
        }
        assert_eq!(decode("-,,"), [None, Some(String::new())]);
    }
}
