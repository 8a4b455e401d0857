//! The tutorial, followed word by word in a fresh clone.
//!
//! Indented code blocks are commands for a shell, run in order. A fenced block of `text` is what the
//! block before it has to print: the beginnings of lines, where any number stands for any other. If it
//! begins with `error:`, that block has to fail.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, bail};
use pulldown_cmark::{CodeBlockKind, Event, Parser, Tag, TagEnd};
use zcnic_testbed::{
    paths,
    provision::host,
    setup::Setup,
    step::{output, run, step, tail},
};

use super::test::{Run::Host, Test};

pub(super) const TESTS: &[Test] = &[Test {
    name: "documents: the tutorial's commands print what it says",
    run: Host(tutorial),
}];

const TUTORIAL: &str = "docs/tutorial.md";

/// Lines of a block's output in an error.
const SHOWN: usize = 60;

/// The commands of a block, and the output that the document shows for them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Block {
    /// The heading above it.
    section: String,
    commands: String,
    shown: Option<String>,
}

impl Block {
    fn fails(&self) -> bool {
        self.shown
            .as_ref()
            .is_some_and(|shown| shown.starts_with("error:"))
    }

    /// Fails unless the block ended and printed as the document says.
    fn judge(&self, ended: &Output) -> Result<()> {
        let mut printed = String::from_utf8_lossy(&ended.stdout).into_owned();
        printed.push_str(&String::from_utf8_lossy(&ended.stderr));
        let told = || format!("{}\n{}", self.commands, tail(&printed, SHOWN));
        if ended.status.success() == self.fails() {
            bail!("ended with {}:\n{}", ended.status, told());
        }
        let lines: Vec<_> = printed.lines().map(without_numbers).collect();
        for wanted in self.shown.iter().flat_map(|shown| shown.lines()) {
            let wanted = without_numbers(wanted);
            if !lines.iter().any(|line| line.starts_with(&wanted)) {
                bail!("no line {wanted:?}:\n{}", told());
            }
        }
        Ok(())
    }
}

/// The code blocks of a document.
fn blocks(markdown: &str) -> Result<Vec<Block>> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut shows = None;
    let (mut section, mut in_heading) = (String::new(), false);
    for event in Parser::new(markdown) {
        match event {
            Event::Start(Tag::Heading { .. }) => {
                section.clear();
                in_heading = true;
            }
            Event::End(TagEnd::Heading(_)) => in_heading = false,
            Event::Text(text) | Event::Code(text) if in_heading => section.push_str(&text),
            Event::Start(Tag::CodeBlock(kind)) => {
                let output = matches!(&kind, CodeBlockKind::Fenced(info) if &**info == "text");
                if output {
                    let before = blocks.last_mut().context("output before any command")?;
                    before.shown = Some(String::new());
                } else {
                    blocks.push(Block {
                        section: section.clone(),
                        ..Block::default()
                    });
                }
                shows = Some(output);
            }
            Event::End(TagEnd::CodeBlock) => shows = None,
            Event::Text(text) => match (shows, blocks.last_mut()) {
                (Some(true), Some(block)) => block.shown.get_or_insert_default().push_str(&text),
                (Some(false), Some(block)) => block.commands.push_str(&text),
                _ => {}
            },
            _ => {}
        }
    }
    Ok(blocks)
}

/// Replaces each number by `#`.
fn without_numbers(line: &str) -> String {
    let mut text = String::new();
    for character in line.trim().chars() {
        if !character.is_ascii_digit() {
            text.push(character);
        } else if !text.ends_with('#') {
            text.push('#');
        }
    }
    text
}

fn tutorial(_: &Setup) -> Result<()> {
    let directory = tempfile::tempdir()?;
    let clone = directory.path().join("zcnic");
    run(host::command("git")
        .args(["clone", "--quiet"])
        .arg(paths::workspace())
        .arg(&clone))?;
    let document = fs::read_to_string(clone.join(TUTORIAL)).context(TUTORIAL)?;
    let variables = directory.path().join("variables");
    fs::write(&variables, "")?;
    let blocks = blocks(&document)?;
    for part in blocks.chunk_by(|one, next| one.section == next.section) {
        step(&format!("follow {:?}", part[0].section), || {
            part.iter().try_for_each(|block| {
                let ended = output(&mut shell(block, &clone, &variables))?;
                block.judge(&ended)
            })
        })?;
    }
    Ok(())
}

/// Returns a shell for the commands of a block, with the variables of those before it.
fn shell(block: &Block, clone: &Path, variables: &Path) -> Command {
    let file = variables.display();
    let script = format!(
        "source {file}\ntrap 'export -p > {file}' EXIT\n{}",
        block.commands
    );
    let mut shell = host::command("bash");
    shell
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(clone)
        // It is kept for the next run, and is not ours: the clone's xtask would take the place of
        // this program.
        .env("CARGO_TARGET_DIR", paths::target().join("documents"));
    shell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_commands_with_the_output_behind_them() {
        let markdown = "\
## Pages\n\nRun\n\n    export A=1\n    run\n\nand then\n\n    fail\n\nwhich prints\n\n```text\nerror: 3 pages\n```\n";
        let block = |commands: &str, shown: Option<&str>| Block {
            section: "Pages".to_owned(),
            commands: commands.to_owned(),
            shown: shown.map(str::to_owned),
        };
        let found = blocks(markdown).unwrap();
        assert_eq!(
            found,
            [
                block("export A=1\nrun\n", None),
                block("fail\n", Some("error: 3 pages\n")),
            ]
        );
        assert_eq!(
            found.iter().map(Block::fails).collect::<Vec<_>>(),
            [false, true]
        );
    }

    #[test]
    fn output_is_compared_but_for_its_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let variables = directory.path().join("variables");
        fs::write(&variables, "").unwrap();
        let judge = |commands: &str, shown: &str| {
            let block = Block {
                commands: commands.to_owned(),
                shown: Some(shown.to_owned()),
                ..Block::default()
            };
            let ended = output(&mut shell(&block, directory.path(), &variables)).unwrap();
            block.judge(&ended)
        };
        assert!(judge("export PAGES=12\necho $PAGES pages out", "514 pages out").is_ok());
        assert!(judge("echo \"error: $PAGES\" >&2; false", "error: 7").is_ok());
        assert!(judge("echo 12 pages in", "514 pages out").is_err());
        assert!(judge("echo error: 3", "error: 3").is_err());
        assert!(judge("echo 3; false", "3").is_err());
    }
}
