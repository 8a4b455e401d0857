//! The kernels that guests boot: Debian's, one that was compiled here, or the user's own.

use std::path::Path;

use anyhow::Result;

use self::kernel::Kernel;
use crate::provision::cache::Cache;

pub mod debian;
pub mod kernel;
mod own;
pub mod source;
pub mod tree;

/// A choice of kernel.
#[derive(Clone, Copy, Debug)]
pub enum Choice<'a> {
    /// The newest complete one of trixie-backports.
    Newest,
    /// The newest of a series there, such as 7.2.
    Series(&'a str),
    /// The user's: a bzImage, or a tree in which one was built.
    Own(&'a Path),
}

/// Checks the user's choice of kernel, without making or downloading anything.
///
/// # Errors
///
/// As [`ensure`], if `choice` is a kernel of the user's.
pub fn check(choice: Choice<'_>, zcrx: bool) -> Result<()> {
    match choice {
        Choice::Own(path) => own::find(path, zcrx).map(drop),
        Choice::Newest | Choice::Series(_) => Ok(()),
    }
}

/// Finds, downloads or packs the kernel of `choice`.
///
/// # Errors
///
/// With `zcrx`, also if its configuration is known and has no io_uring zero-copy receive.
pub fn ensure(cache: &Cache, choice: Choice<'_>, zcrx: bool) -> Result<Kernel> {
    let kernel = match choice {
        Choice::Newest => debian::kernel(cache, None)?,
        Choice::Series(series) => debian::kernel(cache, Some(series))?,
        Choice::Own(path) => own::kernel(cache, path, zcrx)?,
    };
    if zcrx && let Some(config) = &kernel.config {
        kernel::require_zcrx(config, &kernel.release)?;
    }
    Ok(kernel)
}
