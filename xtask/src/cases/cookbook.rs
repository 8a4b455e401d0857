//! The recipes of docs/cookbook.md: each stream arrives whole although the recipe's faults hit.

use std::fs;

use anyhow::{Context, Result, ensure};
use pulldown_cmark::{Event, Parser, Tag, TagEnd};
use serde::Deserialize;
use zcnic_testbed::{control::Control, guest::Guest, paths, step::step, stream::Stream};

use super::test::{Kind::Zcnic, Run, Test, expect};

pub(super) const TESTS: &[Test] = &[Test {
    name: "documents: every recipe of faults hits, and every byte arrives",
    run: Run::Guest(Zcnic, recipes),
}];

const DOCUMENT: &str = "docs/cookbook.md";
const PROGRAM: &str = "zcnicctl ";

/// The answer to `fault add`.
#[derive(Deserialize)]
struct Ids {
    ids: Vec<u64>,
}

/// Returns the commands of each block, without the program's name.
fn blocks(markdown: &str) -> Result<Vec<Vec<String>>> {
    let mut found = Vec::new();
    let mut inside = false;
    for event in Parser::new(markdown) {
        match event {
            Event::Start(Tag::CodeBlock(_)) => {
                inside = true;
                found.push(String::new());
            }
            Event::End(TagEnd::CodeBlock) => inside = false,
            Event::Text(text) if inside => {
                if let Some(block) = found.last_mut() {
                    block.push_str(&text);
                }
            }
            _ => {}
        }
    }
    found
        .iter()
        .map(|block| {
            let block = block.replace(" \\\n    ", " ");
            let commands = block.lines().map(|line| {
                let rest = line.strip_prefix(PROGRAM);
                rest.map(str::to_owned)
                    .with_context(|| format!("{line} is no call of zcnicctl"))
            });
            commands.collect()
        })
        .collect()
}

fn recipes(guest: &mut Guest) -> Result<()> {
    let path = paths::workspace().join(DOCUMENT);
    let recipes = blocks(&fs::read_to_string(path).context(DOCUMENT)?)?;
    ensure!(
        recipes.len() > 10,
        "{DOCUMENT} has {} recipes",
        recipes.len()
    );
    let mut failed = Vec::new();
    for recipe in recipes {
        let name = recipe[0].replace("fault add ", "");
        if let Err(error) = step(&name, || follow(guest, &recipe)) {
            failed.push(format!("{name}: {error:#}"));
        }
        for port in ["0", "1"] {
            let remove = ["--port", port, "fault", "remove", "--all"];
            guest.control()?.run(&remove)?;
        }
    }
    expect(failed.is_empty(), || failed.join("\n"))
}

fn follow(guest: &mut Guest, recipe: &[String]) -> Result<()> {
    let mut rules = Vec::new();
    for command in recipe {
        let words: Vec<_> = command.split_whitespace().collect();
        let Ids { ids } = guest.control()?.ask(&words)?;
        rules.extend(ids);
    }
    let stream = Stream {
        bytes: 4 << 20,
        ..Stream::default()
    };
    let arrived = stream.run(guest)?.bytes_verified;
    ensure!(
        arrived == stream.bytes,
        "{arrived} bytes of {} arrived",
        stream.bytes
    );
    let control = guest.control()?;
    rules.iter().try_for_each(|rule| has_hit(&control, *rule))?;
    let problems = guest.gate()?;
    ensure!(problems.is_empty(), "{}", problems.join("; "));
    Ok(())
}

fn has_hit(control: &Control, rule: u64) -> Result<()> {
    let rule = rule.to_string();
    control.run(&["fault", "wait", &rule, "--timeout", "30s"])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_the_commands_of_a_block() {
        let found =
            blocks("Loss:\n\n    zcnicctl fault add rx drop \\\n        --nth 3\n").unwrap();
        assert_eq!(found.len(), 1);
        let words: Vec<_> = found[0][0].split_whitespace().collect();
        assert_eq!(words, ["fault", "add", "rx", "drop", "--nth", "3"]);
        assert!(blocks("Now\n\n    reboot\n").is_err());
    }
}
