//! The driver's files call downwards only: no two of them depend on each other, directly or through
//! others.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

const DRIVER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../images/driver");

/// The files' code by name, without comments and includes.
fn sources() -> BTreeMap<String, String> {
    let mut sources = BTreeMap::new();
    for item in fs::read_dir(Path::new(DRIVER)).expect("images/driver can be listed") {
        let path = item.expect("images/driver can be listed").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.ends_with(".c") && !name.ends_with(".mod.c") {
            let text = fs::read_to_string(&path).expect("it can be read");
            sources.insert(name.into_owned(), without_comments(&text));
        }
    }
    sources
}

fn without_comments(text: &str) -> String {
    let mut pieces = text.split("/*");
    let mut code = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        code.push_str(piece.split_once("*/").map_or("", |(_, rest)| rest));
    }
    code.lines()
        .filter(|line| !line.starts_with("#include"))
        .map(|line| format!("{line}\n"))
        .collect()
}

/// The identifiers of a text.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
}

/// Functions and tables that other files can use: names before a parenthesis or an initializer on lines
/// that begin a definition.
fn exported(code: &str) -> BTreeSet<&str> {
    let starts = code.lines().filter(|line| {
        line.starts_with(|c: char| c.is_ascii_lowercase())
            && !line.starts_with("static ")
            && !line.ends_with(';')
    });
    starts
        .filter_map(|line| {
            let end = line.find(['(', '='])?;
            words(line[..end].trim_end()).last()
        })
        .filter(|name| name.starts_with("zcnic_"))
        .collect()
}

#[test]
fn no_two_files_depend_on_each_other() {
    let sources = sources();
    let mut homes = BTreeMap::new();
    for (file, code) in &sources {
        homes.extend(exported(code).into_iter().map(|name| (name, file.as_str())));
    }
    assert!(homes.len() > 100, "only {} names are exported", homes.len());

    let mut needs: BTreeMap<&str, BTreeSet<&str>> = sources
        .iter()
        .map(|(file, code)| {
            let used = words(code).filter_map(|word| homes.get(word).copied());
            (file.as_str(), used.filter(|home| home != file).collect())
        })
        .collect();
    // Layer by layer, from the files that need no other.
    loop {
        let ready: Vec<_> = needs
            .iter()
            .filter(|(_, needed)| needed.is_empty())
            .map(|(file, _)| *file)
            .collect();
        if ready.is_empty() {
            break;
        }
        for file in ready {
            needs.remove(file);
            needs.values_mut().for_each(|needed| {
                needed.remove(file);
            });
        }
    }
    assert!(needs.is_empty(), "these files form a circle: {needs:#?}");
}
