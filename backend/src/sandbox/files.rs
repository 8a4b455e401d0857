//! What the process may open, connect to and remove, enforced by Landlock.

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, PathBeneath, PathFd, PathFdError, RestrictSelfAttr,
    Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
};
use std::path::{Path, PathBuf};
use thiserror::Error;

use super::Reach;

/// The rules that are asked for. A kernel that knows fewer enforces those.
const RULES: ABI = ABI::V9;

/// Why rules can't be made.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The directory of a socket can't be named to the kernel.
    #[error("Directory {0} can't be examined")]
    Directory(PathBuf, #[source] PathFdError),
    /// The kernel refuses the rules.
    #[error("Landlock refuses its rules")]
    Rules(#[from] RulesetError),
}

/// Confines the calling thread, and those that it starts, to `reach`; with `all_threads` also those
/// that run already, on a kernel that can (Linux 7.0). Returns whether the kernel enforces it; one
/// without Landlock does not.
///
/// # Errors
///
/// A directory is gone already, or the kernel refuses the rules.
pub(super) fn confine(reach: &Reach, all_threads: bool) -> Result<bool, FilesError> {
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::from_all(RULES))?
        .scope(Scope::from_all(RULES))?
        .create()?;
    let open = |path: &Path| {
        // The directory of a relative path without one.
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        PathFd::new(path).map_err(|error| FilesError::Directory(path.to_owned(), error))
    };
    for directory in &reach.removes_in {
        rules = rules.add_rule(PathBeneath::new(open(directory)?, AccessFs::RemoveFile))?;
    }
    for path in &reach.unix {
        // The socket itself may come later.
        let Some(directory) = path.parent().filter(|it| it.is_dir()) else {
            continue;
        };
        rules = rules.add_rule(PathBeneath::new(open(directory)?, AccessFs::ResolveUnix))?;
    }
    for peer in &reach.tcp {
        rules = rules.add_rule(NetPort::new(peer.port(), AccessNet::ConnectTcp))?;
    }
    let status = rules.all_threads(all_threads)?.restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}
