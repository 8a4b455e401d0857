//! Makes everything that a guest needs, and boots it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::{
    acceleration::Acceleration,
    backend::{self, Backend, Cable, Programs, Wiring},
    diagnosis::Artifacts,
    guest::{Driver, Guest, HostFault, Ports},
    machine::{Mac, Machine, Port},
    options::MachineArgs,
    progress,
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
    symbols::Symbols,
    watch::Watching,
};

/// The options of every command that boots a guest: its kernel, packages and machine.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct GuestArgs {
    /// Boot this kernel (a bzImage, or the tree it was built in) instead of Debian's
    #[arg(long, value_name = "PATH")]
    pub kernel: Option<PathBuf>,
    /// Packages besides those of every guest.
    #[command(flatten)]
    pub packages: PackageArgs,
    /// The machine.
    #[command(flatten)]
    pub machine: MachineArgs,
}

impl GuestArgs {
    fn choice(&self) -> Choice<'_> {
        self.kernel.as_deref().map_or(Choice::Newest, Choice::Own)
    }

    /// Checks the user's kernel and QEMU. Commands that do other work before they make a [`Setup`]
    /// call it first.
    ///
    /// # Errors
    ///
    /// If one of them is not there or unsuitable.
    pub fn check(&self) -> Result<()> {
        self.check_for(self.choice(), false)
    }

    fn check_for(&self, choice: Choice<'_>, zcrx: bool) -> Result<()> {
        if let Some(path) = &self.machine.qemu {
            Qemu::chosen(path)?;
        }
        linux::check(choice, zcrx)
    }

    /// Returns the kinds of cache entries that guests with these options are made of.
    fn kinds(&self) -> Vec<&'static str> {
        let mut kinds = vec!["buildroot", "rootfs"];
        kinds.extend(self.kernel.is_none().then_some("kernel"));
        kinds.extend(self.machine.qemu.is_none().then_some("qemu"));
        kinds
    }
}

/// The ports of [`Setup::machine`]: eth0 has queues to steer to, eth1 is its peer. Interrupt
/// vectors are finite, so only one of them has many.
pub const PORTS: [Port; 2] = [
    Port {
        index: 0,
        pairs: 17,
        mac: Mac::of(0),
    },
    Port {
        index: 1,
        pairs: 5,
        mac: Mac::of(1),
    },
];

/// Processors of a guest.
const PROCESSORS: u32 = 4;
/// Memory of a guest, in MiB.
const MEMORY: u64 = 2048;

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
    symbols: Option<Symbols>,
    artifacts: Artifacts,
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

    /// As [`Self::new`], with Debian's newest kernel of a series such as 7.2, or a release such as 7.2.6.
    pub fn for_series(series: &str, machine: &MachineArgs) -> Result<Self> {
        let args = GuestArgs {
            machine: machine.clone(),
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
        args.check_for(choice, zcrx)?;
        host::require_programs()?;
        let cache = Cache::open()?;
        cache.require_space(&args.kinds())?;
        let rootfs = RootFs::new(&cache, &args.packages)?;
        let acceleration = Acceleration::probe();
        let qemu = Qemu::ensure(&cache, args.machine.qemu.as_deref(), acceleration)?;
        let kernel = linux::ensure(&cache, choice, zcrx)?;
        let rootfs = rootfs.ensure(&cache)?;
        let built = if matches!(kernel.headers, Headers::Unknown) {
            progress::note(
                "a kernel image alone: no zcnic.ko, and virtio_blk, ext4 and overlayfs must be built in",
            );
            None
        } else {
            Some(driver::ensure(&cache, &kernel)?)
        };
        let driver = built.as_ref().map_or(Driver::VirtioNet, |_| Driver::Zcnic);
        let modules = built.iter().map(|entry| entry.join(driver::MODULE));
        let modules: Vec<_> = modules.collect();
        let symbols = Symbols::of(&kernel, modules.first().cloned());
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
            symbols,
            artifacts: Artifacts::new(args.machine.artifacts.clone()),
        })
    }

    /// Returns the command-line options that this setup was made with.
    pub fn arguments(&self) -> Vec<OsString> {
        let GuestArgs {
            kernel,
            packages,
            machine,
        } = &self.args;
        let kernel = kernel.iter();
        kernel
            .flat_map(|kernel| ["--kernel".into(), kernel.into()])
            .chain(packages.arguments().into_iter().map(OsString::from))
            .chain(machine.words().into_iter().map(OsString::from))
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

    /// Returns the source of the kernel's lines, if its tree is known.
    pub fn symbols(&self) -> Option<&Symbols> {
        self.symbols.as_ref()
    }

    /// Returns a machine with the root and module disks and [`PORTS`], and otherwise as the options
    /// ask for.
    pub fn machine(&self) -> Machine {
        let disk = |serial: &str, image: &Path| (serial.to_owned(), image.to_owned());
        let mut machine = Machine {
            acceleration: self.acceleration,
            processors: PROCESSORS,
            memory: MEMORY,
            vmlinuz: self.kernel.vmlinuz.clone(),
            initrd: initrd::image(&self.initrd),
            disks: vec![
                disk("root", &rootfs::image(&self.rootfs)),
                disk("modules", &self.kernel.modules_image),
            ],
            shares: Vec::new(),
            ports: PORTS.to_vec(),
            kernel_arguments: Vec::new(),
            user_words: Vec::new(),
            qemu_arguments: Vec::new(),
            debugger: None,
            watching: Watching::default(),
        };
        self.args.machine.apply(&mut machine);
        machine
    }

    /// Starts a backend and boots `machine` on it, with a progress line.
    ///
    /// # Errors
    ///
    /// As for [`Guest::boot`].
    pub fn boot(&self, machine: &Machine, cable: Cable) -> Result<Guest> {
        step(&self.boot_step(), || {
            let sandbox = Sandbox::new().context(HostFault)?;
            let wiring = Wiring::cabled(&machine.ports, cable);
            let backend = match machine.ports[..] {
                [] => None,
                _ => Some(Backend::start(&self.programs, wiring, &sandbox).context(HostFault)?),
            };
            self.boot_on(machine, backend, sandbox, None)
        })
    }

    /// Returns the progress line of a boot.
    pub fn boot_step(&self) -> String {
        let (kernel, qemu) = (&self.kernel.release, &self.qemu.version);
        let acceleration = self.acceleration.name();
        format!("boot Linux {kernel} in QEMU {qemu}, {acceleration}")
    }

    /// Boots `machine` in `sandbox`, without a progress line. `backend` was started in the same
    /// sandbox; without one the machine's ports are served in the directory `elsewhere`.
    pub fn boot_on(
        &self,
        machine: &Machine,
        backend: Option<Backend>,
        sandbox: Sandbox,
        elsewhere: Option<&Path>,
    ) -> Result<Guest> {
        let diagnosis = self.artifacts.next(self.symbols.clone());
        let directory = sandbox.directory().to_owned();
        let ports = Ports {
            backend,
            directory: elsewhere.unwrap_or(&directory),
        };
        Guest::boot(&self.qemu, machine, ports, sandbox, &self.cache, diagnosis)
    }
}
