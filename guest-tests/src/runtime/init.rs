//! The guest's init: from the initrd to a running agent.
//!
//! The kernel starts this as `/init`. It loads the modules that the disks need, mounts the root
//! image with a tmpfs over it (images are shared between guests and never written), makes that the
//! root and starts the agent there. After that it only reaps: the agent is a child and not process
//! 1 itself, so that it can wait for its own children without reaping other processes' children.
//!
//! Disks are identified by serial number: `root`, `modules` (the kernel's module tree), and any
//! other NAME is mounted at `/opt/NAME`.

use std::{
    fs,
    io::Write,
    os::unix::{fs::symlink, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use anyhow::{Context, Result, bail};
use rustix::{
    mount::{MountFlags, mount, mount_move},
    process::{Pid, WaitOptions, chdir, chroot, wait},
    system::{RebootCommand, init_module, reboot, sethostname, uname},
};

/// Files in the initrd that the running guest needs: this program, and drivers under test.
const CARRIED: &str = "/carry";
/// Directory of these files in the running guest.
const HOME: &str = "/run/zcnic";

/// Becomes the guest's init (started by the kernel)
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Sets the guest up and reaps processes until the agent ends; then the guest powers off.
///
/// # Errors
///
/// Never as process 1, which prints the error to the console and powers off instead.
pub fn run(_args: &Args) -> Result<ExitCode> {
    if std::process::id() != 1 {
        bail!("init is for the guest's kernel to start, as process 1");
    }
    if let Err(error) = start().and_then(reap) {
        // Standard error is the console.
        let _ = writeln!(std::io::stderr(), "zcnic-guest init: {error:#}");
    }
    reboot(RebootCommand::PowerOff).context("power off")?;
    Ok(ExitCode::FAILURE)
}

/// Does everything up to the agent; returns the agent's process id.
fn start() -> Result<Pid> {
    attach("devtmpfs", "/dev", "devtmpfs", "")?;
    attach("sysfs", "/sys", "sysfs", "")?;
    load_modules(Path::new("/modules"))?;
    let disks = disks()?;
    mount_root(&disks)?;
    fill_run()?;
    enter_root()?;
    mount_the_rest(&disks)?;
    configure()?;
    let agent = Command::new(format!("{HOME}/zcnic-guest"))
        .arg("agent")
        .current_dir("/root")
        .env_clear()
        .envs([
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
            (
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            ),
            ("TERM", "linux"),
            ("USER", "root"),
        ])
        .process_group(0)
        .spawn()
        .context("start the agent")?;
    Pid::from_raw(agent.id().cast_signed()).context("the agent has no process id")
}

/// Reaps until the agent ends.
fn reap(agent: Pid) -> Result<()> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if pid == agent => bail!("the agent ended: {status:?}"),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("wait"),
        }
    }
}

/// Mounts a file system, making its mount point.
fn attach(source: &str, target: &str, kind: &str, options: &str) -> Result<()> {
    attach_with(source, target, kind, options, MountFlags::empty())
}

fn attach_with(
    source: &str,
    target: &str,
    kind: &str,
    options: &str,
    flags: MountFlags,
) -> Result<()> {
    fs::create_dir_all(target).with_context(|| format!("make {target}"))?;
    let options = std::ffi::CString::new(options)?;
    mount(source, target, kind, flags, options.as_c_str())
        .with_context(|| format!("mount {kind} {source} on {target}"))
}

/// Loads the initrd's modules; the names begin with their place in the order of dependency.
fn load_modules(directory: &Path) -> Result<()> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory)
        .with_context(|| format!("list {}", directory.display()))?
        .map(|item| Ok(item?.path()))
        .collect::<Result<_>>()?;
    files.sort();
    for file in files {
        init_module(&fs::read(&file)?, c"").with_context(|| format!("load {}", file.display()))?;
    }
    Ok(())
}

/// Serial number and device of each virtio disk.
fn disks() -> Result<Vec<(String, String)>> {
    let mut disks = Vec::new();
    for item in fs::read_dir("/sys/block").context("list /sys/block")? {
        let item = item?;
        if let Ok(serial) = fs::read_to_string(item.path().join("serial")) {
            let device = format!("/dev/{}", item.file_name().to_string_lossy());
            disks.push((serial.trim().to_owned(), device));
        }
    }
    Ok(disks)
}

