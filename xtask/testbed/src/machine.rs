//! QEMU's command line for a guest.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};

use crate::{
    acceleration::Acceleration, control, provision::cache::Cache, share::Share, watch::Watching,
};

/// The socket of QEMU's gdb server, in the guest's directory.
pub const GDB_SOCKET: &str = "gdb.sock";

/// What QEMU's own filter of system calls refuses, as libvirt has it.
const SANDBOX: &str = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

/// A zcnic port as QEMU sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Distinguishes sockets and ids.
    pub index: u8,
    /// Number of queue pairs, the command pair included.
    pub pairs: u16,
    /// Its MAC address, whose prefix 5a:43:4e makes zcnic.ko take the device.
    pub mac: Mac,
}

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// Returns the usual one of a port.
    pub const fn of(index: u8) -> Self {
        Self([0x5a, 0x43, 0x4e, 0, 0, index + 1])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&bytes.join(":"))
    }
}

/// A debugger of the guest's kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Debugger {
    /// It may connect at any time
    Any,
    /// The guest waits for it before its first instruction
    Wait,
}

/// The files and sockets of a guest outside of the cache.
#[derive(Clone, Copy, Debug)]
pub struct Places<'a> {
    /// Directory of the guest's own ones.
    pub own: &'a Path,
    /// Directory of the backend's sockets.
    pub backend: &'a Path,
    /// Who runs QEMU.
    pub runner: Runner,
}

/// Who runs QEMU: it connects to our sockets, and listens on those of a user's command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// This program.
    Testbed,
    /// A user, with the console on the terminal.
    Terminal,
    /// A user, in the background.
    Background,
}

impl Port {
    /// Returns the socket on which the backend serves it, in the backend's `directory`.
    pub fn socket(self, directory: &Path) -> PathBuf {
        directory.join(format!("port{}.sock", self.index))
    }

    fn arguments(self, directory: &Path) -> Vec<String> {
        let Self { index, pairs, mac } = self;
        let socket = self.socket(directory);
        // One vector per ring and one for configuration changes; the control queue has none.
        let vectors = 2 * pairs + 2;
        vec![
            "-chardev".to_owned(),
            format!(
                "socket,id=port{index},path={},reconnect-ms=500",
                socket.display()
            ),
            "-netdev".to_owned(),
            format!("vhost-user,id=net{index},chardev=port{index},queues={pairs}"),
            "-device".to_owned(),
            format!(
                "virtio-net-pci,id=nic{index},netdev=net{index},mac={mac},mq=on,vectors={vectors},\
                 rx_queue_size=1024,tx_queue_size=1024,disable-legacy=on,iommu_platform=on"
            ),
        ]
    }
}

/// A guest before it boots.
#[derive(Clone, Debug)]
pub struct Machine {
    /// How QEMU runs its processors.
    pub acceleration: Acceleration,
    /// Number of processors.
    pub processors: u32,
    /// Memory, in MiB.
    pub memory: u64,
    /// The kernel's image, in the cache.
    pub vmlinuz: PathBuf,
    /// The initrd, in the cache.
    pub initrd: PathBuf,
    /// Serial number and image of each read-only disk, in the cache.
    pub disks: Vec<(String, PathBuf)>,
    /// Directories of the host.
    pub shares: Vec<Arc<Share>>,
    /// Its zcnic ports.
    pub ports: Vec<Port>,
    /// Words added to the kernel's command line.
    pub kernel_arguments: Vec<String>,
    /// The user's words, which come last: of a parameter that is given twice the kernel takes the
    /// last one.
    pub user_words: Vec<String>,
    /// QEMU's arguments after all others.
    pub qemu_arguments: Vec<String>,
    /// A debugger of its kernel.
    pub debugger: Option<Debugger>,
    /// What is done about its console.
    pub watching: Watching,
}

impl Machine {
    /// Returns QEMU's arguments. QEMU's working directory must be the cache's root.
    ///
    /// # Errors
    ///
    /// If a file is not in the cache.
    pub fn arguments(&self, places: Places<'_>, cache: &Cache) -> Result<Vec<OsString>> {
        let mut arguments = Arguments::default();
        self.basics(&mut arguments, cache)?;
        self.channels(&mut arguments, places);
        for (index, share) in self.shares.iter().enumerate() {
            arguments.0.extend(share.arguments(index));
        }
        for port in &self.ports {
            arguments.0.extend(port.arguments(places.backend));
        }
        if let Some(debugger) = self.debugger {
            let path = places.own.join(GDB_SOCKET);
            arguments.add("-chardev", socket("gdb", &path, Side::Listen));
            arguments.add("-gdb", "chardev:gdb");
            let wait = (debugger == Debugger::Wait).then(|| "-S".to_owned());
            arguments.0.extend(wait);
        }
        arguments.0.extend(self.qemu_arguments.iter().cloned());
        Ok(arguments.0.into_iter().map(OsString::from).collect())
    }

