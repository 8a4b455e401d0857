//! Guests of a topology that share one backend, and the options of `vm` for them.

use std::{env, path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};

use crate::{
    agent::{Exec, Process},
    backend::{Backend, Cable},
    control,
    guest::Guest,
    machine::{Debugger, GDB_SOCKET, Machine, Places, Runner, shell_line},
    sandbox::Sandbox,
    setup::Setup,
    step::step,
    topology::{MOST_GUESTS, MOST_PORTS, MOST_QUEUES, MTU, Shape, Topology},
};

/// The options of `vm` for ports, guests, the debugger and the console.
#[derive(clap::Args, Clone, Debug, Default)]
pub struct LabArgs {
    /// Ports of each guest [default: 2, or 1 with --guests]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_PORTS)))]
    ports: Option<u8>,
    /// Data queue pairs of each port; the last number is for all further ports [default: 16,4]
    #[arg(long, value_name = "NUMBER[,NUMBER…]", value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..=i64::from(MOST_QUEUES)))]
    queues: Vec<u16>,
    /// MTU of every port [default: 1500]
    #[arg(long, value_name = "BYTES",
        value_parser = clap::value_parser!(u32).range(i64::from(*MTU.start())..=i64::from(*MTU.end())))]
    mtu: Option<u32>,
    /// Flow control of the cables (drop or pause), or a wire of `zcnic --wire` for one port; may be
    /// repeated
    #[arg(long, value_name = "drop|pause|PORT=WIRE")]
    wire: Vec<WireArg>,
    /// A cable, as `zcnic --cable` takes it; may be repeated. Without --cable, --wire PORT= and
    /// --switch, ports are cabled in pairs: 0:1, 2:3, …
    #[arg(long, value_name = "A:B[,…]")]
    cable: Vec<String>,
    /// A switch, as `zcnic --switch` takes it; may be repeated
    #[arg(long, value_name = "PORT,PORT…")]
    switch: Vec<String>,
    /// Boot this many guests, a, b, …, on one backend; the command runs in the first
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u8).range(1..=i64::from(MOST_GUESTS)))]
    guests: Option<u8>,
    /// Guests, ports and connections from a file (docs/topologies.md)
    #[arg(long, value_name = "FILE", value_parser = Topology::read,
        conflicts_with_all = ["ports", "queues", "mtu", "wire", "cable", "switch", "guests"])]
    topology: Option<Topology>,
    /// Let gdb connect to the guest's kernel; `wait`: before its first instruction
    #[arg(long, value_name = "wait", num_args = 0..=1, require_equals = true, default_missing_value = "any")]
    gdb: Option<Debugger>,
    /// Kill the command after SECONDS, and end the guest
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..))]
    timeout: Option<u64>,
    /// Show the kernel's console on standard error as it comes
    #[arg(long)]
    console: bool,
    /// Print the commands that start the backend and QEMU, instead of running them
    #[arg(long, conflicts_with_all = ["put", "get", "share", "attach", "command"])]
    print_qemu: bool,
}

/// The value of `--wire`.
#[derive(Clone, Debug)]
enum WireArg {
    Cables(Cable),
    Port(String),
}

impl std::str::FromStr for WireArg {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "drop" => Ok(Self::Cables(Cable::Drop)),
            "pause" => Ok(Self::Cables(Cable::Pause)),
            _ if text.contains('=') => Ok(Self::Port(text.to_owned())),
            _ => Err("drop, pause or PORT=WIRE is wanted"),
        }
    }
}

impl LabArgs {
    /// Returns the time limit of the command in the guest.
    pub fn timeout(&self) -> Option<Duration> {
        self.timeout.map(Duration::from_secs)
    }

    /// Returns whether a guest that stops running programs is to be ended: its command has no time
    /// limit, and no debugger may have stopped it.
    pub fn expects_answers(&self) -> bool {
        self.timeout.is_none() && self.gdb.is_none()
    }

    /// Returns whether commands are only printed.
    pub fn only_print(&self) -> bool {
        self.print_qemu
    }

