//! `cargo xtask kernel`: compiles a test kernel of Debian's source, for `--kernel`.

use std::process::ExitCode;

use anyhow::Result;
use zcnic_testbed::provision::{
    cache::Cache,
    host,
    linux::tree::{Profile, Tree},
};

/// Compile a kernel that finds bugs, and print the path that `--kernel` takes
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The bugs that it finds
    #[arg(default_value = "debug")]
    profile: Profile,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::require_programs()?;
    let cache = Cache::open()?;
    let tree = Tree::debian(&cache, args.profile)?;
    println!("{}", tree.output().display());
    Ok(ExitCode::SUCCESS)
}
