//! Which of the selftests that are shell scripts can run on the two ports of a guest.
//!
//! A script takes its interfaces in one of two ways: from the environment, as the Python programs do
//! (drivers/net/README.rst), or as arguments, by net/forwarding/lib.sh. Without arguments that
//! library makes veth pairs and tests those, so a script that would not run on a port is refused.

use anyhow::{Context, Result, bail};
use std::{fs, path::Path};
use zcnic_results::program::file_name;

use super::selection::Job;

/// The ports of a guest.
const PORTS: usize = 2;

/// Scripts that take two ports but need something that these do not have, and never end without it.
const UNSUITED: [(&str, &str); 2] = [
    (
        "ethtool.sh",
        "link modes to negotiate (ports of zcnic report no speed)",
    ),
    (
        "ethtool_extended_state.sh",
        "a third port without a cable, and link modes to negotiate",
    ),
];

/// Fails unless each of `jobs` that is a shell script of `root` can run on the ports.
pub(crate) fn check(root: &Path, jobs: &[Job]) -> Result<()> {
    for job in jobs.iter().filter(|job| job.path.ends_with(".sh")) {
        let path = root.join(&job.path);
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let file = file_name(&job.path);
        if let Some(lacking) = lacking(file, &text) {
            bail!("{file} can't run on the ports of a guest: it needs {lacking}");
        }
    }
    Ok(())
}

/// Returns what a script needs that the ports are not.
fn lacking(file: &str, text: &str) -> Option<String> {
    if let Some((_, lacking)) = UNSUITED.iter().find(|(name, _)| *name == file) {
        return Some((*lacking).to_owned());
    }
    let code = || {
        text.lines()
            .filter(|line| !line.trim_start().starts_with('#'))
    };
    let mentions = |word: &str| code().any(|line| line.contains(word));
    if mentions("forwarding/lib.sh") {
        let count = code().find_map(|line| line.trim().strip_prefix("NUM_NETIFS="));
        return match count.and_then(|count| count.trim().parse::<usize>().ok()) {
            Some(count) if count > PORTS => {
                Some(format!("{count} interfaces, and a guest has {PORTS} ports"))
            }
            _ => None,
        };
    }
    let takes_environment = mentions("NETIF") || mentions("net.config");
    (!takes_environment).then(|| {
        "interfaces of its own making: it reads neither NETIF nor arguments \
         (net/forwarding/lib.sh)"
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBRARY: &str = "source \"$lib_dir\"/../../../net/forwarding/lib.sh\n";

    #[test]
    fn two_interfaces_as_arguments_are_the_ports() {
        let script = format!("NUM_NETIFS=2\n{LIBRARY}");
        assert_eq!(lacking("loopback.sh", &script), None);
        let script = format!(": \"${{DRIVER_TEST_CONFORMANT:=yes}}\"\nNUM_NETIFS=2\n{LIBRARY}");
        assert_eq!(lacking("ethtool_rmon.sh", &script), None);
    }

    #[test]
    fn more_interfaces_than_ports_are_refused() {
        let script = format!("# NUM_NETIFS=2\nNUM_NETIFS=4\n{LIBRARY}");
        let lacking = lacking("hw_stats_l3.sh", &script).unwrap();
        assert_eq!(lacking, "4 interfaces, and a guest has 2 ports");
    }

    #[test]
    fn a_script_that_takes_no_interface_is_refused() {
        assert_eq!(lacking("new.sh", "ethtool -k \"$NETIF\"\n"), None);
        let own = lacking("own.sh", "# NETIF\nip link add v0 type veth\n").unwrap();
        assert!(own.starts_with("interfaces of its own making"));
    }

    #[test]
    fn the_refusal_names_the_script_and_the_reason() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("ethtool.sh"), LIBRARY).unwrap();
        let error = check(root.path(), &[Job::whole("ethtool.sh")]).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("ethtool.sh can't run on the ports of a guest: it needs link modes")
        );
        check(root.path(), &[Job::whole("ethtool.py")]).unwrap();
    }
}
