//! `zcnic-guest scenarios`: the kernel's behaviour in situations that users ask about, shown on
//! demand. A scenario prints its actions, the kernel's answers and their reasons, and fails on any
//! other answer.

pub(crate) mod buffers;
pub(crate) mod completions;
mod settings;
pub(crate) mod teardown;

use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::fixture::{cases::each, lab::Lab, transcript::Transcript};

/// Shows the kernel's behaviour in situations that users ask about
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names of scenarios; all of them if none is named
    names: Vec<String>,
    /// Print names and titles of all scenarios
    #[arg(long)]
    list: bool,
    /// Print the lines and ends of scenarios as JSON objects; with --list, print only names
    #[arg(long)]
    json: bool,
}

/// A kernel behaviour.
struct Scenario {
    /// Name on the command line.
    name: &'static str,
    /// Heading in the documentation.
    title: &'static str,
    run: fn(&mut Lab, &Transcript) -> Result<()>,
}

/// All scenarios, in the order of the documentation.
const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "refill-ring-full",
        title: "A program returns more buffers than its refill ring takes",
        run: buffers::refill_ring_full,
    },
    Scenario {
        name: "area-exhausted",
        title: "A program returns no buffers",
        run: buffers::area_exhausted,
    },
    Scenario {
        name: "copy-fallback",
        title: "The flow is not steered to the queue that is bound",
        run: buffers::copy_fallback,
    },
    Scenario {
        name: "completion-queue-full",
        title: "Receiving stops with ENOSPC",
        run: completions::queue_full,
    },
    Scenario {
        name: "many-sockets",
        title: "One queue and its memory for many connections",
        run: completions::many_sockets,
    },
    Scenario {
        name: "process-killed",
        title: "A process is killed with buffers everywhere",
        run: teardown::process_killed,
    },
    Scenario {
        name: "rerun-eexist",
        title: "A program that is run again gets EEXIST",
        run: teardown::rerun,
    },
    Scenario {
        name: "interface-down",
        title: "The interface goes down and up under a bound queue",
        run: settings::interface_down,
    },
    Scenario {
        name: "channel-change",
        title: "The number of channels changes under a bound queue",
        run: settings::channel_change,
    },
    Scenario {
        name: "split-off",
        title: "Header/data split is switched off under a bound queue",
        run: settings::split_off,
    },
];

/// Runs the subcommand.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.list && args.json {
        SCENARIOS
            .iter()
            .for_each(|Scenario { name, .. }| println!("{name}"));
        return Ok(ExitCode::SUCCESS);
    } else if args.list {
        let width = SCENARIOS.iter().map(|scenario| scenario.name.len()).max();
        let width = width.unwrap_or_default();
        for Scenario { name, title, .. } in SCENARIOS {
            println!("{name:width$}  {title}");
        }
        return Ok(ExitCode::SUCCESS);
    }
    let selected = if args.names.is_empty() {
        SCENARIOS.iter().collect()
    } else {
        let named = args.names.iter().map(|name| find(name));
        named.collect::<Result<Vec<_>>>()?
    };
    let mut lab = Lab::new()?;
    let transcript = Transcript::new(args.json);
    Ok(each(selected, |scenario| {
        (scenario.name, play(&mut lab, &transcript, scenario))
    }))
}

fn find(name: &str) -> Result<&'static Scenario> {
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("there is no scenario {name}: --list names them"))
}

/// Runs a scenario under the device's ledger, and checks that it has restored everything.
fn play(lab: &mut Lab, transcript: &Transcript, scenario: &Scenario) -> Result<()> {
    transcript.title(scenario.title);
    let result = lab.watched(|lab| (scenario.run)(lab, transcript));
    if result.is_ok() {
        transcript.does("Everything is as before: page pools, configuration, the kernel's log, the device's ledger");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Generated from the report of an earlier run, which may have had other scenarios.
    const DOCUMENT: &str = include_str!("../../../../docs/scenarios.md");

    #[test]
    fn the_documentation_has_these_scenarios() {
        let documented = DOCUMENT
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .collect::<Vec<_>>();
        let names: Vec<_> = SCENARIOS.iter().map(|scenario| scenario.name).collect();
        assert_eq!(documented, names, "see `cargo xtask tables`");
        for scenario in SCENARIOS {
            assert!(DOCUMENT.contains(scenario.title), "{}", scenario.title);
        }
    }

    #[test]
    fn a_scenario_is_found_by_its_whole_name() {
        assert!(find("split-off").is_ok());
        assert!(find("split").is_err());
    }
}
