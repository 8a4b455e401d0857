//! The host's programs: found where an ordinary user's `PATH` does not look, installed by apt where
//! we may, and named in an error otherwise. Checks that the host allows user namespaces.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail, ensure};

use crate::step::{output, run, step};

/// Programs that provisioning and booting call, and their Debian packages.
const PROGRAMS: [(&str, &str); 11] = [
    ("apt-get", "apt"),
    ("bwrap", "bubblewrap"),
    ("depmod", "kmod"),
    ("dpkg-deb", "dpkg"),
    ("mke2fs", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap"),
    ("setpriv", "util-linux"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Debian's keys, as the host has them.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The program that provisioning needs besides without root: subordinate ids for mmdebstrap.
const UNPRIVILEGED: (&str, &str) = ("newuidmap", "uidmap");

/// Returns the Debian packages of the programs that provisioning and booting call, by anybody; some more
/// than once.
pub fn packages() -> impl Iterator<Item = &'static str> {
    let packages = PROGRAMS.iter().map(|(_, package)| *package);
    packages.chain([UNPRIVILEGED.1, "debian-archive-keyring"])
}
/// Directories with programs for the administrator, which Debian's login `PATH` lacks. Some of them
/// serve every user: mke2fs, depmod.
const ADMINISTRATION: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Subordinate ids that mmdebstrap maps: as many as a Debian system uses.
const SUBORDINATE_IDS: u32 = 65_536;

/// Returns whether we run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Returns a command for `program` of the host, which is a name or a path. The program's own
/// `PATH` has the administrator's directories as well: mmdebstrap, for one, calls programs there.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(path_of(program));
    if let Ok(path) = env::join_paths(search_path()) {
        command.env("PATH", path);
    }
    command
}

/// Returns the path of `program`, or `program` itself if it is a path or not installed.
pub fn path_of(program: impl AsRef<OsStr>) -> OsString {
    let name = program.as_ref();
    find_program(name).map_or_else(|| name.to_owned(), Into::into)
}

/// Finds the program `name` in `PATH` or in the administrator's directories.
pub fn find_program(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let name = Path::new(name.as_ref());
    if name.components().count() > 1 {
        return name.is_file().then(|| name.to_owned());
    }
    search_path()
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

fn search_path() -> impl Iterator<Item = PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let own: Vec<_> = env::split_paths(&path)
        .filter(|directory| !directory.as_os_str().is_empty())
        .collect();
    let missing: Vec<_> = ADMINISTRATION
        .map(PathBuf::from)
        .into_iter()
        .filter(|directory| !own.contains(directory))
        .collect();
    own.into_iter().chain(missing)
}

/// Installs missing programs that provisioning and booting call.
///
/// # Errors
///
/// If some are missing and we may not install packages, which the error then names; if the host
/// forbids user namespaces; or if the user has no subordinate ids.
pub fn require_programs() -> Result<()> {
    let unprivileged = (!is_root()).then_some(UNPRIVILEGED);
    let missing: Vec<_> = PROGRAMS
        .into_iter()
        .chain(unprivileged)
        .filter(|(program, _)| find_program(program).is_none())
        .collect();
    let keyring = Path::new(KEYRING).exists();
    if !missing.is_empty() || !keyring {
        install_programs(&missing, keyring)?;
    }
    require_user_namespaces()?;
    if !is_root() {
        let user = user_name()?;
        for (kind, file) in [("uid", "/etc/subuid"), ("gid", "/etc/subgid")] {
            let listed = fs::read_to_string(file).unwrap_or_default();
            require_subordinate_ids(&user, kind, file, &listed)?;
        }
    }
    Ok(())
}

/// Installs the packages of programs, or fails with a line that says what this host needs.
fn install_programs(missing: &[(&str, &str)], keyring: bool) -> Result<()> {
    if find_program("apt-get").is_none() {
        let mut names: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
        if !keyring {
            names.push(KEYRING);
        }
        bail!(
            "missing on this host: {}; it has no apt, so install them by its own package manager, or \
             run zcnic in its container (docs/host.md)",
            names.join(" ")
        );
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    if !keyring {
        packages.push("debian-archive-keyring");
    }
    install(&packages)
}

/// Fails unless programs may be run in namespaces of their own, as build roots, mmdebstrap and the
/// owners of files in images need it.
fn require_user_namespaces() -> Result<()> {
    let mut attempt = command("bwrap");
    attempt.args(["--ro-bind", "/", "/", "--unshare-all", "true"]);
    let mut ended = output(&mut attempt)?;
    if ended.status.success() && !is_root() {
        let mut attempt = command("unshare");
        ended = output(attempt.args(["--map-root-user", "true"]))?;
    }
    if ended.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&ended.stderr);
    let setting = |path: &str| {
        fs::read_to_string(path)
            .map(|value| value.trim().to_owned())
            .ok()
    };
    bail!(forbidden(
        complaint.lines().last().unwrap_or_default(),
        setting
    ))
}

/// Says why namespaces are forbidden, by the kernel's settings, and how to allow them.
fn forbidden(complaint: &str, setting: impl Fn(&str) -> Option<String>) -> String {
    let known = [
        ("kernel/unprivileged_userns_clone", "0", "1"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user/max_user_namespaces", "0", "10000"),
    ];
    let cause = known
        .into_iter()
        .find(|(name, bad, _)| setting(&format!("/proc/sys/{name}")).as_deref() == Some(bad));
    match cause {
        Some((name, _, good)) => {
            let name = name.replace('/', ".");
            format!(
                "this host forbids user namespaces, which zcnic's build roots live in; as root: sysctl \
                 -w {name}={good}"
            )
        }
        None => format!(
            "this host forbids user namespaces, which zcnic's build roots live in ({complaint}); in a \
             container they need `--privileged`"
        ),
    }
}

/// Fails unless `listed`, the content of `file`, gives `user` enough subordinate ids of this kind.
fn require_subordinate_ids(user: &str, kind: &str, file: &str, listed: &str) -> Result<()> {
    // "user:100000:65536"
    let enough = listed.lines().any(|line| {
        let mut fields = line.split(':');
        let name = fields.next() == Some(user);
        let count = fields.nth(1).and_then(|count| count.trim().parse().ok());
        name && count.is_some_and(|count: u32| count >= SUBORDINATE_IDS)
    });
    ensure!(
        enough,
        "{file} has no {SUBORDINATE_IDS} ids for {user}, which mmdebstrap needs; as root: usermod \
         --add-sub{kind}s 100000-165535 {user} (any range that no other line has)"
    );
    Ok(())
}

/// Returns the calling user's name, by which subordinate ids are listed.
fn user_name() -> Result<String> {
    let name = run(command("id").arg("-un")).context(
        "the calling user has no name in /etc/passwd, which newuidmap and mmdebstrap need",
    )?;
    Ok(name.trim().to_owned())
}

/// Installs `packages` by apt-get, or fails with one message that names them.
pub fn install(packages: &[&str]) -> Result<()> {
    let names = packages.join(" ");
    let Some(apt_get) = privileged_apt_get() else {
        bail!("missing on this host: {names} (as root: apt-get install {names})");
    };
    step(&format!("install {names} on the host"), || {
        let install = || {
            let mut apt = apt_get();
            apt.args(["install", "-y", "--no-install-recommends"])
                .args(packages);
            run(apt.env("DEBIAN_FRONTEND", "noninteractive"))
        };
        if install().is_err() {
            // The host never ran `apt-get update`, or its lists are older than the archive.
            run(apt_get().arg("update"))?;
            install()?;
        }
        Ok(())
    })
}

/// Returns how to call apt-get as root, if we may without a password.
fn privileged_apt_get() -> Option<fn() -> Command> {
    find_program("apt-get")?;
    if is_root() {
        return Some(|| command("apt-get"));
    }
    find_program("sudo")?;
    let allowed = output(command("sudo").args(["-n", "true"]))
        .ok()?
        .status
        .success();
    allowed.then_some(|| {
        let mut sudo = command("sudo");
        sudo.args(["-n", "apt-get"]);
        sudo
    })
}

/// Returns the version of `package` that apt would install on the host.
pub fn candidate(package: &str) -> Option<String> {
    let policy = run(command("apt-cache").args(["policy", package])).ok()?;
    let version = policy
        .lines()
        .find_map(|line| line.trim().strip_prefix("Candidate: "))?;
    (version != "(none)").then(|| version.to_owned())
}

/// Returns whether [`install`] may run apt-get.
pub fn may_install() -> bool {
    privileged_apt_get().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_s_own_path_has_the_administrator_s_directories() {
        let printed = run(command("sh").args(["-c", "echo $PATH"])).unwrap();
        for directory in ADMINISTRATION {
            let times = printed
                .trim()
                .split(':')
                .filter(|entry| *entry == directory);
            assert_eq!(times.count(), 1, "{directory} in {printed}");
        }
    }

    #[test]
    fn the_container_has_every_package() {
        let packages = include_str!("../../../../images/container/packages");
        let needed = PROGRAMS
            .into_iter()
            .chain([UNPRIVILEGED])
            .map(|(_, package)| package);
        // apt comes with every Debian.
        for package in needed
            .chain(["debian-archive-keyring"])
            .filter(|name| *name != "apt")
        {
            assert!(
                packages.lines().any(|line| line == package),
                "{package} is missing"
            );
        }
    }

    #[test]
    fn a_program_that_is_missing_keeps_its_name() {
        assert_eq!(find_program("no-such-program"), None);
        assert_eq!(command("no-such-program").get_program(), "no-such-program");
        assert_eq!(find_program("/bin/sh"), Some("/bin/sh".into()));
        assert_eq!(find_program("/nonexistent/sh"), None);
    }

    #[test]
    fn forbidden_user_namespaces_name_the_setting() {
        let only = |which: &'static str, value: &'static str| {
            forbidden("bwrap: no", move |path| {
                path.ends_with(which).then(|| value.to_owned())
            })
        };
        let text = only("unprivileged_userns_clone", "0");
        assert!(
            text.ends_with("sysctl -w kernel.unprivileged_userns_clone=1"),
            "{text}"
        );
        let text = only("apparmor_restrict_unprivileged_userns", "1");
        assert!(
            text.ends_with("apparmor_restrict_unprivileged_userns=0"),
            "{text}"
        );
        let text = only("max_user_namespaces", "31000");
        assert!(text.contains("(bwrap: no)"), "{text}");
    }

    #[test]
    fn subordinate_ids_are_looked_up_by_user() {
        let check = |listed| require_subordinate_ids("me", "uid", "/etc/subuid", listed);
        check("other:1:65536\nme:100000:65536\n").unwrap();
        for listed in ["", "other:100000:65536\n", "me:100000:1000\n"] {
            let error = check(listed).unwrap_err().to_string();
            assert!(
                error.contains("--add-subuids") && error.contains("for me"),
                "{error}"
            );
        }
    }
}
