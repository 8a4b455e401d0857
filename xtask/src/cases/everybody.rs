//! An ordinary user's first command: no root, no sudo, Debian's login `PATH`, an empty cache.
//!
//! When the tests run as root, the user is made for this one command in a mount namespace of its
//! own: `/etc/passwd` and the lists of subordinate ids are copies with one more line, and what lies
//! below a directory that only root may enter is mounted where the user finds it. The host keeps
//! nothing of that. Package files come from the cache of the tests, so that nothing is downloaded
//! twice.

use std::{
    env,
    ffi::OsString,
    fs,
    fs::Permissions,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;
use zcnic_testbed::{
    paths,
    provision::{cache::Cache, host},
    setup::Setup,
    step::{output, run, tail},
};

use super::test::{Run::Host, Test, expect};

pub(super) const TESTS: &[Test] = &[Test {
    name: "everybody: the demo of a user without root, sudo or sbin, with an empty cache",
    run: Host(first_command),
}];

/// `ENV_PATH` of Debian's /etc/login.defs.
const LOGIN_PATH: &str = "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games";
const USER: &str = "zcnic-test";
/// Users whose ids begin here are not given out by Debian's adduser.
const FIRST_ID: u32 = 60_000;
const SUBORDINATE: &str = "zcnic-test:100000:65536\n";
/// Files of /etc that the user's namespace has instead of the host's.
const ACCOUNTS: [&str; 4] = ["passwd", "group", "subuid", "subgid"];

/// Runs a command in its own mount namespace as the user. Its arguments: a scratch directory, the
/// user's id, the number of paths, and the paths that the user must reach; then the command.
const NAMESPACE: &str = r#"
scratch=$1 id=$2 count=$3; shift 3
for file in passwd group subuid subgid; do
    test -e "/etc/$file" || : > "/etc/$file"
    mount --bind "$scratch/etc/$file" "/etc/$file"
done
# Paths below a directory that others may not enter are first mounted elsewhere, because the
# directory is then covered by an empty one.
number=0
for path in $(seq "$count"); do
    eval "path=\${$path}"
    mkdir -p "$scratch/mounts/$number"
    mount --bind "$path" "$scratch/mounts/$number"
    number=$((number + 1))
done
number=0
while [ "$number" -lt "$count" ]; do
    path=$1; shift
    closed= above=
    old_ifs=$IFS; IFS=/
    for part in ${path#/}; do
        above=$above/$part
        case $(stat -c %A "$above" 2>/dev/null) in
            d????????[xt] | "") ;;
            *) closed=$above; break ;;
        esac
    done
    IFS=$old_ifs
    if [ -n "$closed" ]; then
        mount -t tmpfs -o mode=755 none "$closed"
    fi
    mkdir -p "$path"
    mount --bind "$scratch/mounts/$number" "$path"
    number=$((number + 1))
done
exec setpriv --reuid="$id" --regid="$id" --clear-groups "$@"
"#;

fn first_command(setup: &Setup) -> Result<()> {
    let scratch = tempfile::Builder::new().prefix("everybody-").tempdir()?;
    fs::set_permissions(scratch.path(), Permissions::from_mode(0o755))?;
    let home = scratch.path().join("home");
    let program = scratch.path().join("xtask");
    let report = home.join("demo.json");
    fs::create_dir_all(home.join(".cache/zcnic"))?;
    // Also after cargo has replaced the file.
    fs::copy("/proc/self/exe", &program)?;
    let files = seed(&setup.cache, &home)?;

    let mut demo = Command::new(&program);
    demo.args(["demo", "--report"]).arg(&report);
    let (mut command, target) = if host::is_root() {
        let target = home.join("target");
        (as_ordinary_user(&demo, scratch.path(), &home)?, target)
    } else {
        (demo, paths::target())
    };
    command
        .env_clear()
        .envs(toolchain())
        .env("HOME", &home)
        .env("CARGO_TARGET_DIR", target)
        .env("CARGO_NET_OFFLINE", "true")
        .current_dir("/");
    let ended = output(&mut command)?;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    expect(ended.status.success(), || {
        let end = tail(&stderr, 40);
        format!("the demo of an ordinary user: {}\n{end}", ended.status)
    })?;
    let result: Value = serde_json::from_str(&fs::read_to_string(&report).context("no report")?)?;
    expect(result["pass"] == true, || format!("it reports {result}"))?;
    let made = fs::metadata(home.join(".cache/zcnic/rootfs")).is_ok();
    expect(made, || "it made nothing in its own cache".to_owned())?;
    keep(&home, &files)
}

