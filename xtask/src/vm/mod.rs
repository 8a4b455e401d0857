//! `cargo xtask vm`: a guest to work in.

use std::{io::IsTerminal, path::PathBuf, process::ExitCode, str::FromStr, sync::Arc};

use anyhow::{Context, Result, bail};
use serde_json::json;
use zcnic_results::report::ReportArg;
use zcnic_testbed::{
    agent::Agent,
    guest::Guest,
    lab::LabArgs,
    paths,
    provision::linux::kernel::Kernel,
    sandbox,
    setup::{GuestArgs, Setup},
    share::Share,
    step::since_call,
};

use self::files::{Get, Put};

mod attach;
mod banner;
mod files;
mod session;

/// Boot a guest with two ports, for a shell or for one command
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(flatten)]
    guest: GuestArgs,
    #[command(flatten)]
    lab: LabArgs,
    #[command(flatten)]
    files: FileArgs,
    /// Open a shell, or run the command, in a guest that runs already: NAME, or the one that was
    /// started last
    #[arg(
        long,
        value_name = "NAME",
        num_args = 0..=1,
        default_missing_value = "",
        conflicts_with_all = [
            "kernel", "MachineArgs", "PackageArgs", "share", "report", "ports", "queues", "mtu",
            "wire", "cable", "switch", "guests", "topology", "gdb", "console",
        ]
    )]
    attach: Option<String>,
    #[command(flatten)]
    report: ReportArg,
    /// Run this in the guest, pass on its input, output and exit status, and power off
    #[arg(last = true)]
    command: Vec<String>,
}

/// Files and directories of the host.
#[derive(clap::Args, Debug)]
struct FileArgs {
    /// Copy a file or directory into the guest first, to /root or GUEST. May be repeated
    #[arg(long, value_name = "HOST[:GUEST]")]
    put: Vec<Put>,
    /// Copy a file or directory out of the guest at the end, also if the command fails, to the current
    /// directory or HOST. May be repeated
    #[arg(long, value_name = "GUEST[:HOST]")]
    get: Vec<Get>,
    /// Mount a directory of the host at /mnt/NAME, its last component; the guest may write with `:rw`.
    /// May be repeated
    #[arg(long, value_name = "DIR[:rw]")]
    share: Vec<ShareArg>,
}

/// The value of `--share`.
#[derive(Clone, Debug)]
struct ShareArg {
    directory: PathBuf,
    writable: bool,
}

impl FromStr for ShareArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (directory, writable) = match text.strip_suffix(":rw") {
            Some(directory) => (directory, true),
            None => (text.strip_suffix(":ro").unwrap_or(text), false),
        };
        if !PathBuf::from(directory).is_dir() {
            return Err(format!("{directory} is no directory"));
        }
        let directory = PathBuf::from(directory);
        Ok(Self {
            directory,
            writable,
        })
    }
}

impl FileArgs {
    /// Opens the directories to share.
    fn shares(&self) -> Result<Vec<Arc<Share>>> {
        let mut shares: Vec<Arc<Share>> = Vec::new();
        for arg in &self.share {
            let share = Share::open(&arg.directory, arg.writable).context("--share")?;
            if shares.iter().any(|other| other.name() == share.name()) {
                bail!("--share: two directories would be at /mnt/{}", share.name());
            }
            shares.push(Arc::new(share));
        }
        Ok(shares)
    }

    fn put(&self, agent: &Agent) -> Result<()> {
        self.put.iter().try_for_each(|put| put.run(agent))
    }

