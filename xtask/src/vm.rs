//! `cargo xtask vm`: a guest to work in.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;

use crate::{cache::Cache, host, kernel::Kernel, qemu::Qemu, rootfs};

/// An interactive guest with two ports, or one command in it
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Boot this kernel (a bzImage, or a tree in which one was built) instead of Debian's
    #[arg(long, value_name = "PATH")]
    kernel: Option<PathBuf>,
    /// Run this QEMU (10.0 or newer, with vhost-user)
    #[arg(long, value_name = "PATH")]
    qemu: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    host::require_programs()?;
    let cache = Cache::open()?;
    let qemu = Qemu::ensure(&cache, args.qemu.as_deref())?;
    let kernel = Kernel::ensure(&cache, args.kernel.as_deref())?;
    kernel.require_zcrx()?;
    let rootfs = rootfs::ensure(&cache)?;
    eprintln!(
        "QEMU {}, Linux {}, {}",
        qemu.version,
        kernel.release,
        rootfs.display()
    );
    Ok(ExitCode::SUCCESS)
}
