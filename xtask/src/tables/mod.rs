//! `cargo xtask tables`: the generated sections of the documents.
//!
//! A section is made from the report of a full run, which is kept in `docs/reports`, and stands between two
//! marker lines of its document. A test fails if a document and its reports differ.

use std::{fs, process::ExitCode};

use anyhow::{Context, Result, bail};

use zcnic_testbed::paths;

mod ci;
mod data_path;
mod detection;
mod features;
mod kept;
mod receive;
mod scenarios;
mod selftests;

/// The marker lines around a generated section.
const BEGIN: &str = "<!-- begin: cargo xtask tables -->";
const END: &str = "<!-- end -->";

/// Makes the text between one pair of markers.
type Section = fn() -> Result<String>;

/// The documents with generated sections, and the sections in the order of their markers.
const DOCUMENTS: [(&str, &[Section]); 17] = [
    ("README.md", &[selftests::section]),
    ("docs/ci.md", &[ci::section]),
    ("docs/detection.md", &[detection::section]),
    ("docs/features.md", &[features::overview]),
    ("docs/features/af-xdp.md", &[|| features::page("af_xdp")]),
    ("docs/features/devmem.md", &[|| features::page("devmem")]),
    (
        "docs/features/hardware.md",
        &[|| features::page("hardware")],
    ),
    (
        "docs/features/page-pool.md",
        &[|| features::page("page pool")],
    ),
    (
        "docs/features/provided-buffers.md",
        &[|| features::page("provided buffers")],
    ),
    (
        "docs/features/tcp-zero-copy.md",
        &[|| features::page("tcp zero copy")],
    ),
    (
        "docs/features/unreadable.md",
        &[|| features::page("unreadable")],
    ),
    ("docs/features/xdp.md", &[|| features::page("xdp")]),
    ("docs/features/zcrx.md", &[|| features::page("zcrx")]),
    ("docs/performance.md", &[data_path::goals]),
    ("docs/performance/data-path.md", &[data_path::figures]),
    ("docs/performance/guest.md", &[receive::section]),
    ("docs/scenarios.md", &[scenarios::section]),
];

/// The files that are generated as a whole.
const WHOLE: [(&str, Section); 1] = [("docs/performance/scaling.svg", data_path::plot)];

/// Write the tables in README.md and docs from the reports in docs/reports
///
/// The option `--report FILE` of other commands makes reports; each module of `xtask/src/tables` names the command
/// and the file name of the report that it reads.
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
    fn the_documents_are_those_of_the_reports() {
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
    fn text_outside_the_markers_stays() {
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
