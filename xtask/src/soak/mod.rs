//! `cargo xtask soak`: random operations on a guest's ports, with invariants that must hold.

mod plan;
mod player;
mod shrink;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::json;
use zcnic_guest_protocol::soak::Operation;
use zcnic_results::{
    formats,
    report::{Case, Outcome, Report, ReportArg, output_file},
};
use zcnic_testbed::{
    paths, sandbox,
    setup::{GuestArgs, Setup},
};

use self::{
    plan::{Header, Log, Plan},
    player::{Player, Tally},
};

/// Do at random what users do to a port, and check that no byte is lost and no page leaks
///
/// The operations are drawn from the seed: receivers of all kinds, XDP, ethtool, namespaces, link
/// flaps, faults, restarts of the backend. At quiet points every stream must have ended with the
/// right bytes, the kernel's log and page pools and the device's ledger must be clean, and traffic
/// must flow. Operations are logged as they begin; a failing log can be replayed and shrunk.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// How long to draw operations
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    minutes: u64,
    /// The seed of the operations
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write the operations to FILE [default: soak-SEED.jsonl]
    #[arg(long, value_name = "FILE", value_parser = output_file)]
    log: Option<PathBuf>,
    /// Carry out the operations of a log instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["minutes", "seed", "log"])]
    replay: Option<PathBuf>,
    /// Leave out operations of a failing log as long as it fails, and write the rest to FILE.min
    #[arg(long, requires = "replay")]
    shrink: bool,
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    report: ReportArg,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    formats::check(&args.report)?;
    // A log that can't be read is refused before anything is set up.
    let replayed = args.replay.as_deref().map(plan::read).transpose()?;
    sandbox::clean_up_on_signals()?;
    let setup = Setup::for_zero_copy(&args.guest)?;
    let mut soak = Soak {
        setup: &setup,
        tally: Tally::default(),
        begun: Instant::now(),
    };
    let (seed, ended) = match (replayed, &args.replay) {
        (Some((header, operations)), Some(path)) if args.shrink => {
            (header.seed, soak.shrink(&header, operations, path)?)
        }
        (Some((header, operations)), _) => {
            let ended = soak.once(operations.into_iter(), &mut |_| Ok(()))?;
            (header.seed, ended)
        }
        (None, _) => (args.seed, soak.draw(args)?),
    };
    report(args, &soak, seed, ended)
}

/// Prints and writes the result.
fn report(args: &Args, soak: &Soak<'_>, seed: u64, ended: Option<String>) -> Result<ExitCode> {
    let case = Case {
        name: format!("soak: seed {seed}"),
        outcome: ended.as_ref().map_or(Outcome::Pass, |_| Outcome::Fail),
        seconds: soak.begun.elapsed().as_secs_f64(),
        detail: ended.unwrap_or_default(),
    };
    case.print();
    for (name, [done, refused]) in &soak.tally.0 {
        println!("{done:6} done {refused:5} refused  {name}");
    }
    let failed = case.outcome == Outcome::Fail;
    let mut report = Report {
        cases: vec![case],
        extra: soak.setup.facts(),
    };
    report
        .extra
        .insert("commit".to_owned(), json!(paths::commit()));
    report.extra.insert("seed".to_owned(), json!(seed));
    report
        .extra
        .insert("operations".to_owned(), json!(soak.tally.0));
    println!("{} operations; {}", soak.tally.total(), report.summary());
    formats::write(&args.report, "soak", &report)?;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

struct Soak<'a> {
    setup: &'a Setup,
    tally: Tally,
    begun: Instant,
}

