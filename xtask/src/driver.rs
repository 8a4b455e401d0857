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
    /// Only against the headers of this series (7.2, 7.3) or of a release that Debian still has
    /// (7.2.6), instead of all series
    #[arg(long, value_name = "VERSION")]
    headers: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::require_programs()?;
    let cache = Cache::open()?;
    let sources = Sources::read()?;
    let versions = match &args.headers {
        Some(version) => vec![version.as_str()],
        None => SERIES.to_vec(),
    };
    for series in versions {
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
