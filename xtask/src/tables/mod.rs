//! `cargo xtask tables`: the tables in the documents that say what was seen, from reports of full runs,
//! which are kept in the workspace.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};
use zcnic_testbed::paths;

mod cases;
mod ci;
mod data_path;
mod detection;
mod kept;
mod scenarios;
mod selftests;
mod systems;

/// The lines around what is written.
const BEGIN: &str = "<!-- begin: cargo xtask tables -->";
const END: &str = "<!-- end -->";

/// Makes what is between the markers of a document.
type Section = fn() -> Result<String>;

/// The documents with sections, in their order.
const DOCUMENTS: [(&str, &[Section]); 6] = [
    ("README.md", &[selftests::section]),
    ("docs/ci.md", &[ci::section]),
    ("docs/detection.md", &[detection::section]),
    (
        "docs/performance.md",
        &[data_path::section, systems::section],
    ),
    ("docs/scenarios.md", &[scenarios::section]),
    ("docs/systems.md", &[cases::section]),
];

/// What is written as a whole.
const WHOLE: [(&str, Section); 1] = [("docs/performance.svg", data_path::plot)];

/// Write the tables in README.md and docs from the reports in docs/reports
///
/// `--report FILE` makes reports; which is kept under which name is said where the tables are made.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {}

pub(crate) fn run(_: &Args) -> Result<ExitCode> {
    for Renewed {
        name,
        before,
        after,
    } in renewed()?
    {
        if before != after {
            let path = paths::workspace().join(name);
            fs::write(&path, after).with_context(|| format!("cannot write {name}"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A document as it is and as it should be.
struct Renewed {
    name: &'static str,
    before: String,
    after: String,
}

fn renewed() -> Result<Vec<Renewed>> {
    let read = |name| {
        let path = paths::workspace().join(name);
        fs::read_to_string(path).with_context(|| format!("cannot read {name}"))
    };
    let mut all = Vec::new();
    for (name, sections) in DOCUMENTS {
        let before = read(name)?;
        let sections = sections.iter().map(|section| section());
        let sections: Vec<String> = sections.collect::<Result<_>>()?;
        let after = replace(&before, &sections).with_context(|| name.to_owned())?;
        all.push(Renewed {
            name,
            before,
            after,
        });
    }
    for (name, whole) in WHOLE {
        let (before, after) = (read(name)?, whole()?);
        all.push(Renewed {
            name,
            before,
            after,
        });
    }
    Ok(all)
}

/// `text` with `sections` between its pairs of markers.
fn replace(text: &str, sections: &[String]) -> Result<String> {
    let (mut done, mut rest) = (String::new(), text);
    for section in sections {
        let parts = rest.split_once(BEGIN);
        let parts = parts.and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
        let Some((before, after)) = parts else {
            bail!(
                "there are fewer than {} lines {BEGIN}, each before its {END}",
                sections.len()
            );
        };
        let section = section.trim_end();
        done.push_str(&format!("{before}{BEGIN}\n\n{section}\n\n{END}"));
        rest = after;
    }
    if rest.contains(BEGIN) {
        bail!("there are more than {} lines {BEGIN}", sections.len());
    }
    Ok(done + rest)
}

#[cfg(test)]
mod tests {
    use super::{kept::REPORTS, *};

    #[test]
    fn the_documents_say_what_the_reports_say() {
        for Renewed {
            name,
            before,
            after,
        } in renewed().unwrap()
        {
            assert!(
                before == after,
                "{name} differs from {REPORTS}: run `cargo xtask tables`"
            );
        }
    }

    #[test]
    fn what_is_outside_the_markers_stays() {
        let text = format!("a\n{BEGIN}\nold\n{END}\nb\n{BEGIN}\n{END}\nc\n");
        let sections = ["first\n", "second"].map(str::to_owned);
        let new = replace(&text, &sections).unwrap();
        let [first, second] =
            ["first", "second"].map(|section| format!("{BEGIN}\n\n{section}\n\n{END}"));
        assert_eq!(new, format!("a\n{first}\nb\n{second}\nc\n"));
        assert_eq!(replace(&new, &sections).unwrap(), new);
        assert!(replace(&text, &sections[..1]).is_err());
        assert!(replace("a", &sections[..1]).is_err());
    }
}
