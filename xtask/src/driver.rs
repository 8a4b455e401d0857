//! `cargo xtask driver`: compiles `images/driver` against every kernel that it supports, and
//! checks its sources as netdev's reviewers would.

use std::process::ExitCode;

use anyhow::Result;
use zcnic_testbed::provision::{
    cache::Cache,
    driver::{self, MODULE, Sources},
    driver_checks, host,
    linux::debian::{self, SERIES},
};

/// Compile the driver and check it with checkpatch, kernel-doc and sparse, treating warnings as errors
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Only against the headers of this series (7.2, 7.3) instead of all
    #[arg(long, value_name = "SERIES", value_parser = SERIES)]
    headers: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::require_programs()?;
    let cache = Cache::open()?;
    let sources = Sources::read()?;
    for series in SERIES {
        if args.headers.as_ref().is_some_and(|only| only != series) {
            continue;
        }
        let headers = debian::headers(&cache, series)?;
        let entry = driver::ensure_for_headers(&cache, &headers, &sources)?;
        println!("{}", entry.join(MODULE).display());
        // Style doesn't depend on the kernel, and types hardly.
        if SERIES.last() == Some(&series) {
            driver_checks::ensure(&cache, &headers, &sources)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