    /// The machine itself, its kernel and disks.
    fn basics(&self, arguments: &mut Arguments, cache: &Cache) -> Result<()> {
        let inside = |path: &Path| -> Result<String> {
            let relative = path.strip_prefix(cache.root()).with_context(|| {
                format!(
                    "{} is not in the cache, where QEMU could read it",
                    path.display()
                )
            })?;
            Ok(relative.display().to_string())
        };
        let (accelerator, processor) = match self.acceleration {
            Acceleration::Kvm { .. } => ("kvm", "host"),
            Acceleration::Tcg => ("tcg,thread=multi", "max"),
        };
        let memory = self.memory;
        arguments.0 = ["-nodefaults", "-no-user-config", "-no-reboot"]
            .map(str::to_owned)
            .to_vec();
        arguments.add("-display", "none");
        // A guest that takes over its QEMU starts no program and gains no rights.
        arguments.add("-sandbox", SANDBOX);
        arguments.add("-machine", "q35,memory-backend=memory");
        arguments.add(
            "-object",
            format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
        );
        arguments.add("-m", format!("{memory}M"));
        arguments.add("-accel", accelerator);
        arguments.add("-cpu", processor);
        arguments.add("-smp", self.processors.to_string());
        arguments.add("-kernel", inside(&self.vmlinuz)?);
        arguments.add("-initrd", inside(&self.initrd)?);
        arguments.add("-append", self.command_line());
        for (index, (serial, image)) in self.disks.iter().enumerate() {
            let image = inside(image)?;
            arguments.add(
                "-drive",
                format!("if=none,id=disk{index},file={image},format=raw,readonly=on"),
            );
            arguments.add(
                "-device",
                format!("virtio-blk-pci,drive=disk{index},serial={serial}"),
            );
        }
        Ok(())
    }

    /// The kernel's command line.
    fn command_line(&self) -> String {
        let mut words = vec![
            "console=ttyS0",
            // A guest that panics reboots at once, and QEMU ends with it (-no-reboot).
            "panic=-1",
            // All processors of a guest have one clock. Besides, one boot of Linux 7.3 in some
            // seventy hangs with the watchdog: it waits, interrupts off, for a processor that
            // stop_machine() holds until the first one leaves, and its time limit counts jiffies,
            // which do not advance meanwhile.
            "tsc=nowatchdog",
            // The kernel panics if ten timer interrupts do not come within some tens of
            // milliseconds, which an emulated timer on a busy host misses.
            "no_timer_check",
            // DMA_API_DEBUG checks our ports only: udmabuf maps its own buffers in segments longer
            // than its device allows.
            "dma_debug_driver=virtio-pci",
        ];
        // A debugger takes addresses from vmlinux.
        words.extend(self.debugger.map(|_| "nokaslr"));
        let more = self.kernel_arguments.iter().chain(&self.user_words);
        words.extend(more.map(String::as_str));
        words.join(" ")
    }

    /// Console, monitor, agent and control socket.
    fn channels(&self, arguments: &mut Arguments, places: Places<'_>) {
        let own = |name: &str| {
            let side = match places.runner {
                Runner::Testbed => Side::Connect,
                Runner::Terminal | Runner::Background => Side::Listen,
            };
            socket(name, &places.own.join(format!("{name}.sock")), side)
        };
        let console = if places.runner == Runner::Terminal {
            "stdio,id=console".to_owned()
        } else {
            let path = places.own.join("console.log");
            format!("file,id=console,path={}", path.display())
        };
        arguments.add("-chardev", console);
        arguments.add("-serial", "chardev:console");
        arguments.add("-chardev", own("qmp"));
        arguments.add("-mon", "chardev=qmp,mode=control");
        arguments.add("-chardev", own("agent"));
        arguments.add("-device", "virtio-serial-pci,id=serial,max_ports=3");
        arguments.add(
            "-device",
            "virtserialport,bus=serial.0,nr=1,chardev=agent,name=org.zcnic.agent",
        );
        if !self.ports.is_empty() {
            // QEMU reconnects to a backend that was killed and started again.
            let path = places.backend.join(control::SOCKET);
            let path = path.display();
            arguments.add(
                "-chardev",
                format!("socket,id=control,path={path},reconnect-ms=500"),
            );
            arguments.add(
                "-device",
                "virtserialport,bus=serial.0,nr=2,chardev=control,name=zcnic.control",
            );
        }
    }
}

/// The side of a Unix socket that QEMU is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Connect,
    Listen,
}

/// A character device of QEMU on a Unix socket.
fn socket(id: &str, path: &Path, side: Side) -> String {
    let side = match side {
        Side::Connect => "",
        Side::Listen => ",server=on,wait=off",
    };
    format!("socket,id={id},path={}{side}", path.display())
}

/// Arguments that are collected.
#[derive(Debug, Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, option: &str, value: impl Into<String>) {
        self.0.extend([option.to_owned(), value.into()]);
    }
}

/// Returns words as one shell command.
pub fn shell_line<W: AsRef<OsStr>>(words: impl IntoIterator<Item = W>) -> String {
    let quoted = words
        .into_iter()
        .map(|word| quote(&word.as_ref().to_string_lossy()));
    quoted.collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    if !word.is_empty() && word.chars().all(harmless) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_the_words_as_they_were() {
        let words = ["-append", "a=1 b=\"2\"", "it's", "", "$HOME"];
        let line = format!("printf '%s\n' {}", shell_line(words));
        let output = std::process::Command::new("sh")
            .args(["-c", &line])
            .output()
            .unwrap();
        let printed = String::from_utf8(output.stdout).unwrap();
        assert_eq!(printed.lines().collect::<Vec<_>>(), words);
    }

    #[test]
    fn a_port_has_the_usual_address() {
        assert_eq!(Mac::of(0).to_string(), "5a:43:4e:00:00:01");
        assert_eq!(Mac::of(15).to_string(), "5a:43:4e:00:00:10");
    }
}
