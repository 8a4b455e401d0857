//! Everything that a guest needs, made ready.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::{
    cache::{Cache, Entry},
    guest::Guest,
    host, initrd,
    kernel::Kernel,
    machine::{Acceleration, Machine},
    qemu::Qemu,
    rootfs,
    sandbox::Sandbox,
};

/// The options of every command that boots a guest.
#[derive(clap::Args, Clone, Debug, Default)]
pub(crate) struct GuestArgs {
    /// Boot this kernel (a bzImage, or a tree in which one was built) instead of Debian's
    #[arg(long, value_name = "PATH")]
    pub(crate) kernel: Option<PathBuf>,
    /// Run this QEMU (10.0 or newer, with vhost-user)
    #[arg(long, value_name = "PATH")]
    pub(crate) qemu: Option<PathBuf>,
}

/// What guests are made of; all of them may share it.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) cache: Cache,
    pub(crate) qemu: Qemu,
    pub(crate) kernel: Kernel,
    pub(crate) acceleration: Acceleration,
    rootfs: Entry,
    initrd: Entry,
}

impl Setup {
    /// Brings everything about, downloading and building what isn't there.
    pub(crate) fn new(args: &GuestArgs) -> Result<Self> {
        host::require_programs()?;
        let cache = Cache::open()?;
        let qemu = Qemu::ensure(&cache, args.qemu.as_deref())?;
        let kernel = Kernel::ensure(&cache, args.kernel.as_deref())?;
        let rootfs = rootfs::ensure(&cache)?;
        let initrd = initrd::ensure(&cache, &kernel, &[])?;
        let acceleration = Acceleration::probe();
        Ok(Self {
            cache,
            qemu,
            kernel,
            acceleration,
            rootfs,
            initrd,
        })
    }

    /// The usual machine, without ports.
    pub(crate) fn machine(&self) -> Machine {
        let disk = |serial: &str, image: &Path| (serial.to_owned(), image.to_owned());
        Machine {
            acceleration: self.acceleration,
            processors: 4,
            vmlinuz: self.kernel.vmlinuz.clone(),
            initrd: initrd::image(&self.initrd),
            disks: vec![
                disk("root", &rootfs::image(&self.rootfs)),
                disk("modules", &self.kernel.modules_image),
            ],
            ports: Vec::new(),
            kernel_arguments: Vec::new(),
        }
    }

    /// Boots `machine`.
    pub(crate) fn boot(&self, machine: &Machine) -> Result<Guest> {
        eprintln!(
            "         boot Linux {} in QEMU {}, {}",
            self.kernel.release,
            self.qemu.version,
            self.acceleration.name()
        );
        Guest::boot(&self.qemu, machine, Sandbox::new()?, &self.cache)
    }
}
