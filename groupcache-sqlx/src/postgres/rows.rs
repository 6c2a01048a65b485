//! Rows of the outbox as they come from the database.

use std::time::Duration;

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

/// A time span that the database counted in seconds. Its clock may have been set back meanwhile.
pub(crate) fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}
