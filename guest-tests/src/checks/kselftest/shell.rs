//! Shell scripts that take their interfaces as arguments, by net/forwarding/lib.sh of the selftests.
//! That library expects all of them in one network namespace, and makes veth pairs of its own unless
//! it is told not to.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use crate::{
    kit::net,
    runtime::ports::{PEER, PORTS},
};

/// Makes `command` run the script at `path` on the ports if that takes them as arguments. Other
/// programs stay as they are. The host sets the ports up again before the next test.
pub(super) fn prepare(path: &Path, command: &mut Command) -> Result<()> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    if !takes_arguments(&String::from_utf8_lossy(&text)) {
        return Ok(());
    }
    let here = std::process::id().to_string();
    for port in PORTS.iter().filter(|port| port.netns.is_some()) {
        let to_us = ["ip", "link", "set", port.name, "netns", &here];
        net::run(Some(PEER), &to_us)?;
    }
    for port in &PORTS {
        // The library gives them its own addresses.
        net::run(None, &["ip", "address", "flush", "dev", port.name])?;
        net::run(None, &["ip", "link", "set", port.name, "up"])?;
    }
    command
        .args(PORTS.iter().map(|port| port.name))
        .env("NETIF_CREATE", "no");
    Ok(())
}

/// Whether a script uses the library, and does not take the interfaces from the environment.
fn takes_arguments(text: &str) -> bool {
    let code = || {
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
    };
    let mentions = |word: &str| code().any(|line| line.contains(word));
    mentions("forwarding/lib.sh") && !mentions("DRIVER_TEST_CONFORMANT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_takes_arguments_unless_the_script_says_otherwise() {
        let library = "source \"$lib_dir\"/../../../net/forwarding/lib.sh\n";
        assert!(takes_arguments(library));
        let conformant = format!(": \"${{DRIVER_TEST_CONFORMANT:=yes}}\"\n{library}");
        assert!(!takes_arguments(&conformant));
        assert!(!takes_arguments("# forwarding/lib.sh\necho $NETIF\n"));
        assert!(!takes_arguments("from lib.py import ksft_run\n"));
    }
}
