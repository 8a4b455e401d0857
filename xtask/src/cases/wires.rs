//! Wires to the world: two guests with a backend each.
//!
//! The first guest's eth0 leads to passt, and the second guest's to a tap in a network namespace. Two
//! streams are between them: eth1 to eth1, and eth2 to eth2 by way of QEMU, which relays frames
//! between two of its `-netdev stream`. No address is reached but those of the loopback interface and
//! of the namespace.

use std::{
    fs::{self, File, Permissions},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener},
    os::{fd::AsFd, unix::fs::PermissionsExt},
    path::Path,
    process::{self, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use rustix::{process::geteuid, thread::move_into_link_name_space};
use tempfile::TempDir;
use zcnic_testbed::{
    agent::Exec,
    guest::{Driver, Guest},
    machine::{Mac, Machine, Port},
    process::Running,
    provision::{
        buildroot::{Bind, BuildRoot, Recipe, WORK},
        host,
    },
    sandbox::Sandbox,
    setup::Setup,
    step::step,
};

use super::test::{Run::Host, Test};

pub(super) const TESTS: &[Test] = &[Test {
    name: "wires: two guests over a stream, one to the host's loopback by passt, one by a tap",
    run: Host(reach),
}];

/// Bytes that each connection carries in each direction.
const BYTES: usize = 4 << 20;

/// For programs to start, and for one transfer.
const PATIENCE: Duration = Duration::from_secs(60);

/// The guest's addresses for the host's loopback interface and for itself on passt's side
/// (RFC 5737).
const LOOPBACK: &str = "198.51.100.1";
const GUEST: &str = "198.51.100.2";

/// The name of the tap.
const TAP: &str = "zctest0";

fn reach(setup: &Setup) -> Result<()> {
    let shared = tempfile::tempdir()?;
    fs::set_permissions(shared.path(), Permissions::from_mode(0o777))?;
    let _passt = start_passt(setup, &shared)?;
    let namespace = geteuid().is_root().then(Namespace::new).transpose()?;
    let path = |name: &str| shared.path().join(name).display().to_string();
    let first = [
        format!("stream,connect=unix:{},pause", path("passt.sock")),
        format!("stream,listen=unix:{},pause", path("direct.sock")),
        format!("stream,listen=unix:{}", path("relay-a.sock")),
    ];
    let second = [
        match &namespace {
            Some(_) => format!("tap,ifname={TAP},queues=2"),
            None => "null".to_owned(),
        },
        format!("stream,connect=unix:{},pause", path("direct.sock")),
        format!("stream,listen=unix:{}", path("relay-b.sock")),
    ];
    let (mut a, mut b, _relay) = step("boot two guests", || {
        let mut a = Wired::boot(setup, &first, None)?;
        let mut b = Wired::boot(setup, &second, namespace.as_ref())?;
        a.addresses([GUEST, "203.0.113.1", "10.0.0.1"])?;
        b.addresses(["192.0.2.2", "203.0.113.2", "10.0.0.2"])?;
        let relay = start_relay(setup, &["relay-a.sock", "relay-b.sock"].map(path))?;
        Ok((a, b, relay))
    })?;

    let server = EchoServer::start(None, (Ipv4Addr::LOCALHOST, 0).into())?;
    a.echo(LOOPBACK, server.port).with_context(|| {
        let log = fs::read_to_string(shared.path().join("passt.log"));
        format!(
            "to the host by passt, which logged\n{}",
            log.unwrap_or_default()
        )
    })?;
    server.finish()?;

    for address in ["203.0.113.2", "10.0.0.2"] {
        let echo = format!(
            "socat TCP-LISTEN:5000,reuseaddr SYSTEM:'head -c {BYTES} >/run/in; cat /run/in'"
        );
        let echo = b.guest.spawn(&Exec::shell(&echo).timeout(PATIENCE))?;
        a.echo(address, 5000)
            .with_context(|| format!("to the other guest at {address}"))?;
        echo.wait()?;
    }

    if let Some(namespace) = &namespace {
        namespace.ip(&format!("link set {TAP} up"))?;
        namespace.ip(&format!("address add 192.0.2.1/24 dev {TAP}"))?;
        let address = (Ipv4Addr::new(192, 0, 2, 1), 0).into();
        let server = EchoServer::start(Some(namespace), address)?;
        b.echo("192.0.2.1", server.port)
            .context("to the host by a tap")?;
        server.finish()?;
    } else {
        eprintln!("         skipped the tap: it takes root to make a network namespace");
    }
    a.finish()?;
    b.finish()
}

/// Starts passt, listening at `passt.sock` in `directory`.
fn start_passt(setup: &Setup, directory: &TempDir) -> Result<Running> {
    let recipe = Recipe {
        kind: "passt",
        packages: &["passt"],
        ..Recipe::default()
    };
    let root = BuildRoot::ensure(&setup.cache, &recipe, "unpack Debian's passt")?;
    let binds = [Bind::write(directory.path(), WORK)];
    let log = File::create(directory.path().join("passt.log"))?;
    let mut passt = root.command_in_network(&binds, "passt");
    passt
        .args(["--foreground", "--socket", &format!("{WORK}/passt.sock")])
        .args(["--ipv4-only", "--address", GUEST, "--netmask", "24"])
        .args(["--gateway", LOOPBACK, "--map-host-loopback", LOOPBACK])
        .args(["--tcp-ports", "none", "--udp-ports", "none"])
        .args(["--no-dhcp", "--dns", "none"])
        .stdout(log.try_clone()?)
        .stderr(log);
    let mut running = Running::start("passt", &mut passt)?;
    let socket = directory.path().join("passt.sock");
    running.wait_for_file(&socket, PATIENCE).map_err(|error| {
        let log = fs::read_to_string(directory.path().join("passt.log"));
        anyhow!("{error:#}\n{}", log.unwrap_or_default())
    })?;
    fs::set_permissions(&socket, Permissions::from_mode(0o666))?;
    Ok(running)
}

/// Starts a QEMU without a machine that relays frames between two sockets on which backends listen.
fn start_relay(setup: &Setup, sockets: &[String; 2]) -> Result<Running> {
    let program = setup.qemu.command(setup.cache.root());
    let mut command = Command::new(&program[0]);
    command.args(&program[1..]).current_dir(setup.cache.root());
    command.args(["-machine", "none", "-nodefaults", "-display", "none"]);
    for (number, path) in sockets.iter().enumerate() {
        let stream = format!("stream,id=s{number},server=off,addr.type=unix,addr.path={path}");
        let hub = format!("hubport,id=h{number},hubid=0,netdev=s{number}");
        command.args(["-netdev", &stream, "-netdev", &hub]);
    }
    // It warns that its hub has no NIC.
    command.stdin(Stdio::null()).stderr(Stdio::null());
    Running::start("a relay", &mut command)
}

/// A network namespace that goes with this.
struct Namespace(String);

impl Namespace {
    fn new() -> Result<Self> {
        let name = format!("zcnic-test-{}", process::id());
        let added = host::command("ip").args(["netns", "add", &name]).status()?;
        ensure!(added.success(), "ip netns add failed");
        Ok(Self(name))
    }

    /// Returns a command in the namespace.
    fn command(&self, program: &Path) -> Command {
        let mut command = host::command("ip");
        command.args(["netns", "exec", &self.0]).arg(program);
        command
    }

    fn ip(&self, arguments: &str) -> Result<()> {
        let mut command = self.command(Path::new("ip"));
        let status = command.args(arguments.split_whitespace()).status()?;
        ensure!(status.success(), "ip {arguments} failed");
        Ok(())
    }

    /// Moves the calling thread into the namespace.
    fn enter(&self) -> Result<()> {
        let file = File::open(Path::new("/run/netns").join(&self.0))?;
        Ok(move_into_link_name_space(file.as_fd(), None)?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = host::command("ip")
            .args(["netns", "delete", &self.0])
            .status();
    }
}

/// A server on the host that takes one connection, reads [`BYTES`] and sends them back.
struct EchoServer {
    port: u16,
    thread: JoinHandle<std::io::Result<()>>,
}

impl EchoServer {
    fn start(namespace: Option<&Namespace>, address: std::net::SocketAddr) -> Result<Self> {
        let listen = || -> Result<TcpListener> {
            if let Some(namespace) = namespace {
                namespace.enter()?;
            }
            TcpListener::bind(address).with_context(|| format!("listen on {address}"))
        };
        // In a thread of its own, because a namespace is a thread's.
        let listener = thread::scope(|scope| scope.spawn(listen).join());
        let listener = listener.map_err(|_| anyhow!("the thread of a server panicked"))??;
        let port = listener.local_addr()?.port();
        let thread = thread::spawn(move || {
            let (mut connection, _) = listener.accept()?;
            connection.set_read_timeout(Some(PATIENCE))?;
            let mut bytes = vec![0; BYTES];
            connection.read_exact(&mut bytes)?;
            connection.write_all(&bytes)?;
            // The client closes it.
            connection.read_to_end(&mut Vec::new()).map(drop)
        });
        Ok(Self { port, thread })
    }

    /// Waits for the end of its connection.
    fn finish(self) -> Result<()> {
        let ended = self.thread.join();
        Ok(ended.map_err(|_| anyhow!("the thread of a server panicked"))??)
    }
}

/// A guest and its backend.
struct Wired {
    guest: Guest,
    zcnic: Running,
}

impl Wired {
    fn boot(setup: &Setup, wires: &[String; 3], namespace: Option<&Namespace>) -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let mut machine: Machine = setup.machine();
        machine.ports.push(Port {
            index: 2,
            pairs: 5,
            mac: Mac::of(2),
        });
        let program = sandbox.install(&setup.programs.zcnic)?;
        let mut command = match namespace {
            None => sandbox.command("zcnic", sandbox.directory(), &program)?,
            Some(namespace) => {
                let log = File::create(sandbox.path("zcnic.log"))?;
                let mut command = namespace.command(&program);
                command.stdout(log.try_clone()?).stderr(log);
                command
            }
        };
        let sockets: Vec<_> = machine
            .ports
            .iter()
            .map(|port| port.socket(sandbox.directory()))
            .collect();
        for (number, (socket, wire)) in sockets.iter().zip(wires).enumerate() {
            command
                .arg("--port")
                .arg(format!("path={}", socket.display()));
            command.arg("--wire").arg(format!("{number}={wire}"));
        }
        let mut zcnic = Running::start("zcnic", &mut command)?;
        for socket in &sockets {
            zcnic
                .wait_for_file(socket, PATIENCE)
                .with_context(|| sandbox.log("zcnic"))?;
            // QEMU runs as another user than a backend with a tap.
            fs::set_permissions(socket, Permissions::from_mode(0o666))?;
        }
        let mut guest = setup.boot_on(&machine, None, sandbox, None)?;
        guest.load(Driver::Zcnic)?;
        Ok(Self { guest, zcnic })
    }

    /// Gives the ports these addresses, with prefixes of 24 bits.
    fn addresses(&mut self, addresses: [&str; 3]) -> Result<()> {
        for (interface, address) in ["eth0", "eth1", "eth2"].into_iter().zip(addresses) {
            self.guest.sh(&format!(
                "ip address add {address}/24 dev {interface} && ip link set {interface} up"
            ))?;
        }
        Ok(())
    }

    /// Sends random bytes to a server that sends them back, and compares. The server may start
    /// later.
    fn echo(&mut self, address: &str, port: u16) -> Result<()> {
        let script = format!(
            "head -c {BYTES} /dev/urandom >/run/out
             until exec 3<>/dev/tcp/{address}/{port}; do sleep 0.5; done 2>/dev/null
             cat /run/out >&3 &
             head -c {BYTES} <&3 >/run/back
             cmp /run/out /run/back"
        );
        self.guest.check(&Exec::shell(&script).timeout(PATIENCE))?;
        Ok(())
    }

    fn finish(mut self) -> Result<()> {
        let problems = self.guest.gate()?;
        if !problems.is_empty() {
            bail!("the gate found problems: {}", problems.join("; "));
        }
        ensure!(self.zcnic.try_wait()?.is_none(), "zcnic ended");
        self.guest.power_off().map(drop)
    }
}