/// Puts the root image, with a tmpfs over it, at /root.
fn mount_root(disks: &[(String, String)]) -> Result<()> {
    let Some((_, device)) = disks.iter().find(|(serial, _)| serial == "root") else {
        bail!("no disk with the serial number `root` (there are {disks:?})");
    };
    attach_with(device, "/lower", "ext4", "", MountFlags::RDONLY)?;
    attach("tmpfs", "/upper", "tmpfs", "mode=755,size=50%")?;
    fs::create_dir("/upper/data")?;
    fs::create_dir("/upper/work")?;
    let layers = "lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work";
    attach("overlay", "/root", "overlay", layers)
}

/// Copies the files that the initrd carries to the new root's /run.
fn fill_run() -> Result<()> {
    attach("tmpfs", "/root/run", "tmpfs", "mode=755")?;
    let home = format!("/root{HOME}");
    fs::create_dir(&home)?;
    for item in fs::read_dir(CARRIED).with_context(|| format!("list {CARRIED}"))? {
        let item = item?;
        fs::copy(item.path(), Path::new(&home).join(item.file_name()))?;
        // The initrd's memory is only freed with its files.
        fs::remove_file(item.path())?;
    }
    for program in ["zcnic-guest", "zcnicctl"] {
        let link = format!("/root/usr/local/bin/{program}");
        symlink(format!("{HOME}/{program}"), &link).with_context(|| format!("link {link}"))?;
    }
    // For tests in Python; a root without Python needs no module.
    let modules = Path::new("/root/usr/lib/python3/dist-packages");
    if modules.is_dir() {
        let link = modules.join("zcnic.py");
        symlink(format!("{HOME}/zcnic.py"), &link)
            .with_context(|| format!("link {}", link.display()))?;
    }
    Ok(())
}

fn enter_root() -> Result<()> {
    for mount_point in ["dev", "sys"] {
        let target = format!("/root/{mount_point}");
        mount_move(format!("/{mount_point}"), &target)
            .with_context(|| format!("move /{mount_point} to {target}"))?;
    }
    chdir("/root").context("enter the new root")?;
    mount_move(".", "/").context("make it the root")?;
    chroot(".").context("make it the root")?;
    chdir("/").context("enter the root")
}

fn mount_the_rest(disks: &[(String, String)]) -> Result<()> {
    attach("proc", "/proc", "proc", "")?;
    attach("tmpfs", "/tmp", "tmpfs", "mode=1777")?;
    attach("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666")?;
    attach("tmpfs", "/dev/shm", "tmpfs", "mode=1777")?;
    let release = uname().release().to_string_lossy().into_owned();
    for (serial, device) in disks.iter().filter(|(serial, _)| serial != "root") {
        let target = match serial.as_str() {
            "modules" => format!("/lib/modules/{release}"),
            name => format!("/opt/{name}"),
        };
        attach_with(device, &target, "ext4", "", MountFlags::RDONLY)?;
    }
    // A user's own kernel may lack some of these, and most guests need none of them.
    for (kind, target) in [
        ("cgroup2", "/sys/fs/cgroup"),
        ("debugfs", "/sys/kernel/debug"),
        ("tracefs", "/sys/kernel/tracing"),
        ("bpf", "/sys/fs/bpf"),
        ("configfs", "/sys/kernel/config"),
        ("hugetlbfs", "/dev/hugepages"),
    ] {
        if kind == "configfs" {
            // Its mount point comes with the module.
            let _ = Command::new("/sbin/modprobe").args(["-q", kind]).status();
        }
        if let Err(error) = attach(kind, target, kind, "") {
            writeln!(
                std::io::stderr(),
                "zcnic-guest init: without {kind}: {error:#}"
            )?;
        }
    }
    for (link, target) in [
        ("/dev/fd", "/proc/self/fd"),
        ("/dev/stdin", "/proc/self/fd/0"),
        ("/dev/stdout", "/proc/self/fd/1"),
        ("/dev/stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, link).with_context(|| format!("link {link}"))?;
    }
    Ok(())
}

fn configure() -> Result<()> {
    let name = fs::read_to_string("/etc/hostname").context("read /etc/hostname")?;
    sethostname(name.trim().as_bytes()).context("set the host name")?;
    let status = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status()
        .context("run ip")?;
    if !status.success() {
        bail!("ip link set lo up: {status}");
    }
    Ok(())
}
