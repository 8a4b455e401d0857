//! Tests that documents name as evidence exist: a link to a Rust file whose text is a name names a test
//! in that file, unless it is the file's own name.

use std::{collections::BTreeSet, path::Path};

use pulldown_cmark::{Event, Parser, Tag, TagEnd};

mod workspace;

/// Links of a document to Rust files by a name: the file as the link has it, and the name.
fn evidence(markdown: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut file: Option<String> = None;
    for event in Parser::new_ext(markdown, workspace::DIALECT) {
        match event {
            Event::Start(Tag::Link { dest_url, .. }) => {
                file = dest_url.ends_with(".rs").then(|| dest_url.into_string());
            }
            Event::Code(name) if is_name(&name) => {
                let file = file
                    .take()
                    .filter(|file| !file.ends_with(&format!("/{name}.rs")));
                found.extend(file.map(|file| (file, name.into_string())));
            }
            Event::End(TagEnd::Link) => file = None,
            _ => {}
        }
    }
    found
}

fn is_name(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

/// Whether a file has a test with this name: a function behind `#[test]`, or a row of a macro that makes
/// a function of each.
fn has_test(source: &str, name: &str) -> bool {
    let lines: Vec<_> = source.lines().map(str::trim).collect();
    let function = format!("fn {name}(");
    let row = format!("{name}:");
    let is_test = |index: usize| {
        let above = lines[..index].iter().rev();
        let mut attributes =
            above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        attributes.any(|line| *line == "#[test]")
    };
    lines.iter().enumerate().any(|(index, line)| {
        line.starts_with(&function) && is_test(index)
            || line.starts_with(&row) && source.contains("fn $name()")
    })
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut problems = Vec::new();
    for document in workspace::files(&["md"]) {
        for (file, name) in evidence(&workspace::read(&document)) {
            let path = document.parent().unwrap_or(Path::new("")).join(&file);
            if !has_test(&workspace::read(&path), &name) {
                problems.push(format!("{}: {file} has no test {name}", document.display()));
            }
        }
    }
    workspace::none_of(&problems);
}

#[test]
fn every_party_of_the_security_model_has_evidence() {
    let text = workspace::read(Path::new("docs/security.md"));
    let (_, parties) = text
        .split_once("## What each party can and can't do")
        .unwrap();
    let (parties, sandbox) = parties.split_once("## Sandbox").unwrap();
    let mut names = BTreeSet::new();
    let sections = parties.split("### ").skip(1).chain([sandbox]);
    for section in sections {
        let named = evidence(section);
        assert!(
            !named.is_empty(),
            "no test: {}",
            section.lines().next().unwrap()
        );
        names.extend(named);
    }
    assert!(names.len() > 30, "only {} tests are named", names.len());
}

#[test]
fn a_test_is_a_function_with_its_attribute_or_a_row_of_a_macro() {
    let source = "#[test]\n// Why.\n#[cfg(unix)]\nfn one() {}\nfn other() {}\n";
    assert!(has_test(source, "one"));
    assert!(!has_test(source, "other") && !has_test(source, "on"));
    let made = "macro_rules! m { fn $name() {} }\nm! {\n    a_row: 5;\n}\n";
    assert!(has_test(made, "a_row") && !has_test(made, "row"));
    let text =
        "[`a_test`](a/b.rs) [`Type`](a/b.rs) [words](a/b.rs) [`b`](a/b.rs) `code` [`name`](b.md)";
    assert_eq!(evidence(text), [("a/b.rs".to_owned(), "a_test".to_owned())]);
}
