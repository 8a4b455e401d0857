//! The files of the packages.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use zcnic_testbed::{paths, provision::host, step::run};

use super::{Release, programs::Programs, read, third_party, write};

/// Programs with manual pages and completions.
const DOCUMENTED: [&str; 3] = ["zcnic", "zcnicctl", "zcnic-lab"];
/// The files of `images/driver/bind`, by which ports get the driver, and their directories.
const BINDING: [(&str, &str); 3] = [
    ("zcnic-bind", "usr/sbin"),
    ("60-zcnic.rules", "usr/lib/udev/rules.d"),
    ("zcnic.conf", "usr/lib/modprobe.d"),
];
/// Programs that only `zcnic-lab` calls.
const HELPERS: [&str; 3] = ["zcnic-guest", "data_path", "data_path-without-faults"];
/// Shells, and the places of their completions below `usr/share`; `@` is the program.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "bash-completion/completions/@"),
    ("fish", "fish/vendor_completions.d/@.fish"),
    ("zsh", "zsh/vendor-completions/_@"),
];

/// Makes the tree of the package zcnic.
pub(super) fn zcnic(tree: &Path, release: &Release, programs: &Programs) -> Result<()> {
    let usr = tree.join("usr");
    for name in DOCUMENTED {
        program(programs, name, &usr.join("bin"))?;
    }
    for name in HELPERS {
        program(programs, name, &usr.join("lib/zcnic"))?;
    }
    let man = usr.join("share/man/man1");
    for name in DOCUMENTED {
        run(programs
            .command(name)
            .args(["man", "--directory"])
            .arg(&man))?;
        for (shell, place) in COMPLETIONS {
            let script = run(programs.command(name).args(["completions", shell]))?;
            write(&usr.join("share").join(place.replace('@', name)), script)?;
        }
    }

    let share = usr.join("share/zcnic");
    for recipe in ["kernel", "rootfs"] {
        fs::create_dir_all(share.join("images"))?;
        let from = paths::images().join(recipe);
        run(host::command("cp")
            .arg("-rT")
            .arg(from)
            .arg(share.join("images").join(recipe)))?;
    }
    driver(&share.join("images/driver"))?;
    write(&share.join("commit"), format!("{}\n", release.commit))?;

    let units = usr.join("lib/systemd/system");
    for unit in ["zcnic@.service", "zcnic@.socket"] {
        write(&units.join(unit), read("packaging", unit)?)?;
    }
    let doc = documents(tree, "zcnic", release)?;
    write(
        &doc.join("examples/zcnic.conf"),
        read("packaging", "example.conf")?,
    )?;
    for item in fs::read_dir(paths::workspace().join("docs"))? {
        let path = item?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            let name = path.file_name().unwrap_or_default();
            write(&doc.join("docs").join(name), fs::read(&path)?)?;
        }
    }
    write(&doc.join("third-party"), third_party::notice()?)?;
    compress(&doc.join("third-party"))?;
    for page in fs::read_dir(&man)? {
        compress(&page?.path())?;
    }
    Ok(())
}

/// Makes the tree of the package zcnic-dkms.
pub(super) fn dkms(tree: &Path, release: &Release) -> Result<()> {
    let source = tree.join(format!("usr/src/zcnic-{}", release.version));
    driver(&source)?;
    write(&source.join("dkms.conf"), release.template("dkms.conf")?)?;
    let bind = paths::images().join("driver/bind");
    for (file, place) in BINDING {
        let target = tree.join(place).join(file);
        fs::create_dir_all(tree.join(place))?;
        // With its permissions.
        fs::copy(bind.join(file), &target)
            .with_context(|| format!("cannot copy {}", target.display()))?;
    }
    documents(tree, "zcnic-dkms", release).map(drop)
}

fn program(programs: &Programs, name: &str, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    fs::copy(programs.path(name), directory.join(name))
        .with_context(|| format!("cannot copy {name}"))
        .map(drop)
}

/// Copies the driver's source, its licences and its README, but nothing that a build left there.
fn driver(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    for item in fs::read_dir(paths::images().join("driver"))? {
        let path = item?.path();
        let name = path.file_name().unwrap_or_default();
        let text = name.to_string_lossy();
        let source = text.ends_with(".c") || text.ends_with(".h");
        let other = text == "Kbuild" || text == "README.md" || text.starts_with("LICENSE-");
        if (source && !text.ends_with(".mod.c")) || other {
            fs::copy(&path, directory.join(name))?;
        }
    }
    Ok(())
}

/// Writes copyright, changelogs and licences of a package, and returns their directory.
fn documents(tree: &Path, package: &str, release: &Release) -> Result<PathBuf> {
    let doc = tree.join("usr/share/doc").join(package);
    let indented = |text: String| {
        let line = |line: &str| match line.trim_end() {
            "" => " .".to_owned(),
            text => format!(" {text}"),
        };
        text.lines().map(line).collect::<Vec<_>>().join("\n")
    };
    let copyright = read("packaging", "copyright")?
        .replace("@LICENSE-MIT@", &indented(read("", "LICENSE-MIT")?))
        .replace(
            "@LICENSE-BSD-3-Clause@",
            &indented(read("images/driver", "LICENSE-BSD-3-Clause")?),
        );
    write(&doc.join("copyright"), copyright)?;
    let changes = [
        ("changelog", read("", "CHANGELOG.md")?),
        ("changelog.Debian", super::deb::changelog(package, release)?),
    ];
    for (name, text) in changes {
        write(&doc.join(name), text)?;
        compress(&doc.join(name))?;
    }
    // The archive is unpacked on systems without common-licenses.
    for name in ["LICENSE-APACHE", "LICENSE-MIT"] {
        write(&doc.join(name), read("", name)?)?;
    }
    Ok(doc)
}

/// Compresses a file as Debian wants it, without name and time in it.
fn compress(path: &Path) -> Result<()> {
    run(host::command("gzip").args(["-9", "-n"]).arg(path)).map(drop)
}

/// Fails if a manual page refers to one that is not there.
pub(super) fn check_references(directory: &Path) -> Result<()> {
    let mut names = BTreeSet::new();
    let mut references = BTreeSet::new();
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        names.insert(name.trim_end_matches(".1.gz").to_owned());
        let page = run(host::command("gzip").arg("-dc").arg(&path))?;
        references.extend(referred(&page));
    }
    ensure!(!references.is_empty(), "no manual page refers to another");
    let missing: Vec<_> = references.difference(&names).cloned().collect();
    if !missing.is_empty() {
        bail!(
            "manual pages refer to pages that don't exist: {}",
            missing.join(", ")
        );
    }
    Ok(())
}

/// The pages of section 1 that a page names.
fn referred(page: &str) -> Vec<String> {
    let text = page.replace("\\-", "-");
    let word = |before: &str| {
        let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        let start = before.rfind(|c| !legal(c)).map_or(0, |at| at + 1);
        before[start..].to_owned()
    };
    let mut parts: Vec<_> = text.split("(1)").collect();
    parts.pop();
    parts.into_iter().map(word).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_of_a_page_are_found() {
        let page = ".TP\nzcnic\\-lab\\-vm(1)\nSee zcnicctl(1), and f(2).\n";
        assert_eq!(referred(page), ["zcnic-lab-vm", "zcnicctl"]);
    }

    #[test]
    fn a_reference_to_a_missing_page_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let page = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            compress(&path).unwrap();
        };
        page("a.1", "b(1)\n");
        let error = check_references(directory.path()).unwrap_err();
        assert!(error.to_string().ends_with("don't exist: b"), "{error}");
        page("b.1", "");
        check_references(directory.path()).unwrap();
    }
}
