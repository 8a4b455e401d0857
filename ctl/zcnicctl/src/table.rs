//! Tables for people.

use serde_json::Value;

/// Lines of aligned columns; numbers to the right.
pub(crate) fn table(header: &[&str], rows: &[Vec<String>]) -> String {
    let cells = || {
        std::iter::once(header.iter().map(|cell| (*cell).to_owned()).collect())
            .chain(rows.iter().cloned())
    };
    let mut widths = vec![0; header.len()];
    for row in cells() {
        let row: Vec<String> = row;
        for (width, cell) in widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let is_number = |cell: &str| cell.starts_with(|first: char| first.is_ascii_digit());
    let numeric: Vec<bool> = (0..header.len())
        .map(|column| {
            rows.iter()
                .filter_map(|row| row.get(column))
                .all(|cell| cell == "-" || is_number(cell))
        })
        .collect();
    let mut text = String::new();
    for row in cells() {
        let mut line = String::new();
        for ((cell, width), numeric) in row.iter().zip(&widths).zip(&numeric) {
            line += &if *numeric && is_number(cell) {
                format!("{cell:>width$}  ")
            } else {
                format!("{cell:<width$}  ")
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// A value in one or a few words.
pub(crate) fn brief(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::String(text) => text.clone(),
        Value::Array(values) if values.is_empty() => "-".into(),
        Value::Array(values) => {
            let words: Vec<String> = values.iter().map(brief).collect();
            words.join(",")
        }
        Value::Object(members) => {
            let words = members
                .iter()
                .map(|(name, value)| format!("{name}={}", brief(value)));
            words.collect::<Vec<_>>().join(" ")
        }
        Value::Number(number) => number.to_string(),
    }
}

/// A table of objects, with these members as columns.
pub(crate) fn objects(values: &Value, columns: &[&str]) -> String {
    let rows: Vec<Vec<String>> = values
        .as_array()
        .map_or(&[][..], Vec::as_slice)
        .iter()
        .map(|object| {
            let cells = columns.iter().map(|column| {
                let place = format!("/{}", column.replace('.', "/"));
                brief(object.pointer(&place).unwrap_or(&Value::Null))
            });
            cells.collect()
        })
        .collect();
    table(columns, &rows)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_are_aligned() {
        let values = json!([
            {"name": "a", "count": 5, "rx": {"size": 256}},
            {"name": "long", "count": 12345, "on": true},
        ]);
        assert_eq!(
            objects(&values, &["name", "count", "on", "rx.size"]),
            "name  count  on   rx.size\n\
             a         5  -        256\n\
             long  12345  yes  -\n"
        );
    }
}
