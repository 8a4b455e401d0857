//! `cargo xtask driver`: compiles `images/driver` against every kernel that it supports.

use std::process::ExitCode;

use anyhow::Result;
use zcnic_testbed::provision::{
    cache::Cache,
    driver::{self, MODULE},
    host,
    linux::debian::SERIES,
};

/// Compile the driver, treating warnings as errors
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only against the headers of this series (7.2, 7.3) instead of all
    #[arg(long, value_name = "SERIES", value_parser = SERIES)]
    headers: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::require_programs()?;
    let cache = Cache::open()?;
    for series in SERIES {
        if args.headers.as_ref().is_some_and(|only| only != series) {
            continue;
        }
        let entry = driver::ensure_for_series(&cache, series)?;
        println!("{}", entry.join(MODULE).display());
    }
    Ok(ExitCode::SUCCESS)
}
