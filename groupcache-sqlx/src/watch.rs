//! Declarations: which tables are watched, and which groups a row of each belongs to.

use std::fmt;
use std::marker::PhantomData;

use groupcache_core::{ArgumentText, Error, Model, Result, check_fields};

use crate::change::fold_case;
use crate::error::configuration;

/// A table whose changes invalidate groups.
///
/// [`Watch::<Book>::table`](Watch::table) takes the groups from a [`Model`], so that the database and the
/// wrappers of handlers cannot disagree. [`watch`] is for tables without a model.
///
/// ```
/// use groupcache_core::Model;
/// use groupcache_sqlx::{Column, Watch, Watches, watch};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Book { id: i64, author_id: i64 }
///
/// impl Model for Book {
///     const NAME: &'static str = "book";
///     const GROUPS: &'static [&'static [&'static str]] = &[&["id"], &["author_id"]];
/// }
///
/// let favorites = watch("favorites")
///     .group("article", [Column::new("article_id").field("id")])
///     .group("user", [Column::new("user_id").field("id")]);
/// let watches = Watches::new().with(Watch::<Book>::table("books")).with(favorites);
/// ```
#[must_use = "a watch does nothing before it is added to `Watches` and installed"]
pub struct Watch<M = ()> {
    table: Table,
    model: PhantomData<fn() -> M>,
}

/// Watches a table that has no model, such as a join table.
///
/// The name is taken literally; it needs no quotes. Declare at least one group with [`Watch::group`] or
/// [`Watch::all_rows`].
pub fn watch(table: impl Into<String>) -> Watch {
    Watch { table: Table::new(table.into()), model: PhantomData }
}

impl<M: Model> Watch<M> {
    /// Watches a table whose rows are `M`.
    ///
    /// A changed row invalidates the group of all rows and one group for each set in [`Model::GROUPS`], as
    /// [`groups_of`](groupcache_core::groups_of) returns them. Each field is the column of the same name,
    /// unless [`column`](Self::column) says otherwise. The name of the table is taken literally.
    ///
    /// If [`Model::argument`] turns upper case into lower case for a field, the column is
    /// [case-insensitive](Column::case_insensitive). Then it has to use [`fold_case`](crate::fold_case); else it is
    /// an error when the watch is installed.
    pub fn table(name: impl Into<String>) -> Self {
        let mut table = Table::new(name.into());
        table.problem = check_fields::<M>().err().map(|error| error.to_string()).or_else(check_folding::<M>);
        table.groups.push(GroupColumns::all_rows(M::NAME));
        for set in M::GROUPS {
            let columns = set.iter().map(|field| Self::of_model(Column::new(*field))).collect();
            table.groups.push(GroupColumns { name: M::NAME.to_owned(), columns });
        }
        Self { table, model: PhantomData }
    }

    /// Says which column a field of the model is, if it has another name or is an array.
    ///
    /// Applies to the groups of the model. A field that is in no set of [`Model::GROUPS`] is an error when
    /// the watch is installed.
    pub fn column(mut self, column: impl Into<Column>) -> Self {
        let column = Self::of_model(column.into());
        if !M::GROUPS.iter().any(|set| set.contains(&column.field.as_str())) {
            let message = format!("model `{}` has no group by the field `{}`", M::NAME, column.field);
            self.table.problem.get_or_insert(message);
        }
        if column.folds_case && !folds_case::<M>(&column.field) {
            let message = format!(
                "column `{}` is case-insensitive: implement `Model::argument` of `{}` for the field `{}` with \
                 `fold_case`",
                column.name,
                M::NAME,
                column.field
            );
            self.table.problem.get_or_insert(message);
        }
        for group in self.table.groups.iter_mut().filter(|group| group.name == M::NAME) {
            for known in group.columns.iter_mut().filter(|known| known.field == column.field) {
                known.clone_from(&column);
            }
        }
        self
    }

    fn of_model(column: Column) -> Column {
        let folds_case = column.folds_case || folds_case::<M>(&column.field);
        Column { folds_case, ..column }
    }
}