    /// Copies all that can be copied; returns whether that is all.
    fn get(&self, agent: &Agent) -> bool {
        let mut complete = true;
        for get in &self.get {
            if let Err(error) = get.run(agent) {
                eprintln!("error: {error:#}");
                complete = false;
            }
        }
        complete
    }
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    if let Some(name) = &args.attach {
        let name = Some(name.as_str()).filter(|name| !name.is_empty());
        let agent = attach::connect(name)?;
        return work(&agent, args, || ()).map(ExitCode::from);
    }
    sandbox::clean_up_on_signals()?;
    let topology = args.lab.topology()?;
    let shares = args.files.shares()?;
    let setup = Setup::new(&args.guest)?;
    if !shares.is_empty() {
        require_9p(&setup.kernel)?;
    }
    let mut machine = setup.machine();
    machine.shares = shares;
    if args.lab.only_print() {
        print!("{}", args.lab.script(&setup, &machine, &topology)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut lab = args.lab.boot(&setup, &machine, &topology)?;
    let first_output = since_call()?;
    lab.bring_up(&setup, &topology)?;
    let mut names = Vec::new();
    lab.try_for_each(|name, guest| {
        for (index, share) in machine.shares.iter().enumerate() {
            let mounted = guest.check(&share.mount(index));
            mounted.with_context(|| format!("--share: mount /mnt/{}", share.name()))?;
        }
        names.push((name.to_owned(), attach::offer(guest)?));
        Ok(())
    })?;
    let guest = lab.first()?;
    if args.lab.expects_answers() {
        guest.expect_answers()?;
    }
    let agent = guest.agent().clone();
    let work = work(&agent, args, || {
        announce(guest, args, &machine.shares, &names);
    });
    let code = work.map_err(|error| guest.explain(&error))?;
    let report = json!({
        "status": code,
        "kernel": guest.kernel,
        "qemu": setup.qemu.version,
        "acceleration": setup.acceleration.name(),
        "boot_seconds": guest.boot.as_secs_f64(),
        "first_output_seconds": first_output.as_secs_f64(),
    });
    for report in lab.power_off()? {
        eprintln!("{report}");
    }
    args.report.write(&report)?;
    Ok(ExitCode::from(code))
}

/// Fails if the kernel is known to lack what mounts a share.
fn require_9p(kernel: &Kernel) -> Result<()> {
    let Some(config) = &kernel.config else {
        return Ok(());
    };
    for option in ["CONFIG_9P_FS", "CONFIG_NET_9P_VIRTIO"] {
        let set =
            |line: &str| [format!("{option}=y"), format!("{option}=m")].contains(&line.into());
        if !config.lines().any(set) {
            bail!(
                "--share: Linux {} is built without {option}",
                kernel.release
            );
        }
    }
    Ok(())
}

/// Copies files in, runs the command or a shell, and copies files out. Returns the exit status: the
/// command's, or 1 if only the copying out failed.
fn work(agent: &Agent, args: &Args, before: impl FnOnce()) -> Result<u8> {
    args.files.put(agent)?;
    before();
    let status = session::run(agent, &args.command, args.lab.timeout());
    let complete = args.files.get(agent);
    let code = status?.code();
    Ok(if code == 0 && !complete { 1 } else { code })
}

/// Tells a user at a terminal how to use the guests, of which the first one has the command.
fn announce(guest: &Guest, args: &Args, shares: &[Arc<Share>], names: &[(String, String)]) {
    let terminal = std::io::stderr().is_terminal();
    let mut others = names;
    if let [(_, own), rest @ ..] = names
        && args.command.is_empty()
        && session::is_interactive(&args.command)
    {
        eprint!("{}", banner::text(shares, own));
        others = rest;
    }
    if !terminal {
        return;
    }
    for (guest, name) in others {
        let attach = paths::invocation(&format!("vm --attach {name}"));
        eprintln!("         a shell in guest {guest}: {attach}");
    }
    if let Ok(control) = guest.control() {
        eprintln!(
            "         its backend: zcnicctl --socket {} status",
            control.socket.display()
        );
    }
}

#[cfg(test)]
mod tests {
    use clap::{Parser, error::ErrorKind};

    use super::Args;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        _args: Args,
    }

    #[test]
    fn the_machine_of_a_guest_that_runs_cannot_be_chosen() {
        for option in [
            "--kernel=/bin/sh",
            "--qemu=/bin/sh",
            "--cpus=2",
            "--memory=1G",
            "--append=quiet",
            "--qemu-arg=-S",
            "--tools",
            "--packages=gdb",
            "--ports=4",
            "--queues=2",
            "--mtu=9000",
            "--wire=pause",
            "--cable=0:1",
            "--switch=0,1",
            "--guests=2",
            "--gdb",
            "--console",
            "--print-qemu",
        ] {
            let error = Cli::try_parse_from(["vm", "--attach=name", option]).unwrap_err();
            assert_eq!(
                error.kind(),
                ErrorKind::ArgumentConflict,
                "{option}: {error}"
            );
        }
        Cli::try_parse_from(["vm", "--attach=name", "--timeout=5", "--", "true"]).unwrap();
    }
}
