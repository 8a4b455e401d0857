//! Everything that a guest needs, made ready.

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
        rootfs,
    },
    sandbox::Sandbox,
    step::step,
};

/// The options of every command that boots a guest.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct GuestArgs {
    /// Boot this kernel (a bzImage, or a tree in which one was built) instead of Debian's
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Run this QEMU (10.0 or newer, with vhost-user)
    #[arg(long, value_name = "PATH")]
    pub qemu: Option<PathBuf>,
}

impl GuestArgs {
    fn choice(&self) -> Choice<'_> {
        self.kernel.as_deref().map_or(Choice::Newest, Choice::Own)
    }
}

/// The usual two: eth0 has queues to steer to, eth1 is there to talk to it. Interrupt vectors are
/// finite, so not both get many.
pub const PORTS: [Port; 2] = [
    Port {
        index: 0,
        pairs: 17,
    },
    Port { index: 1, pairs: 5 },
];

/// What guests are made of; all of them may share it.
#[derive(Debug)]
pub struct Setup {
    pub cache: Cache,
    pub qemu: Qemu,
    pub kernel: Kernel,
    pub acceleration: Acceleration,
    pub programs: Programs,
    args: GuestArgs,
    rootfs: Entry,
    initrd: Entry,
    driver: Driver,
}

impl Setup {
    /// Brings everything about, downloading and building what isn't there.
    pub fn new(args: &GuestArgs) -> Result<Self> {
        Self::make(args, args.choice(), false)
    }

    /// The same with Debian's newest kernel of a series, such as 7.2.
    pub fn for_series(series: &str, qemu: Option<PathBuf>) -> Result<Self> {
        let args = GuestArgs { kernel: None, qemu };
        Self::make(&args, Choice::Series(series), false)
    }

    /// The same for io_uring zero-copy receive: refuses a kernel without it.
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
        let acceleration = Acceleration::probe();
        let qemu = Qemu::ensure(&cache, args.qemu.as_deref(), acceleration)?;
        let kernel = linux::ensure(&cache, choice, zcrx)?;
        let rootfs = rootfs::ensure(&cache)?;
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

    /// The options that this was made by.
    pub fn arguments(&self) -> Vec<OsString> {
        let GuestArgs { kernel, qemu } = &self.args;
        [("--kernel", kernel), ("--qemu", qemu)]
            .into_iter()
            .filter_map(|(option, value)| Some([option.into(), value.clone()?.into()]))
            .flatten()
            .collect()
    }

    /// What a report should say of it.
    pub fn facts(&self) -> Map<String, Value> {
        let facts = [
            ("kernel", &*self.kernel.release),
            ("qemu", &*self.qemu.version),
            ("acceleration", self.acceleration.name()),
        ];
        let facts = facts.map(|(name, value)| (name.to_owned(), value.into()));
        Map::from_iter(facts)
    }

    /// The best driver that there is for the kernel.
    pub fn driver(&self) -> Driver {
        self.driver
    }

    /// The usual machine.
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
            ports: PORTS.to_vec(),
            kernel_arguments: Vec::new(),
        }
    }

    /// Starts a backend and boots `machine` on it, as a step of its own.
    pub fn boot(&self, machine: &Machine, cable: Cable) -> Result<Guest> {
        let (kernel, qemu) = (&self.kernel.release, &self.qemu.version);
        let what = format!(
            "boot Linux {kernel} in QEMU {qemu}, {}",
            self.acceleration.name()
        );
        step(&what, || self.boot_quietly(machine, cable))
    }

    /// As [`Self::boot`], without a word.
    pub fn boot_quietly(&self, machine: &Machine, cable: Cable) -> Result<Guest> {
        let sandbox = Sandbox::new()?;
        let backend = match &machine.ports[..] {
            [] => None,
            ports => Some(Backend::start(&self.programs, ports, cable, &sandbox)?),
        };
        Guest::boot(&self.qemu, machine, backend, sandbox, &self.cache)
    }
}
