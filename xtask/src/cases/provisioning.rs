//! What a command does before it has a guest: it refuses what is wrong before it makes anything,
//! and says in one line what the host lacks.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use zcnic_testbed::{
    paths,
    provision::host,
    setup::Setup,
    step::{describe, output},
};

use super::test::{Run::Host, Test, expect};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "provisioning: a kernel, QEMU or tree that is not there is refused before anything is made",
        run: Host(wrong_paths),
    },
    Test {
        name: "provisioning: a disk that is too small is refused before anything is downloaded",
        run: Host(small_disk),
    },
    Test {
        name: "provisioning: without a network one line says so, and apt's output is kept",
        run: Host(offline),
    },
    Test {
        name: "provisioning: a relative XDG_CACHE_HOME is ignored, and the cache is listed and emptied",
        run: Host(cache_of_a_home),
    },
];

/// Returns this program with these arguments, for a user whose home is `home`: a cache of its own.
fn xtask(words: &[&str], home: &Path) -> Command {
    let mut command = paths::this_program();
    command
        .args(words)
        .env_remove("XDG_CACHE_HOME")
        .env("HOME", home);
    command
}

/// Runs a command that must fail; returns all lines that it prints.
fn failure(command: &mut Command) -> Result<Vec<String>> {
    let ended = output(command)?;
    let text = String::from_utf8_lossy(&ended.stderr);
    let lines = text.lines().map(str::to_owned).collect();
    expect(!ended.status.success(), || {
        format!("`{}` succeeds", describe(command))
    })?;
    Ok(lines)
}

fn wrong_paths(_: &Setup) -> Result<()> {
    let home = tempfile::tempdir()?;
    let cases: [(&[&str], &str); 7] = [
        (
            &["demo", "--kernel", "/nonexistent/a"],
            "--kernel /nonexistent/a: No such file",
        ),
        (
            &["demo", "--qemu", "/nonexistent/b"],
            "--qemu /nonexistent/b: No such file",
        ),
        (
            &["vm", "--kernel", "/bin/sh", "--", "true"],
            "is not an x86 kernel image",
        ),
        (
            &["test", "--kernel", "/nonexistent/c"],
            "--kernel /nonexistent/c: No such file",
        ),
        (
            &["scenario", "--qemu", "/bin/true"],
            "true is not a QEMU system emulator",
        ),
        (
            &["kselftest", "--kernel", "/nonexistent/d"],
            "--kernel /nonexistent/d: No such file",
        ),
        (
            &["verdict", "--tree", "/nonexistent/e", "hds.py"],
            "/nonexistent/e: No such file",
        ),
    ];
    for (words, error) in cases {
        let lines = failure(&mut xtask(words, home.path()))?;
        let one = lines.len() == 1 && lines[0].contains(error);
        expect(one, || {
            format!("{words:?} prints {lines:#?}, not a line with {error:?}")
        })?;
    }
    let made: Vec<_> = fs::read_dir(home.path())?.collect();
    expect(made.is_empty(), || format!("they made {made:?}"))
}

/// The cache is on a file system of 50 MB.
fn small_disk(_: &Setup) -> Result<()> {
    let home = tempfile::tempdir()?;
    // The path of this program leads through a process that a user namespace hides.
    let elsewhere = tempfile::tempdir()?;
    let program = elsewhere.path().join("xtask");
    fs::copy("/proc/self/exe", &program)?;
    let mut command = host::command("unshare");
    if !host::is_root() {
        command.arg("--map-root-user");
    }
    command
        .args(["--mount", "sh", "-ec"])
        .arg(r#"mount -t tmpfs -o size=50m none "$HOME"; exec "$@""#)
        .arg("sh")
        .arg(program)
        .arg("demo")
        .env_remove("XDG_CACHE_HOME")
        .env("HOME", home.path());
    let lines = failure(&mut command)?;
    let words = ["not enough disk space", "it needs 2.8 GB", "free"];
    let clear = lines.len() == 1 && words.iter().all(|word| lines[0].contains(word));
    expect(clear, || format!("it prints {lines:#?}"))
}

fn offline(_: &Setup) -> Result<()> {
    let home = tempfile::tempdir()?;
    // Nothing listens on the port of the discard service.
    let mut command = xtask(&["driver", "--headers", "7.3"], home.path());
    command.env("http_proxy", "http://127.0.0.1:9");
    let lines = failure(&mut command)?;
    let error = lines.last().context("it prints nothing")?;
    let words = [
        "cannot read the Debian archive's lists",
        "127.0.0.1",
        "apt's output is in ",
    ];
    let clear = words.iter().all(|word| error.contains(word));
    // The other line is the step's.
    expect(clear && lines.len() == 2, || {
        format!("it prints {lines:#?}")
    })?;
    let (_, log) = error.rsplit_once("apt's output is in ").context("no log")?;
    let log = fs::read_to_string(log)?;
    expect(log.lines().count() > 3 && log.contains("apt-get"), || {
        log.clone()
    })
}

fn cache_of_a_home(_: &Setup) -> Result<()> {
    let home = tempfile::tempdir()?;
    let elsewhere = tempfile::tempdir()?;
    let cache = home.path().join(".cache/zcnic");
    let entry = cache.join("driver/0123456789abcdef");
    fs::create_dir_all(&entry)?;
    fs::write(entry.join("zcnic.ko"), vec![1; 3_000_000])?;
    let ask = |words: &[&str]| {
        let mut command = xtask(&[&["cache"], words].concat(), home.path());
        command
            .env("XDG_CACHE_HOME", "cache")
            .current_dir(&elsewhere);
        let ended = output(&mut command)?;
        expect(ended.status.success(), || {
            String::from_utf8_lossy(&ended.stderr).into_owned()
        })?;
        anyhow::Ok(String::from_utf8(ended.stdout)?)
    };
    let list = ask(&[])?;
    let place = cache.display().to_string();
    let told = list.contains("driver 0123456789abcdef") && list.contains(&place);
    expect(told, || format!("it lists {list}"))?;
    expect(ask(&["prune"])?.contains("0 MB  removed"), || {
        "what was just made is old".to_owned()
    })?;
    let gone = ask(&["prune", "--all"])?;
    expect(gone.contains("0123456789abcdef") && !entry.exists(), || {
        format!("it removed {gone}")
    })?;
    let key = ask(&["key"])?;
    let known = key
        .trim()
        .strip_prefix("zcnic-")
        .is_some_and(|hash| hash.len() == 16);
    expect(known && key == ask(&["key"])?, || {
        format!("the key is {key}")
    })?;
    let strewn: Vec<_> = fs::read_dir(&elsewhere)?.collect();
    expect(strewn.is_empty(), || {
        format!("the relative directory is used: {strewn:?}")
    })
}
