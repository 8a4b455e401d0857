//! Makes everything that a guest needs, and boots it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Result, bail};
use serde_json::{Map, Value};

use crate::{
    acceleration::Acceleration,
    backend::{self, Backend, Cable, Programs},
    guest::{Driver, Guest},
    machine::{Machine, Port},
    provision::{
        cache::{Cache, Entry},
        driver, host, initrd,
        linux::{
            self, Choice,
            kernel::{Headers, Kernel},
        },
        qemu::Qemu,
        rootfs::{self, PackageArgs, RootFs},
    },
    sandbox::Sandbox,
    step::step,
};

/// The options of every command that boots a guest: its kernel, QEMU and packages.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct GuestArgs {
    /// Boot this kernel (a bzImage, or the tree it was built in) instead of Debian's
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Run this QEMU (10.0 or newer, with vhost-user)
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
    /// Packages besides those of every guest.
    #[command(flatten)]
    pub packages: PackageArgs,
}

impl GuestArgs {
    fn choice(&self) -> Choice<'_> {
        self.kernel.as_deref().map_or(Choice::Newest, Choice::Own)
    }
}

/// The ports of [`Setup::machine`]: eth0 has queues to steer to, eth1 is its peer. Interrupt
/// vectors are finite, so only one of them has many.
pub const PORTS: [Port; 2] = [
    Port {
        index: 0,
        pairs: 17,
    },
    Port { index: 1, pairs: 5 },
];

/// Everything that guests are made of. Several guests can share it.
#[derive(Debug)]
pub struct Setup {
    /// The cache that holds it.
    pub cache: Cache,
    /// The emulator.
    pub qemu: Qemu,
    /// The guest's kernel.
    pub kernel: Kernel,
    /// How QEMU runs the guest's processors here.
    pub acceleration: Acceleration,
    /// The backend and its client.
    pub programs: Programs,
    args: GuestArgs,
    rootfs: Entry,
    initrd: Entry,
    driver: Driver,
}

impl Setup {
    /// Downloads and builds what the cache does not have.
    ///
    /// # Errors
    ///
    /// If a program of the host is missing and can't be installed, if a download or a build fails,
    /// or if the user's kernel or QEMU is unsuitable.
    pub fn new(args: &GuestArgs) -> Result<Self> {
        Self::make(args, args.choice(), false)
    }

    /// As [`Self::new`], with Debian's newest kernel of a series, such as 7.2.
    pub fn for_series(series: &str, qemu: Option<PathBuf>) -> Result<Self> {
        let args = GuestArgs {
            qemu,
            ..GuestArgs::default()
        };
        Self::make(&args, Choice::Series(series), false)
    }

    /// As [`Self::new`], for io_uring zero-copy receive.
    ///
    /// # Errors
    ///
    /// Also if the kernel lacks it, or zcnic.ko can't be compiled for the kernel.
    pub fn for_zero_copy(args: &GuestArgs) -> Result<Self> {
        let setup = Self::make(args, args.choice(), true)?;
        if setup.driver != Driver::Zcnic {
            bail!("zero-copy receive needs zcnic.ko: give --kernel the tree it was built in");
        }
        Ok(setup)
    }

    fn make(args: &GuestArgs, choice: Choice<'_>, zcrx: bool) -> Result<Self> {
        host::require_programs()?;
        let cache = Cache::open()?;
        let rootfs = RootFs::new(&cache, &args.packages)?;
        let acceleration = Acceleration::probe();
        let qemu = Qemu::ensure(&cache, args.qemu.as_deref(), acceleration)?;
        let kernel = linux::ensure(&cache, choice, zcrx)?;
        let rootfs = rootfs.ensure(&cache)?;
        let built = if matches!(kernel.headers, Headers::Unknown) {
            eprintln!(
                "         a kernel image alone: no zcnic.ko, and virtio_blk, ext4 and overlayfs must be \
                 built in"
            );
            None
        } else {
            Some(driver::ensure(&cache, &kernel)?)
        };
        let driver = built.as_ref().map_or(Driver::VirtioNet, |_| Driver::Zcnic);
        let modules = built.iter().map(|entry| entry.join(driver::MODULE));
        let modules: Vec<_> = modules.collect();
        let initrd = initrd::ensure(&cache, &kernel, &modules)?;
        let programs = backend::build()?;
        Ok(Self {
            cache,
            qemu,
            kernel,
            acceleration,
            programs,
            args: args.clone(),
            rootfs,
            initrd,
            driver,
        })
    }

    /// Returns the command-line options that this setup was made with.
    pub fn arguments(&self) -> Vec<OsString> {
        let GuestArgs {
            kernel,
            qemu,
            packages,
        } = &self.args;
        let packages = packages.arguments().into_iter().map(OsString::from);
        [("--kernel", kernel), ("--qemu", qemu)]
            .into_iter()
            .filter_map(|(option, value)| Some([option.into(), value.clone()?.into()]))
            .flatten()
            .chain(packages)
            .collect()
    }

    /// Returns the kernel, QEMU and acceleration, for reports.
    pub fn facts(&self) -> Map<String, Value> {
        let facts = [
            ("kernel", &*self.kernel.release),
            ("qemu", &*self.qemu.version),
            ("acceleration", self.acceleration.name()),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value.into()));
        Map::from_iter(facts)
    }

    /// Returns zcnic.ko's kind if it could be compiled for the kernel, and virtio_net otherwise.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// Returns a machine with four processors, the root and module disks, and [`PORTS`].
    pub fn machine(&self) -> Machine {
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
            shares: Vec::new(),
            ports: PORTS.to_vec(),
            kernel_arguments: Vec::new(),
        }
    }

    /// Starts a backend and boots `machine` on it, with a progress line.
    ///
    /// # Errors
    ///
    /// As for [`Guest::boot`].
    pub fn boot(&self, machine: &Machine, cable: Cable) -> Result<Guest> {
        let (kernel, qemu) = (&self.kernel.release, &self.qemu.version);
        let what = format!(
            "boot Linux {kernel} in QEMU {qemu}, {}",
            self.acceleration.name()
        );
        step(&what, || self.boot_quietly(machine, cable))
    }

    /// As [`Self::boot`], without a progress line.
    pub fn boot_quietly(&self, machine: &Machine, cable: Cable) -> Result<Guest> {
        let sandbox = Sandbox::new()?;
        let backend = match &machine.ports[..] {
            [] => None,
            ports => Some(Backend::start(&self.programs, ports, cable, &sandbox)?),
        };
        Guest::boot(&self.qemu, machine, backend, sandbox, &self.cache)
    }
}