/// Directories of the archive below a cache: lists, and package files.
const LISTS: [&str; 2] = ["apt/state", "apt/updated"];
const FILES: &str = "apt/archives";

/// Gives the user's cache the lists and package files of ours; returns the directory of our files.
fn seed(cache: &Cache, home: &Path) -> Result<PathBuf> {
    let own = home.join(".cache/zcnic");
    fs::create_dir_all(own.join("apt"))?;
    for part in LISTS.into_iter().chain([FILES]) {
        let from = cache.root().join(part);
        if from.exists() {
            run(host::command("cp")
                .arg("-r")
                .arg("--preserve=timestamps")
                .arg(from)
                .arg(own.join("apt")))?;
        }
    }
    Ok(cache.root().join(FILES))
}

/// Keeps the package files that the user had to download, for the next time.
fn keep(home: &Path, files: &Path) -> Result<()> {
    fs::create_dir_all(files)?;
    for item in fs::read_dir(home.join(".cache/zcnic").join(FILES))? {
        let path = item?.path();
        let kept = files.join(path.file_name().unwrap_or_default());
        if path.is_file() && !kept.exists() {
            fs::copy(&path, kept)?;
        }
    }
    Ok(())
}

/// The variables by which cargo finds its toolchain, and a login's `PATH` with cargo's directory.
fn toolchain() -> Vec<(&'static str, OsString)> {
    let mut variables: Vec<_> = ["CARGO", "RUSTUP_TOOLCHAIN"]
        .into_iter()
        .filter_map(|name| Some((name, env::var_os(name)?)))
        .collect();
    let mut path = OsString::new();
    for (name, directory) in rust_homes() {
        if name == "CARGO_HOME" {
            path.push(directory.join("bin"));
            path.push(":");
        }
        variables.push((name, directory.into()));
    }
    path.push(LOGIN_PATH);
    variables.push(("PATH", path));
    variables
}

/// The directories of cargo and rustup that exist.
fn rust_homes() -> Vec<(&'static str, PathBuf)> {
    [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup")]
        .into_iter()
        .filter_map(|(name, default)| {
            let set = env::var_os(name).map(PathBuf::from);
            let directory = set.or_else(|| Some(env::home_dir()?.join(default)))?;
            directory.is_dir().then_some((name, directory))
        })
        .collect()
}

/// Returns the command that runs `command` as the user, whose `home` gets a copy of what cargo has
/// compiled.
fn as_ordinary_user(command: &Command, scratch: &Path, home: &Path) -> Result<Command> {
    if host::find_program("newuidmap").is_none() {
        host::install(&["uidmap"])?;
    }
    let passwd = fs::read_to_string("/etc/passwd")?;
    let is_free = |id: &u32| {
        let field = id.to_string();
        passwd
            .lines()
            .all(|line| line.split(':').nth(2) != Some(&field))
    };
    let id = (FIRST_ID..).find(is_free).context("no free user id")?;
    let etc = scratch.join("etc");
    fs::create_dir(&etc)?;
    let accounts = [
        format!("{passwd}{USER}:x:{id}:{id}::{}:/bin/sh\n", home.display()),
        format!("{}{USER}:x:{id}:\n", fs::read_to_string("/etc/group")?),
        SUBORDINATE.to_owned(),
        SUBORDINATE.to_owned(),
    ];
    for (name, text) in ACCOUNTS.iter().zip(accounts) {
        fs::write(etc.join(name), text)?;
    }

    let target = paths::target().join("guest");
    fs::create_dir_all(home.join("target"))?;
    if target.exists() {
        run(host::command("cp")
            .arg("-a")
            .arg(&target)
            .arg(home.join("target")))?;
    }
    chown(home, Some(id), Some(id))?;
    fs::set_permissions(home, Permissions::from_mode(0o700))?;
    run(host::command("chown")
        .args(["-R", &format!("{id}:{id}")])
        .arg(home))?;

    let mut reached = vec![paths::workspace().to_owned()];
    reached.extend(rust_homes().into_iter().map(|(_, directory)| directory));
    let mut namespace = host::command("unshare");
    namespace
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-euc",
            NAMESPACE,
            "sh",
        ])
        .arg(scratch)
        .arg(id.to_string())
        .arg(reached.len().to_string())
        .args(&reached)
        .arg(command.get_program())
        .args(command.get_args());
    Ok(namespace)
}
