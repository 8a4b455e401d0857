//! `cargo xtask cache`: what the cache holds, how to make it smaller, and its key for a CI service.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::Result;
use clap::Subcommand;
use zcnic_testbed::provision::{
    cache::{Cache, Size},
    recipes,
    stored::{self, Prune, Stored},
};

/// List what the cache holds, make it smaller, or print its key for CI
///
/// The cache is in $XDG_CACHE_HOME/zcnic (default ~/.cache/zcnic). What is removed is downloaded or built again when a
/// command needs it.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Option<Action>,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// List the parts, their sizes and when they were last used (the default)
    List,
    /// Remove parts that no running command uses: by default those not used for 30 days
    Prune {
        /// Remove parts that were not used for this many days
        #[arg(long, value_name = "DAYS", default_value_t = 30)]
        older_than: u64,
        /// Remove the least recently used parts until the rest takes at most SIZE, such as 500M or 2G
        #[arg(long, value_name = "SIZE", value_parser = parse_size, conflicts_with = "older_than")]
        size: Option<u64>,
        /// Remove all parts
        #[arg(long, conflicts_with_all = ["older_than", "size"])]
        all: bool,
    },
    /// Print a key for a CI service's cache, which changes when a recipe changes
    Key,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    match args.command {
        None | Some(Action::List) => list(&Cache::open()?)?,
        Some(Action::Prune {
            older_than,
            size,
            all,
        }) => {
            let which = match size {
                _ if all => Prune::All,
                Some(bytes) => Prune::UntilSize(bytes),
                None => Prune::Unused(Duration::from_hours(24 * older_than)),
            };
            prune(&Cache::open()?, which)?;
        }
        Some(Action::Key) => println!("zcnic-{}", recipes::key()?),
    }
    Ok(ExitCode::SUCCESS)
}

fn list(cache: &Cache) -> Result<()> {
    let parts = stored::stored(cache)?;
    for part in &parts {
        println!("{}", line(part));
    }
    println!(
        "{:>9}  in {}",
        total(&parts).to_string(),
        cache.root().display()
    );
    Ok(())
}

fn prune(cache: &Cache, which: Prune) -> Result<()> {
    let gone = stored::prune(cache, which)?;
    for part in &gone {
        println!("{}", line(part));
    }
    let left = stored::stored(cache)?;
    println!(
        "{:>9}  removed, {} left in {}",
        total(&gone).to_string(),
        total(&left),
        cache.root().display()
    );
    let used = left.iter().filter(|part| part.in_use).count();
    if used > 0 {
        println!("{:9}  {used} parts are in use by running commands", "");
    }
    Ok(())
}

fn total(parts: &[Stored]) -> Size {
    Size(parts.iter().map(|part| part.bytes).sum())
}

fn line(part: &Stored) -> String {
    let used = if part.in_use {
        "in use".to_owned()
    } else {
        ago(part.used)
    };
    format!(
        "{:>9}  {used:12}  {} {}",
        Size(part.bytes).to_string(),
        part.kind,
        part.name
    )
}

/// Returns how long ago `time` was, in its largest unit.
fn ago(time: SystemTime) -> String {
    let minutes = time.elapsed().unwrap_or_default().as_secs() / 60;
    let (count, unit) = match minutes {
        0..60 => (minutes, "minute"),
        60..1440 => (minutes / 60, "hour"),
        _ => (minutes / 1440, "day"),
    };
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {unit}{plural}")
}

/// Reads a size with a unit: `500M`, `2G`, `2GB`, `1.5G`.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is no size: write a number and M or G, such as 500M or 2G");
    let number = text.trim_end_matches(['B', 'b']);
    let unit = match number.chars().last() {
        Some('M' | 'm') => 1e6,
        Some('G' | 'g') => 1e9,
        _ => return Err(wrong()),
    };
    let number: f64 = number[..number.len() - 1]
        .trim()
        .parse()
        .map_err(|_| wrong())?;
    if number.is_finite() && number >= 0.0 {
        Ok((number * unit) as u64)
    } else {
        Err(wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_a_unit() {
        let sizes = ["500M", "2G", "1.5GB", "0M"].map(|text| parse_size(text).unwrap());
        assert_eq!(sizes, [500_000_000, 2_000_000_000, 1_500_000_000, 0]);
        for wrong in ["", "2", "G", "-1G", "lots", "infG", "2K", "GB"] {
            assert!(parse_size(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_are_told_in_their_largest_unit() {
        let back = |minutes| ago(SystemTime::now() - Duration::from_mins(minutes));
        let told = [0, 1, 59, 60, 3000].map(back);
        assert_eq!(
            told,
            ["0 minutes", "1 minute", "59 minutes", "1 hour", "2 days"]
        );
    }
}