impl<M> Watch<M> {
    /// Names the schema of the table. Defaults to the first one in the search path that has such a table.
    pub fn in_schema(mut self, schema: impl Into<String>) -> Self {
        self.table.schema = Some(schema.into());
        self
    }

    /// Declares that a row also belongs to the group of this name with these columns as its fields.
    ///
    /// A row of `favorites` that joins an article and a user belongs to a group of each.
    pub fn group<C: Into<Column>>(
        mut self,
        name: impl Into<String>,
        columns: impl IntoIterator<Item = C>,
    ) -> Self {
        let columns: Vec<Column> = columns.into_iter().map(Into::into).collect();
        let mut fields: Vec<_> = columns.iter().map(|column| column.field.as_str()).collect();
        fields.sort_unstable();
        if let Some(twice) = fields.windows(2).find(|pair| pair[0] == pair[1]) {
            let message =
                format!("table `{}` declares a group with the field `{}` twice", self.table.name, twice[0]);
            self.table.problem.get_or_insert(message);
        }
        self.table.groups.push(GroupColumns { name: name.into(), columns });
        self
    }

    /// Declares that a row also belongs to the group of this name without fields.
    pub fn all_rows(mut self, name: impl Into<String>) -> Self {
        self.table.groups.push(GroupColumns::all_rows(name));
        self
    }

    /// Limits updates to those that change one of these columns or a column of a group.
    ///
    /// Name every column that a cached value shows. Defaults to all updates, even those that change nothing.
    pub fn shows<C: Into<String>>(mut self, columns: impl IntoIterator<Item = C>) -> Self {
        self.table.shown = Some(columns.into_iter().map(Into::into).collect());
        self
    }
}

impl<M> fmt::Debug for Watch<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

/// A column whose value is a field of a group.
///
/// A plain name is a column whose field has the same name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub struct Column {
    pub(crate) name: String,
    pub(crate) field: String,
    pub(crate) is_array: bool,
    pub(crate) folds_case: bool,
}

impl Column {
    /// The column of this name, taken literally. Its field has the same name.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Self { field: name.clone(), name, is_array: false, folds_case: false }
    }

    /// Names the field of the group. Defaults to the name of the column.
    pub fn field(self, field: impl Into<String>) -> Self {
        Self { field: field.into(), ..self }
    }

    /// Takes each element of an array column as the field of a group of its own: a row with the tags `a` and
    /// `b` belongs to `tag{name=a}` and `tag{name=b}`. An empty array and a null belong to none.
    ///
    /// In SQLite, the column holds a JSON array.
    pub fn elements(self) -> Self {
        Self { is_array: true, ..self }
    }

    /// Compares the column without case: its text passes through [`fold_case`](crate::fold_case).
    ///
    /// Use `fold_case` for the fields of groups that the application builds, too.
    pub fn case_insensitive(self) -> Self {
        Self { folds_case: true, ..self }
    }
}

impl<T: Into<String>> From<T> for Column {
    fn from(name: T) -> Self {
        Self::new(name)
    }
}

/// The watched tables of an application: what is installed together.
///
/// An installation has exactly these. Installing others removes what was installed before, so all parts of an
/// application that share a schema declare the same.
#[derive(Debug, Clone, Default)]
#[must_use = "watches do nothing before they are installed"]
pub struct Watches {
    tables: Vec<Table>,
}

impl Watches {
    /// No tables.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table. A table can have several watches: its rows belong to the groups of each.
    pub fn with<M>(mut self, watch: Watch<M>) -> Self {
        self.tables.push(watch.table);
        self
    }

    /// The watches, those of one table together.
    pub(crate) fn by_table(&self) -> Result<Vec<Vec<&Table>>> {
        let mut tables: Vec<Vec<&Table>> = Vec::new();
        for table in &self.tables {
            table.check()?;
            match tables.iter_mut().find(|same| same[0].is_same_table(table)) {
                Some(same) => same.push(table),
                None => tables.push(vec![table]),
            }
        }
        Ok(tables)
    }
}

