//! Rows of the outbox as they come from the database.

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};

use crate::change::Change;

/// The columns of a change, in the order in which `change_of` reads them.
pub(crate) const COLUMNS: &str = "name, fields, texts, folded";

impl FromRow<'_, PgRow> for Change {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        Ok(Self {
            name: row.try_get("name")?,
            fields: row.try_get("fields")?,
            texts: row.try_get("texts")?,
            folded: row.try_get("folded")?,
        })
    }
}
