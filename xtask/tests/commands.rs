//! The commands in documents exist, with the options that they are shown with.

use clap::error::ErrorKind;
use pulldown_cmark::{Event, Parser, Tag, TagEnd};

mod workspace;

/// The commands of `cargo xtask` and `zcnic-lab` in the code blocks of a document, one word after the
/// other. Text behind two spaces explains a command.
fn commands(markdown: &str) -> Vec<Vec<String>> {
    let mut code = String::new();
    let mut inside = false;
    for event in Parser::new_ext(markdown, workspace::DIALECT) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => inside = true,
            Event::End(TagEnd::CodeBlock) => inside = false,
            Event::Text(text) if inside => code.push_str(&text),
            _ => {}
        }
    }
    // A backslash continues a line, however far the rest is indented.
    let pieces: Vec<_> = code.split(" \\\n").map(str::trim_start).collect();
    let code = pieces.join(" ");
    let lines = code
        .lines()
        .map(|line| line.trim_start_matches("$ ").trim());
    lines.filter_map(command).collect()
}

fn command(line: &str) -> Option<Vec<String>> {
    let rest = line
        .strip_prefix("cargo xtask ")
        .or_else(|| line.strip_prefix("zcnic-lab "))?;
    let rest = rest.split("  ").next().unwrap_or_default();
    // A shell takes what follows, and a substitution stands for any word.
    let mut words = Vec::new();
    for word in shlex::split(&rest.replace("$(", "'$(").replace(')', ")'"))? {
        if ["|", "<", ">", "&&", ";", "…"].contains(&&*word) || word.starts_with(['<', '>']) {
            break;
        }
        let last = word.trim_end_matches(';');
        words.push(last.to_owned());
        if last != word {
            break;
        }
    }
    Some(words)
}

#[test]
fn documented_commands_are_accepted() {
    let mut problems = Vec::new();
    let mut number = 0;
    for file in workspace::files(&["md"]) {
        if file.starts_with("docs/decisions") {
            continue;
        }
        for words in commands(&workspace::read(&file)) {
            number += 1;
            let refused = xtask::check_arguments(&words);
            // A file of an example need not be here.
            if let Err(error) = refused
                && !matches!(
                    error.kind(),
                    ErrorKind::ValueValidation | ErrorKind::DisplayHelp
                )
            {
                let reason = error.to_string();
                let reason = reason.lines().next().unwrap_or_default();
                problems.push(format!("{}: {words:?}: {reason}", file.display()));
            }
        }
    }
    assert!(number > 50, "only {number} commands");
    workspace::none_of(&problems);
}

#[test]
fn a_command_ends_where_the_shell_or_its_explanation_begins() {
    let words = |line: &str| command(line).unwrap().join("|");
    assert_eq!(
        words("cargo xtask vm -- sh -c 'a; b' < in; echo"),
        "vm|--|sh|-c|a; b"
    );
    assert_eq!(words("zcnic-lab demo    for users"), "demo");
    assert_eq!(
        words("cargo xtask kselftest --kernel $(cargo xtask kernel debug) | less"),
        "kselftest|--kernel|$(cargo xtask kernel debug)"
    );
    assert_eq!(command("cargo test"), None);
    let document = "    $ cargo xtask vm \\\n        --cpus 2\n";
    assert_eq!(commands(document), [["vm", "--cpus", "2"]]);
}
