//! The recipes of docs/your-own-guest.md, with the programs that they name, as Debian has them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};
use zcnic_testbed::{
    paths,
    provision::{
        archive::Archive,
        bootstrap::TreeRecipe,
        buildroot::{BuildRoot, Recipe, WORK},
        cache::{Cache, Entry, Key},
        driver, host, programs,
        qemu::Qemu,
        rootfs,
        selftests::Selftests,
    },
    setup::Setup,
    step::{output, run, step, tail},
};

use super::test::{Run::Host, Test, expect};

pub(super) const TESTS: &[Test] = &[
    Test {
        name: "recipes: libvirt's schema accepts the domain, and the devices within another one",
        run: Host(libvirt),
    },
    Test {
        name: "recipes: iou-zcrx.py passes in guests of virtme-ng, on 9p and on virtiofs",
        run: Host(virtme_ng),
    },
];

const DOCUMENT: &str = "docs/your-own-guest.md";

/// A domain as users have it, before they add ports.
const OTHER_DOMAIN: &str = "\
<domain type='qemu'>
  <name>other</name>
  <memory unit='GiB'>2</memory>
  MEMORY
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <console type='pty'/>
    DEVICES
  </devices>
</domain>
";

/// Bump when [`root`] makes something else of the same packages.
const RECIPE: &str = "recipes-root 1";
/// What virtme-ng needs in the system that it makes a guest of, besides what the selftests need.
const VIRTME_NG: [&str; 3] = ["virtme-ng", "virtiofsd", "busybox-static"];

/// Places in the system of [`root`].
const QEMU: &str = "/opt/qemu";
const SELFTESTS: &str = "/opt/selftests";
const ZCNIC: &str = "/opt/zcnic";

/// What the guest does; the document has the same commands.
const INSIDE: &str = "insmod /opt/zcnic/zcnic.ko && /opt/zcnic/zcnic-guest ports up && \
                      /opt/zcnic/zcnic-guest kselftest --root /opt/selftests iou-zcrx.py";
const PASSED: &str = "# Totals: pass:5 fail:0 xfail:0 xpass:0 skip:0 error:0";

fn libvirt(setup: &Setup) -> Result<()> {
    let recipe = Recipe {
        kind: "libvirt",
        packages: &["libvirt-clients", "libvirt-common", "libxml2-utils", "sed"],
        ..Recipe::default()
    };
    let root = BuildRoot::ensure(&setup.cache, &recipe, "unpack Debian's libvirt")?;
    let print = |option: &[&str]| {
        let mut print = Command::new(&setup.programs.zcnic);
        print
            .args(["qemu-args", "--format", "libvirt"])
            .args(["--port", "path=/run/a.sock", "--port", "path=/run/b.sock"])
            .args(["--control", "/run/ctl"])
            .args(option);
        run(&mut print)
    };
    let document = document()?;
    let begin = document.find("    <memoryBacking>");
    let end = document.find("    </memoryBacking>");
    let (Some(begin), Some(end)) = (begin, end) else {
        anyhow::bail!("{DOCUMENT} shows no memory that is shared");
    };
    let memory = format!("{}</memoryBacking>", &document[begin..end]);
    let other = OTHER_DOMAIN
        .replace("MEMORY", &memory)
        .replace("DEVICES", &print(&["--devices-only"])?);

    let room = tempfile::tempdir()?;
    for (name, domain) in [("whole.xml", print(&[])?), ("other.xml", other)] {
        fs::write(room.path().join(name), domain)?;
        let mut validate = root.command(room.path(), "virt-xml-validate");
        validate.arg(format!("{WORK}/{name}")).arg("domain");
        run(&mut validate).with_context(|| name.to_owned())?;
    }
    // So that a schema that is not found can't pass for one that accepts everything.
    let wrong = OTHER_DOMAIN
        .replace("MEMORY", "")
        .replace("DEVICES", "<port/>");
    fs::write(room.path().join("wrong.xml"), wrong)?;
    let mut validate = root.command(room.path(), "virt-xml-validate");
    validate.arg(format!("{WORK}/wrong.xml")).arg("domain");
    let refused = !output(&mut validate)?.status.success();
    expect(refused, || "the schema accepts a <port/>".to_owned())
}