impl Soak<'_> {
    /// Draws operations for the time that is asked for, to a quiet point. Returns why it failed.
    fn draw(&mut self, args: &Args) -> Result<Option<String>> {
        let seed = args.seed;
        let name = format!("soak-{seed}.jsonl");
        let path = args.log.clone().unwrap_or_else(|| PathBuf::from(name));
        let kernel = self.setup.kernel.release.clone();
        let mut log = Log::create(&path, &Header { seed, kernel })?;
        let end = Instant::now() + Duration::from_secs(60 * args.minutes);
        let mut over = false;
        let operations = Plan::new(seed).take_while(|operation| {
            let goes_on = !over;
            over = Instant::now() >= end && *operation == Operation::Quiet;
            goes_on
        });
        let ended = self.once(operations, &mut |operation| log.add(operation))?;
        if ended.is_some() {
            let path = path.display();
            println!("cargo xtask soak --replay {path}  plays the operations again");
            println!("cargo xtask soak --replay {path} --shrink  leaves out what is not needed");
        }
        Ok(ended)
    }

    /// Plays operations in a guest of their own. Returns why they failed.
    fn once(
        &mut self,
        operations: impl Iterator<Item = Operation>,
        before: &mut dyn FnMut(&Operation) -> Result<()>,
    ) -> Result<Option<String>> {
        let mut player = Player::boot(self.setup)?;
        match self.play(&mut player, operations, before)? {
            Some(error) => Ok(Some(player.explain(&error))),
            None => Ok(player
                .finish(self.setup)
                .err()
                .map(|error| format!("{error:#}"))),
        }
    }

    /// Plays operations and a quiet point behind them. Returns why they failed; an error is one of
    /// `before`.
    fn play(
        &mut self,
        player: &mut Player,
        operations: impl Iterator<Item = Operation>,
        before: &mut dyn FnMut(&Operation) -> Result<()>,
    ) -> Result<Option<anyhow::Error>> {
        let mut last = None;
        let quiet = std::iter::once(Operation::Quiet);
        for operation in operations.chain(quiet) {
            // The operations usually end with a quiet point.
            if last == Some(Operation::Quiet) && operation == Operation::Quiet {
                continue;
            }
            before(&operation)?;
            let start = Instant::now();
            let played = player.play(&operation, &mut self.tally);
            let line = serde_json::to_string(&operation)?;
            let at = self.begun.elapsed().as_secs();
            let took = start.elapsed().as_secs_f64();
            let outcome = match &played {
                Ok(None) => String::new(),
                Ok(Some(reason)) => format!("  refused: {}", reason.lines().next().unwrap_or("")),
                Err(_) => "  FAILED".to_owned(),
            };
            println!("{at:5}s {took:6.1}s  {line}{outcome}");
            if let Err(error) = played {
                return Ok(Some(
                    error.context(format!("operation {}", self.tally.total() + 1)),
                ));
            }
            last = Some(operation);
        }
        Ok(None)
    }

    /// Leaves out operations as long as the rest fails. Returns why the rest fails.
    fn shrink(
        &mut self,
        header: &Header,
        operations: Vec<Operation>,
        path: &Path,
    ) -> Result<Option<String>> {
        let shorter = PathBuf::from(format!("{}.min", path.display()));
        output_file(&shorter.to_string_lossy())
            .with_context(|| format!("cannot write {}", shorter.display()))?;
        let Some(mut why) = self.once(operations.iter().cloned(), &mut |_| Ok(()))? else {
            println!("{} does not fail", path.display());
            return Ok(None);
        };
        let mut guest = None;
        let rest = shrink::minimize(operations, |some| {
            println!("{} operations:", some.len());
            let mut player = match guest.take() {
                Some(player) => player,
                None => Player::boot(self.setup)?,
            };
            let result = self.play(&mut player, some.iter().cloned(), &mut |_| Ok(()))?;
            why = match result {
                Some(error) => player.explain(&error),
                None => match player.again(self.setup) {
                    Ok(player) => {
                        guest = Some(player);
                        return Ok(false);
                    }
                    // The gate, or the driver's end, found what no operation did.
                    Err(error) => format!("{error:#}"),
                },
            };
            let mut log = Log::create(&shorter, header)?;
            some.iter().try_for_each(|operation| log.add(operation))?;
            Ok(true)
        })?;
        println!(
            "{} operations are needed: {}",
            rest.len(),
            shorter.display()
        );
        if let Some(player) = guest {
            player.finish(self.setup)?;
        }
        Ok(Some(why))
    }
}
