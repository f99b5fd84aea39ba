//! Results as tables, for tools that query them (databases, notebooks). Responsible for turning rows of any result type into a
//! data frame and for writing it as Parquet; not for what is in the rows.
//!
//! A column is a field of the row's JSON, nested ones by their path (`ages.median_ns`). A list of figures by name becomes a
//! column of each (`classes.scratch.bytes`); a stack becomes one text, its functions joined by `;`, innermost first; other
//! lists are kept as JSON. Types come from the values: unsigned integers, floats, truth values, text; what is missing is
//! null.

use std::collections::BTreeMap;
use std::io::Write;

use polars::prelude::{Column, DataFrame, ParquetWriter, PolarsError};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::AnalysisError;

/// A data frame of rows. Columns stand in the order in which the rows first have them.
///
/// # Errors
/// The rows do not serialise to JSON objects.
pub fn table(rows: &[impl Serialize]) -> Result<DataFrame, AnalysisError> {
    let wrong = |what: String| AnalysisError::Table { what };
    let mut order: Vec<String> = Vec::new();
    let mut columns: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for (at, row) in rows.iter().enumerate() {
        let Value::Object(fields) = serde_json::to_value(row).map_err(|error| wrong(error.to_string()))? else {
            return Err(wrong("a row is no object".to_owned()));
        };
        let mut flat = Vec::new();
        flatten("", fields, &mut flat);
        for (name, value) in flat {
            let column = columns.entry(name.clone()).or_insert_with(|| {
                order.push(name);
                Vec::new()
            });
            column.resize(at, Value::Null);
            column.push(value);
        }
    }
    let columns = order.into_iter().map(|name| {
        let mut values = columns.remove(&name).unwrap_or_default();
        values.resize(rows.len(), Value::Null);
        column(&name, &values)
    });
    DataFrame::new(rows.len(), columns.collect()).map_err(|error| wrong(error.to_string()))
}

/// Writes a data frame as Parquet, compressed.
///
/// # Errors
/// The file cannot be written.
pub fn write_parquet(table: &mut DataFrame, to: impl Write) -> Result<(), AnalysisError> {
    let wrong = |error: PolarsError| AnalysisError::Table { what: error.to_string() };
    ParquetWriter::new(to).finish(table).map_err(wrong)?;
    Ok(())
}

fn flatten(prefix: &str, fields: Map<String, Value>, to: &mut Vec<(String, Value)>) {
    for (name, value) in fields {
        let path = if prefix.is_empty() { name } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(inner) => flatten(&path, inner, to),
            Value::Array(rows) => flatten_list(path, rows, to),
            value => to.push((path, value)),
        }
    }
}

fn flatten_list(path: String, rows: Vec<Value>, to: &mut Vec<(String, Value)>) {
    let text = |row: &Value, field: &str| row.get(field).and_then(Value::as_str).map(str::to_owned);
    let functions: Option<Vec<String>> = rows.iter().map(|row| text(row, "function")).collect();
    if path.ends_with("classes") {
        for row in rows {
            if let (Some(class), Value::Object(mut figures)) = (text(&row, "class"), row) {
                figures.remove("class");
                flatten(&format!("{path}.{class}"), figures, to);
            }
        }
    } else if let Some(functions) = functions.filter(|_| path.ends_with("stack")) {
        to.push((path, Value::String(functions.join(";"))));
    } else {
        to.push((path, Value::String(Value::Array(rows).to_string())));
    }
}

fn column(name: &str, values: &[Value]) -> Column {
    let known = || values.iter().filter(|value| !value.is_null());
    let name = name.into();
    if known().next().is_none() {
        Column::new(name, vec![None::<String>; values.len()])
    } else if known().all(Value::is_u64) {
        Column::new(name, values.iter().map(Value::as_u64).collect::<Vec<_>>())
    } else if known().all(Value::is_number) {
        Column::new(name, values.iter().map(Value::as_f64).collect::<Vec<_>>())
    } else if known().all(Value::is_boolean) {
        Column::new(name, values.iter().map(Value::as_bool).collect::<Vec<_>>())
    } else {
        let text = |value: &Value| match value {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        };
        Column::new(name, values.iter().map(text).collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    use polars::prelude::{ParquetReader, SerReader};
    use serde_json::json;

    #[test]
    fn rows_become_typed_columns_and_survive_a_file() {
        let rows = [
            json!({"name": "a", "bytes": 7, "share": 0.5, "leak": true, "ages": {"median": 3}, "gone": null,
                   "classes": [{"class": "scratch", "count": 1, "bytes": 2}],
                   "stack": [{"function": "f", "line": 1}, {"function": "main", "line": 2}]}),
            json!({"name": "b", "bytes": u64::MAX, "share": 1, "leak": false, "ages": {"median": null},
                   "classes": [{"class": "durable", "count": 3, "bytes": 4}], "stack": [], "late": [1, 2]}),
        ];
        let mut frame = table(&rows).unwrap();
        let names: Vec<String> = frame.get_column_names().iter().map(ToString::to_string).collect();
        for name in ["name", "bytes", "share", "leak", "ages.median", "gone", "classes.scratch.bytes", "stack", "late"]
        {
            assert!(names.contains(&name.to_owned()), "{name} of {names:?}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rows.parquet");
        write_parquet(&mut frame, File::create(&path).unwrap()).unwrap();
        let read = ParquetReader::new(File::open(&path).unwrap()).finish().unwrap();
        assert_eq!(read.height(), 2);
        assert_eq!(read.column("bytes").unwrap().u64().unwrap().get(1), Some(u64::MAX));
        assert_eq!(read.column("share").unwrap().f64().unwrap().get(1), Some(1.0));
        assert_eq!(read.column("leak").unwrap().bool().unwrap().get(0), Some(true));
        assert_eq!(read.column("ages.median").unwrap().u64().unwrap().get(1), None);
        assert_eq!(read.column("stack").unwrap().str().unwrap().get(0), Some("f;main"));
        assert_eq!(read.column("classes.durable.count").unwrap().u64().unwrap().get(0), None);
        assert_eq!(read.column("late").unwrap().str().unwrap().get(1), Some("[1,2]"));
    }

    #[test]
    fn no_rows_are_an_empty_table() {
        assert_eq!(table(&[] as &[Value]).unwrap().height(), 0);
        assert!(table(&[1, 2]).is_err());
    }
}