    /// Returns the topology.
    ///
    /// # Errors
    ///
    /// If the options contradict each other.
    pub fn topology(&self) -> Result<Topology> {
        if let Some(topology) = &self.topology {
            return Ok(topology.clone());
        }
        let shape = Shape {
            guests: self.guests.unwrap_or(1),
            ports: self.ports.unwrap_or(0),
            queues: self.queues.clone(),
            mtu: self.mtu,
        };
        let ports = self.wire.iter().filter_map(|wire| match wire {
            WireArg::Port(wire) => Some(wire),
            WireArg::Cables(_) => None,
        });
        let options = [
            ("--cable", self.cable.iter().collect()),
            ("--wire", ports.collect::<Vec<_>>()),
            ("--switch", self.switch.iter().collect()),
        ];
        let mut connections = Vec::new();
        for (option, values) in options {
            for value in values {
                connections.extend([option.to_owned(), value.clone()]);
            }
        }
        let cabled = connections.is_empty();
        let mut topology = Topology::of_shape(&shape, connections)?;
        for wire in &self.wire {
            match wire {
                WireArg::Cables(_) if !cabled => {
                    bail!("--wire drop and pause are for cables in pairs; give --cable A:B,pause");
                }
                WireArg::Cables(Cable::Pause) => {
                    let ends = topology
                        .connections
                        .iter_mut()
                        .filter(|end| end.contains(':'));
                    ends.for_each(|end| end.push_str(",pause"));
                }
                WireArg::Cables(Cable::Drop) | WireArg::Port(_) => {}
            }
        }
        Ok(topology)
    }

    /// Boots the guests of `topology`, each as `machine` but for its ports.
    ///
    /// # Errors
    ///
    /// As for [`Guest::boot`], or if `zcnic` refuses the connections.
    pub fn boot(&self, setup: &Setup, machine: &Machine, topology: &Topology) -> Result<Lab> {
        let mut machine = machine.clone();
        machine.debugger = self.gdb;
        machine.watching.live = self.console;
        machine.watching.keep_panicked = self.gdb.is_some();
        let sandbox = Sandbox::new()?;
        let directory = sandbox.directory().to_owned();
        let mut first = Some((
            Backend::start(&setup.programs, topology.wiring(), &sandbox)?,
            sandbox,
        ));
        let mut lab = Lab { guests: Vec::new() };
        for (plan, ports) in topology.guests.iter().zip(topology.ports()) {
            machine.ports = ports;
            let what = match topology.guests.len() {
                1 => setup.boot_step(),
                _ => format!("{}: {}", plan.name, setup.boot_step()),
            };
            let (backend, sandbox) = match first.take() {
                Some((backend, sandbox)) => (Some(backend), sandbox),
                None => (None, Sandbox::new()?),
            };
            if self.gdb.is_some() {
                eprintln!("         {}: {}", plan.name, debugger(setup, &sandbox));
            }
            let guest = step(&what, || {
                setup.boot_on(&machine, backend, sandbox, Some(&directory))
            })?;
            lab.guests.push((plan.name.clone(), guest));
        }
        Ok(lab)
    }

    /// Returns a script that starts the backend and the guests of `topology`, with the console of
    /// the first guest on the terminal.
    ///
    /// # Errors
    ///
    /// If a file of the guest is not in the cache.
    pub fn script(&self, setup: &Setup, machine: &Machine, topology: &Topology) -> Result<String> {
        let runtime = env::var_os("XDG_RUNTIME_DIR").map_or_else(env::temp_dir, PathBuf::from);
        let place = runtime.join("zcnic-vm");
        let root = setup.cache.root();
        let mut machine = machine.clone();
        machine.debugger = self.gdb;
        let mut directories = vec![place.clone()];
        let mut commands = Vec::new();
        for (plan, ports) in topology.guests.iter().zip(topology.ports()) {
            let own = place.join(&plan.name);
            let runner = match directories.len() {
                1 => Runner::Terminal,
                _ => Runner::Background,
            };
            let places = Places {
                own: &own,
                backend: &place,
                runner,
            };
            machine.ports = ports;
            let mut words = setup.qemu.command(root);
            words.extend(machine.arguments(places, &setup.cache)?);
            let end = if runner == Runner::Background {
                " &"
            } else {
                ""
            };
            commands.push(format!(
                "# Guest {}\n{}{end}\n",
                plan.name,
                shell_line(words)
            ));
            directories.push(own);
        }
        // The first guest has the terminal until it ends.
        commands.reverse();
        let mut zcnic = vec![setup.programs.zcnic.display().to_string()];
        zcnic.extend(topology.wiring().arguments(&place));
        Ok(format!(
            "trap 'kill $(jobs -p)' EXIT\nmkdir -p {}\ncd {}\n# The backend\n{} &\n{}",
            shell_line(directories),
            shell_line([root]),
            shell_line(zcnic),
            commands.concat()
        ))
    }
}

