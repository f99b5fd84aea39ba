//! Tables of an audit. Responsible for rows whose cells have names, so that JSON has them as fields; not for layout.

use serde::ser::{Serialize, SerializeMap as _, Serializer};

use super::sentence::Value;

/// A table.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Table {
    /// Which one, for programs.
    pub name: &'static str,
    /// What it shows, in words.
    pub caption: &'static str,
    /// Its columns: names of fields in JSON, and their heads.
    #[serde(skip)]
    pub columns: Vec<(&'static str, &'static str)>,
    /// Rows there are; `rows` may hold fewer.
    pub row_count: u64,
    /// Rows that `rows` leaves out.
    pub left_out_count: u64,
    /// The heaviest.
    #[serde(serialize_with = "as_maps")]
    rows: Vec<Row>,
}

#[derive(Debug, Clone, PartialEq)]
struct Row {
    columns: Vec<&'static str>,
    cells: Vec<Value>,
}

impl Table {
    /// A table with the first `limit` of these rows.
    ///
    /// # Panics
    /// A row has more or fewer cells than there are columns: our own bug.
    pub fn new(
        (name, caption): (&'static str, &'static str),
        columns: &[(&'static str, &'static str)],
        limit: usize,
        rows: impl IntoIterator<Item = Vec<Value>>,
    ) -> Self {
        let mut row_count = 0;
        let mut kept = Vec::new();
        let keys: Vec<&'static str> = columns.iter().map(|(key, _)| *key).collect();
        for cells in rows {
            assert_eq!(cells.len(), columns.len(), "{name}: cells of a row");
            row_count += 1;
            if kept.len() < limit {
                kept.push(Row { columns: keys.clone(), cells });
            }
        }
        let left_out_count = row_count - kept.len() as u64;
        Self { name, caption, columns: columns.to_vec(), row_count, left_out_count, rows: kept }
    }

    /// The cells, row by row.
    pub fn rows(&self) -> impl Iterator<Item = &[Value]> {
        self.rows.iter().map(|row| row.cells.as_slice())
    }
}

fn as_maps<S: Serializer>(rows: &[Row], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(rows)
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.cells.len()))?;
        for (column, cell) in self.columns.iter().zip(&self.cells) {
            map.serialize_entry(column, cell)?;
        }
        map.end()
    }
}
