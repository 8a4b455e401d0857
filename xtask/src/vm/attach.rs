//! `vm --attach`: another process runs commands in a guest that is running.

use std::{
    env,
    ffi::OsStr,
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use zcnic_testbed::{
    agent::Agent,
    guest::{ATTACH, Guest},
    sandbox,
};

/// The first process answers at once, whatever the guest does.
const PATIENCE: Duration = Duration::from_secs(10);

/// A guest of this user that can be attached to.
struct Running {
    name: String,
    since: SystemTime,
    stream: UnixStream,
}

/// Lets other processes attach to the guest; returns the name that they know it by.
pub(super) fn offer(guest: &Guest) -> Result<String> {
    Ok(name(guest.serve_others()?))
}

/// Connects to the guest `wanted`, or else to the one that was started last.
///
/// # Errors
///
/// If there is none; the error has the names of those that run.
pub(super) fn connect(wanted: Option<&str>) -> Result<Agent> {
    let mut running = running();
    running.sort_by_key(|guest| guest.since);
    let names: Vec<_> = running.iter().map(|guest| guest.name.clone()).collect();
    let found = match wanted {
        Some(name) => running.into_iter().find(|guest| guest.name == name),
        None => running.pop(),
    };
    let Some(found) = found else {
        let wanted = wanted.map_or_else(String::new, |name| format!(" {name:?}"));
        if names.is_empty() {
            bail!("no guest{wanted} to attach to: none of `vm` is running");
        }
        bail!(
            "no guest{wanted} to attach to; these are running: {}",
            names.join(", ")
        );
    };
    let (agent, _) = Agent::connect(found.stream, PATIENCE)
        .with_context(|| format!("cannot attach to {}", found.name))?;
    Ok(agent)
}

/// Returns the guests whose process answers.
fn running() -> Vec<Running> {
    let Ok(items) = fs::read_dir(env::temp_dir()) else {
        return Vec::new();
    };
    let open = |path: PathBuf| {
        let socket = path.join(ATTACH);
        Some(Running {
            name: name(&path),
            since: fs::metadata(&socket).ok()?.modified().ok()?,
            stream: UnixStream::connect(socket).ok()?,
        })
    };
    items
        .flatten()
        .filter(|item| {
            let name = item.file_name();
            name.to_string_lossy().starts_with(sandbox::PREFIX)
        })
        .filter_map(|item| open(item.path()))
        .collect()
}

/// Returns the name of a guest by its directory.
fn name(directory: &Path) -> String {
    let name = directory.file_name().and_then(OsStr::to_str);
    let name = name.unwrap_or_default();
    name.strip_prefix(sandbox::PREFIX)
        .unwrap_or(name)
        .to_owned()
}