/// One watch of one table.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    pub(crate) schema: Option<String>,
    pub(crate) name: String,
    pub(crate) groups: Vec<GroupColumns>,
    /// The columns that cached values show, if only their changes count.
    pub(crate) shown: Option<Vec<String>>,
    pub(crate) problem: Option<String>,
}

/// A group that a row belongs to.
#[derive(Debug, Clone)]
pub(crate) struct GroupColumns {
    pub(crate) name: String,
    pub(crate) columns: Vec<Column>,
}

impl Table {
    const fn new(name: String) -> Self {
        Self { schema: None, name, groups: Vec::new(), shown: None, problem: None }
    }

    /// The columns of all groups, each once.
    pub(crate) fn group_columns(&self) -> Vec<&Column> {
        let mut columns: Vec<&Column> = Vec::new();
        for column in self.groups.iter().flat_map(|group| &group.columns) {
            if !columns.iter().any(|known| known.name == column.name) {
                columns.push(column);
            }
        }
        columns
    }

    /// The name as people write it: no two tables have the same.
    #[cfg(feature = "postgres")]
    pub(crate) fn display_name(&self) -> String {
        let quoted = |name: &str| match name.contains(['.', '"']) {
            true => format!("\"{}\"", name.replace('"', "\"\"")),
            false => name.to_owned(),
        };
        let parts: Vec<_> = self.schema.iter().chain([&self.name]).map(|name| quoted(name)).collect();
        parts.join(".")
    }

    fn is_same_table(&self, other: &Self) -> bool {
        self.schema == other.schema && self.name == other.name
    }

    fn check(&self) -> Result<()> {
        let wrong = |message: String| Err::<(), Error>(configuration(message));
        if let Some(problem) = &self.problem {
            return wrong(problem.clone());
        }
        let columns = self.groups.iter().flat_map(|group| &group.columns);
        let mut names: Vec<&str> = columns.flat_map(|column| [&*column.name, &*column.field]).collect();
        names.extend(self.groups.iter().map(|group| &*group.name));
        names.extend(self.shown.iter().flatten().map(|name| &**name));
        names.extend([&*self.name, self.schema.as_deref().unwrap_or("x")]);
        if names.iter().any(|name| name.is_empty() || name.contains('\0')) {
            return wrong(format!("a name in the watch of table `{}` is empty or has a NUL", self.name));
        }
        if self.groups.is_empty() {
            return wrong(format!("table `{}` is watched for no group", self.name));
        }
        for one in self.groups.iter().flat_map(|group| &group.columns) {
            let others = self.groups.iter().flat_map(|group| &group.columns);
            if others.clone().any(|other| other.name == one.name && other.is_array != one.is_array) {
                return wrong(format!("column `{}` is declared both with and without `elements`", one.name));
            }
            if others.clone().any(|other| other.name == one.name && other.folds_case != one.folds_case) {
                return wrong(format!("column `{}` is declared both with and without case", one.name));
            }
        }
        Ok(())
    }
}

impl GroupColumns {
    fn all_rows(name: impl Into<String>) -> Self {
        Self { name: name.into(), columns: Vec::new() }
    }
}

fn folds_case<M: Model>(field: &str) -> bool {
    M::argument(field, "Ab") == ArgumentText::Is("ab".to_owned())
}

/// Returns what is wrong if a field of the model is folded otherwise than the relay folds it.
fn check_folding<M: Model>() -> Option<String> {
    const LETTERS: &str = "ÉİΣ";
    let differs = |field: &&&str| {
        folds_case::<M>(field) && M::argument(field, LETTERS) != ArgumentText::Is(fold_case(LETTERS))
    };
    M::GROUPS.iter().copied().flatten().find(differs).map(|field| {
        format!(
            "`Model::argument` of `{}` folds the case of the field `{field}` with another function than \
             `groupcache_sqlx::fold_case`",
            M::NAME
        )
    })
}
