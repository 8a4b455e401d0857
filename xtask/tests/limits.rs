//! Every limit in docs/limits.md has a test that enforces it: the document names it, and it exists.

use std::path::Path;

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

#[expect(dead_code, reason = "the document names the files")]
mod workspace;

/// The rows of the tables of a document: the text of the first cell, and the links of the last one
/// with their texts.
fn rows(markdown: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut rows = Vec::new();
    let (mut first, mut cell, mut text, mut links) = (String::new(), 0, String::new(), Vec::new());
    let mut in_link = false;
    for event in Parser::new_ext(markdown, workspace::DIALECT) {
        match event {
            Event::Start(Tag::TableRow) => (cell, links) = (0, Vec::new()),
            Event::Start(Tag::TableCell) => {
                links.clear();
                text.clear();
            }
            Event::Start(Tag::Link { dest_url, .. }) => {
                links.push((dest_url.into_string(), String::new()));
                in_link = true;
            }
            Event::End(TagEnd::Link) => in_link = false,
            Event::Text(part) | Event::Code(part) => {
                text.push_str(&part);
                if let Some((_, name)) = links.last_mut().filter(|_| in_link) {
                    name.push_str(&part);
                }
            }
            Event::End(TagEnd::TableCell) => {
                if cell == 0 {
                    first.clone_from(&text);
                }
                cell += 1;
            }
            Event::End(TagEnd::TableRow) => rows.push((first.clone(), links.clone())),
            _ => {}
        }
    }
    rows
}

/// Whether a file has a test with this name: a function behind `#[test]`, or a line of a macro that
/// makes one per name.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let function = format!("fn {name}(");
    let behind = |index: usize| {
        lines[..index]
            .iter()
            .rev()
            .take_while(|line| line.starts_with("#["))
    };
    lines.iter().enumerate().any(|(index, line)| {
        line.starts_with(&function) && behind(index).any(|line| *line == "#[test]")
            || line.starts_with(&format!("{name}:")) && source.contains("fn $name()")
    })
}

#[test]
fn every_limit_has_a_test_that_exists() {
    let document = Path::new("docs/limits.md");
    let mut problems = Vec::new();
    let rows = rows(&workspace::read(document));
    assert!(rows.len() > 30, "the tables are read");
    for (what, tests) in rows {
        if tests.is_empty() {
            problems.push(format!("no test enforces: {what}"));
        }
        for (file, name) in tests {
            let path = Path::new("docs").join(&file);
            if !has_test(&workspace::read(&path), &name) {
                problems.push(format!("{file} has no test {name}, for: {what}"));
            }
        }
    }
    workspace::none_of(&problems);
}

#[test]
fn a_test_is_a_function_with_its_attribute_or_a_line_of_a_macro() {
    let source = "#[test]\n#[cfg(unix)]\nfn one() {}\nfn other() {}\n";
    assert!(has_test(source, "one"));
    assert!(!has_test(source, "other") && !has_test(source, "on"));
    let made = "macro_rules! m { fn $name() {} }\nm! {\n    a_row: 5;\n}\n";
    assert!(has_test(made, "a_row") && !has_test(made, "row"));
}