fn virtme_ng(setup: &Setup) -> Result<()> {
    let document = document()?;
    let lines = |begin: &str| {
        let lines = document.lines().map(str::trim_start);
        let found = lines.filter(|line| line.starts_with(begin));
        found.map(str::to_owned).collect::<Vec<_>>()
    };
    let (ports, calls) = (lines("A="), lines("vng "));
    expect(ports.len() == 1 && calls.len() == 2, || {
        format!(
            "{DOCUMENT} has {} lines with A= and {} with vng",
            ports.len(),
            calls.len()
        )
    })?;

    let root = root(&setup.cache, &setup.kernel.release)?;
    let files = tempfile::tempdir()?;
    let built = programs::build()?;
    let module = driver::ensure(&setup.cache, &setup.kernel)?.join(driver::MODULE);
    for (file, name) in [
        (&built.zcnic, "zcnic"),
        (&built.zcnic_guest, "zcnic-guest"),
        (&module, driver::MODULE),
    ] {
        fs::copy(file, files.path().join(name))?;
    }
    let selftests = Selftests::ensure(&setup.cache)?;
    let qemu = Qemu::unpacked(&setup.cache)?;
    let image = image(&setup.kernel.release);
    let binds = [
        (setup.kernel.vmlinuz.clone(), image.clone()),
        (setup.kernel.modules.clone(), modules(&setup.kernel.release)),
        (qemu.join("tree"), QEMU.into()),
        (selftests.tree(), SELFTESTS.into()),
        (files.path().to_owned(), ZCNIC.into()),
    ];
    for call in calls {
        let script = format!(
            "set -eu; {}; zcnic $A --cable 0:1,pause & \
             exec {call} --run {image} --disable-kvm --user root --memory 2G --cpus 4 \
             --exec '{INSIDE}'",
            ports[0]
        );
        let ended = step(
            &format!(
                "run {}",
                call.split(" --qemu-opts").next().unwrap_or_default()
            ),
            || output(&mut system(&root.join("tree"), &binds, &script)),
        )?;
        let printed = String::from_utf8_lossy(&ended.stdout);
        expect(printed.lines().any(|line| line.trim() == PASSED), || {
            let errors = String::from_utf8_lossy(&ended.stderr);
            format!(
                "{call} ended with {}:\n{}\n{}",
                ended.status,
                tail(&printed, 30),
                tail(&errors, 30)
            )
        })?;
    }
    Ok(())
}

fn document() -> Result<String> {
    fs::read_to_string(paths::workspace().join(DOCUMENT)).context(DOCUMENT)
}

fn image(release: &str) -> String {
    format!("/boot/vmlinuz-{release}")
}

fn modules(release: &str) -> String {
    format!("/usr/lib/modules/{release}")
}

/// A Debian system with virtme-ng and what the selftests need, and the places for what is mounted
/// into it.
fn root(cache: &Cache, release: &str) -> Result<Entry> {
    let mut packages = rootfs::packages()?;
    packages.extend(VIRTME_NG.map(str::to_owned));
    let key = packages
        .iter()
        .fold(Key::new(RECIPE).text(release), Key::text);
    cache.entry("recipes-root", &key, |directory| {
        let archive = Archive::open(cache)?;
        let recipe = TreeRecipe {
            packages,
            exclude: Vec::new(),
        };
        let tree = step("make a Debian system with virtme-ng", || {
            recipe.make(&archive, directory)
        })?;
        for place in [QEMU, SELFTESTS, ZCNIC, &modules(release), "/boot"] {
            fs::create_dir_all(below(&tree, place))?;
        }
        fs::write(below(&tree, &image(release)), "")?;
        // Debian's own, of trixie, aborts now and then without KVM.
        let words = Qemu::within(Path::new(QEMU));
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let program = below(&tree, "/usr/local/bin/qemu-system-x86_64");
        fs::write(
            &program,
            format!("#!/bin/sh\nexec {} \"$@\"\n", words.join(" ")),
        )?;
        run(host::command("chmod").arg("+x").arg(program)).map(drop)
    })
}

fn below(tree: &Path, place: &str) -> PathBuf {
    tree.join(place.trim_start_matches('/'))
}

/// Returns a command that runs `script` in the system at `tree`, as its root, without a network.
fn system(tree: &Path, binds: &[(PathBuf, String)], script: &str) -> Command {
    let mut command = host::command("bwrap");
    command.arg("--ro-bind").arg(tree).arg("/");
    for (from, to) in binds {
        command.arg("--ro-bind").arg(from).arg(to);
    }
    command
        .args(["--proc", "/proc", "--dev", "/dev"])
        .args(["--tmpfs", "/tmp", "--tmpfs", "/run", "--tmpfs", "/root"])
        .args(["--unshare-all", "--uid", "0", "--gid", "0"])
        .args(["--die-with-parent", "--new-session", "--clearenv"])
        .args([
            "--setenv",
            "PATH",
            &format!("{ZCNIC}:/usr/local/bin:/usr/bin:/usr/sbin"),
        ])
        .args(["--setenv", "HOME", "/root", "--setenv", "LC_ALL", "C.UTF-8"])
        .args(["--", "timeout", "900", "bash", "-c", script]);
    command
}
