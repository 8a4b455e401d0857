//! The workspace, and the cargo that builds it.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::step::run;

/// Returns the root of the workspace that this crate was built from.
pub fn workspace() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.ancestors().nth(2).unwrap_or(own)
}

/// Returns cargo's target directory for builds of the workspace.
pub fn target() -> PathBuf {
    env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| workspace().join("target"), |set| workspace().join(set))
}

/// Returns the commit of the workspace, with `-dirty` if it has changes; None outside a checkout.
pub fn commit() -> Option<String> {
    let described = run(Command::new("git").arg("-C").arg(workspace()).args([
        "describe",
        "--always",
        "--abbrev=40",
        "--exclude=*",
        "--dirty",
    ]));
    Some(described.ok()?.trim().to_owned())
}

/// Returns a command for the cargo that runs us, in the workspace.
pub fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}
