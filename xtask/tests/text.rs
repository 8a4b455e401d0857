//! Limits: columns of a line of markdown, lines of a file and of a function in C. Clippy counts the lines
//! of Rust's functions. And programs of the host, which the commands call through `host::command`: it also
//! finds them where an ordinary user's `PATH` does not look.

use std::{collections::BTreeSet, ops::Range};

use pulldown_cmark::{Event, Parser, Tag};

mod workspace;

/// Columns of a line of markdown.
const COLUMNS: usize = 100;
/// Columns of a link from which on its line can't be made short by breaking it.
const LONG_LINK: usize = 80;
/// Lines of a file, and of a function in C.
const FILE_LINES: usize = 600;
const FUNCTION_LINES: usize = 100;

/// The lines around text that `cargo xtask tables` writes.
const GENERATED: [&str; 2] = ["<!-- begin: cargo xtask tables -->", "<!-- end -->"];

/// Numbers of the lines that are too long; code, tables and generated text may have any length.
fn long_lines(text: &str) -> Vec<usize> {
    let line_of = |offset: usize| text[..offset].matches('\n').count();
    let lines_of = |range: &Range<usize>| line_of(range.start)..=line_of(range.end);
    let mut exempt = BTreeSet::new();
    for (event, range) in Parser::new_ext(text, workspace::DIALECT).into_offset_iter() {
        match event {
            Event::Start(Tag::CodeBlock(_) | Tag::Table(_)) => exempt.extend(lines_of(&range)),
            Event::Start(Tag::Link { .. } | Tag::Image { .. }) if range.len() > LONG_LINK => {
                exempt.extend(lines_of(&range));
            }
            _ => {}
        }
    }
    let mut generated = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        generated = match line {
            _ if line == GENERATED[0] => true,
            _ if line == GENERATED[1] => false,
            _ => generated,
        };
        if line.chars().count() > COLUMNS && !generated && !exempt.contains(&number) {
            found.push(number + 1);
        }
    }
    found
}

/// First lines and lengths of functions in C that are too long: in the kernel's style a body begins and ends
/// with a brace in the first column.
fn long_functions(text: &str) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut start = None;
    for (number, line) in text.lines().enumerate() {
        match line {
            "{" => start = Some(number),
            "}" => {
                let begun = start.take();
                if let Some(begun) = begun.filter(|begun| number - begun - 1 > FUNCTION_LINES) {
                    found.push((begun, number - begun - 1));
                }
            }
            _ => {}
        }
    }
    found
}

#[test]
fn documents_are_wrapped() {
    let mut problems = Vec::new();
    for path in workspace::files(&["md"]) {
        for line in long_lines(&workspace::read(&path)) {
            let path = path.display();
            problems.push(format!("{path}:{line}: more than {COLUMNS} columns"));
        }
    }
    workspace::none_of(&problems);
}

#[test]
fn files_are_short() {
    let mut problems = Vec::new();
    for path in workspace::files(&["rs", "c", "h", "md"]) {
        let lines = workspace::read(&path).lines().count();
        if lines > FILE_LINES {
            let path = path.display();
            problems.push(format!("{path}: {lines} lines, not {FILE_LINES}"));
        }
    }
    workspace::none_of(&problems);
}

#[test]
fn functions_in_c_are_short() {
    let mut problems = Vec::new();
    for path in workspace::files(&["c", "h"]) {
        for (line, lines) in long_functions(&workspace::read(&path)) {
            let path = path.display();
            problems.push(format!(
                "{path}:{line}: a function of {lines} lines, not {FUNCTION_LINES}"
            ));
        }
    }
    workspace::none_of(&problems);
}

#[test]
fn code_tables_and_long_links_may_be_long() {
    let long = "word ".repeat(30);
    let link = format!("[text](https://example.org/{})", "x".repeat(90));
    let text = format!(
        "{long}\n\n    {long}\n\n| a |\n| --- |\n| {long} |\n\nsee {link}\n\n{}\n{long}\n{}\n{long}\n",
        GENERATED[0], GENERATED[1]
    );
    assert_eq!(long_lines(&text), [1, 14]);
}

#[test]
fn a_long_function_is_found() {
    let text = format!(
        "int f(void)\n{{\n{}}}\n\nint g(void)\n{{\n}}\n",
        "\tx();\n".repeat(101)
    );
    assert_eq!(long_functions(&text), [(1, 101)]);
}

/// Returns the lines of `text` that start a program by its bare name, but for those of its tests.
fn bare_names(text: &str) -> Vec<usize> {
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let bare = |line: &str| {
        let name = line.split("Command::new(\"").nth(1);
        name.is_some_and(|name| !name.starts_with('/'))
    };
    let lines = code.lines().enumerate().filter(|(_, line)| bare(line));
    lines.map(|(number, _)| number + 1).collect()
}

#[test]
fn programs_are_looked_up_in_one_place() {
    let mut problems = Vec::new();
    for file in workspace::files(&["rs"]) {
        let name = file.display().to_string();
        // Build scripts call git only.
        let exempt = name.contains("/tests/") || name.starts_with("xtask/version/");
        if name.starts_with("xtask/") && !exempt {
            let lines = bare_names(&workspace::read(&file));
            problems.extend(lines.iter().map(|line| {
                format!("{name}:{line}: call host::command, which searches /usr/sbin as well")
            }));
        }
    }
    workspace::none_of(&problems);
}

#[test]
fn a_bare_name_is_found() {
    let text = "let a = Command::new(program);\nrun(Command::new(\"mke2fs\"));\n\
                Command::new(\"/bin/sh\");\n#[cfg(test)]\nCommand::new(\"sh\");\n";
    assert_eq!(bare_names(text), [2]);
}