/// How to connect gdb.
fn debugger(setup: &Setup, sandbox: &Sandbox) -> String {
    let socket = sandbox.path(GDB_SOCKET);
    let target = format!("target remote {}", socket.display());
    let Some(symbols) = setup.symbols() else {
        return shell_line(["gdb", "-ex", &target]);
    };
    let vmlinux = symbols.vmlinux();
    let mut words = vec!["gdb".to_owned(), vmlinux.display().to_string()];
    words.extend(["-ex".to_owned(), target]);
    // Made by `make scripts_gdb`.
    if vmlinux.with_file_name("vmlinux-gdb.py").exists() {
        let tree = vmlinux.parent().unwrap_or(vmlinux);
        let scripts = format!("add-auto-load-safe-path {}", tree.display());
        words.extend([
            "-iex".to_owned(),
            scripts,
            "-ex".to_owned(),
            "lx-symbols".to_owned(),
        ]);
    }
    shell_line(words)
}

/// The running guests of a topology, by name. The first one's backend serves all.
#[derive(Debug)]
pub struct Lab {
    guests: Vec<(String, Guest)>,
}

impl Lab {
    /// Loads the driver in all guests and configures all ports. Carrier may need both ends, so all
    /// guests do it at once.
    ///
    /// # Errors
    ///
    /// If a guest fails, or a port has no carrier.
    pub fn bring_up(&mut self, setup: &Setup, topology: &Topology) -> Result<()> {
        let number: usize = topology.guests.iter().map(|guest| guest.ports.len()).sum();
        step(&format!("bring up {number} ports"), || {
            for (_, guest) in &mut self.guests {
                guest.load(setup.driver())?;
            }
            let mut running = Vec::new();
            for ((name, guest), plan) in self.guests.iter().zip(&topology.guests) {
                let plans: Vec<_> = plan.ports.iter().map(|port| &port.interface).collect();
                let plans = serde_json::to_string(&plans)?;
                let up = Exec::new(["zcnic-guest", "ports", "up", "--plan", &plans]);
                running.push((name.clone(), guest.spawn(&up)?));
            }
            for (name, process) in running {
                let ended = Process::wait(process)?;
                if !ended.status.success() {
                    bail!("guest {name}: {}", ended.stderr.trim_end());
                }
            }
            Ok(())
        })
    }

    /// Returns the first guest, in which commands run.
    ///
    /// # Errors
    ///
    /// Never: a topology has a guest.
    pub fn first(&mut self) -> Result<&mut Guest> {
        let (_, guest) = self.guests.first_mut().context("no guest")?;
        Ok(guest)
    }

    /// Runs `each` for every guest, by its name.
    pub fn try_for_each(
        &mut self,
        mut each: impl FnMut(&str, &mut Guest) -> Result<()>,
    ) -> Result<()> {
        let mut guests = self.guests.iter_mut();
        guests.try_for_each(|(name, guest)| each(name, guest))
    }

    /// Returns the names and guests.
    pub fn guests(&self) -> impl Iterator<Item = (&str, &Guest)> {
        self.guests.iter().map(|(name, guest)| (&**name, guest))
    }

    /// Returns the backend's control socket.
    ///
    /// # Errors
    ///
    /// Never: a topology has a guest, whose backend serves all.
    pub fn control_socket(&self) -> Result<PathBuf> {
        let (_, guest) = self.guests.first().context("no guest")?;
        Ok(guest.directory().join(control::SOCKET))
    }

    /// Powers all guests off, the first one last, because its backend serves all. Returns what
    /// their kernels reported.
    ///
    /// # Errors
    ///
    /// As for [`Guest::power_off`].
    pub fn power_off(mut self) -> Result<Vec<String>> {
        let mut reports = Vec::new();
        while let Some((name, guest)) = self.guests.pop() {
            let report = guest.power_off_with_report().context(name)?;
            reports.extend(report);
        }
        Ok(reports)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // The backend ends last.
        while self.guests.pop().is_some() {}
    }
}
