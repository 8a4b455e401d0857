//! Compares with passt, which forwards the payload of each frame to the kernel's sockets. That is
//! another job than a NIC's, so the ratio is only an order of magnitude.
//!
//! passt has the same frontend as zcnic, and forwards to a socket of ours that is never read. The
//! kernel drops and counts the datagrams that do not fit its buffer.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
};

use anyhow::{Context, Result, ensure};
use zcnic_testbed::{
    backend::Programs,
    process::Running,
    provision::buildroot::{Bind, BuildRoot, WORK},
    provision::host,
    step::{step, tail},
};

use super::{
    figure::Figure,
    interleaved::{Comparison, Forwarding, Pair},
    method::Method,
    testpmd::{PATIENCE, RING},
};

/// Its Debian package.
pub(super) const PACKAGE: &str = "passt";

/// Bytes of frames.
const SIZES: [u16; 2] = [64, 1500];

/// The frontend's addresses for this machine's loopback interface and for itself: addresses for
/// documentation (RFC 5737).
const HOST: &str = "198.51.100.1";
const GUEST: &str = "198.51.100.2";

/// The socket to which passt forwards, and the port that it sends from.
struct Receiver {
    socket: UdpSocket,
    /// passt sends from the guest's source port, so this one is free here.
    source: u16,
}

impl Receiver {
    fn new() -> Result<Self> {
        let any = (Ipv4Addr::LOCALHOST, 0);
        let socket = UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        let source = UdpSocket::bind(any)?.local_addr()?.port();
        Ok(Self { socket, source })
    }

    /// Returns the options that make a frontend send to it.
    fn options(&self) -> Result<Vec<String>> {
        let port = self.socket.local_addr()?.port();
        Ok(vec![
            format!("--tx-ip={GUEST},{HOST}"),
            format!("--tx-udp={},{port}", self.source),
        ])
    }

    /// Returns the number of datagrams for the socket: those that wait in its buffer and those that
    /// the kernel dropped.
    fn delivered(&self) -> Result<u64> {
        let port = self.socket.local_addr()?.port();
        let address = u32::from_ne_bytes(Ipv4Addr::LOCALHOST.octets());
        let local = format!("{address:08X}:{port:04X}");
        let sockets = fs::read_to_string("/proc/net/udp")?;
        let columns = sockets
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .find(|columns| columns.get(1) == Some(&&*local));
        let dropped: u64 = columns
            .and_then(|columns| columns.last()?.parse().ok())
            .context("the kernel does not report how many datagrams it dropped")?;
        let waiting = std::iter::from_fn(|| self.socket.recv(&mut []).ok()).count();
        Ok(dropped + waiting as u64)
    }
}

/// Starts passt, listening at `socket`.
fn start(root: &BuildRoot, comparison: &Comparison<'_>, socket: &str) -> Result<Running> {
    let work = comparison.work.path();
    // passt drops root's privileges, but not in a user namespace, where root has none on the host.
    let binds = [Bind::write(work, WORK)];
    let mut passt = root.command_in_network(&binds, "passt");
    passt
        .args(["--foreground", "--vhost-user"])
        .args(["--socket", &format!("{WORK}/{socket}")])
        .args(["--ipv4-only", "--address", GUEST, "--netmask", "24"])
        .args(["--gateway", HOST, "--map-host-loopback", HOST])
        .args(["--tcp-ports", "none", "--udp-ports", "none"])
        .args(["--no-dhcp", "--dns", "none"]);
    let passt = comparison.method.priority.apply(&passt);
    let log = work.join("passt.log");
    let file = fs::File::create(&log)?;
    let mut command = host::command("taskset");
    command
        .args(["--cpu-list", &comparison.method.cpus[0].to_string()])
        .arg(passt.get_program())
        .args(passt.get_args())
        .stdout(file.try_clone()?)
        .stderr(file);
    let mut running = Running::start("passt", &mut command)?;
    running
        .wait_for_file(&work.join(socket), PATIENCE)
        .with_context(|| tail(&fs::read_to_string(&log).unwrap_or_default(), 10))?;
    Ok(running)
}

pub(crate) fn measure(
    root: &BuildRoot,
    testpmd: &BuildRoot,
    programs: &Programs,
    method: Method,
) -> Result<Vec<Figure>> {
    step("testpmd and passt: sink", || {
        let receiver = Receiver::new()?;
        let comparison = Comparison {
            testpmd,
            programs,
            method,
            forwarding: Forwarding::Sink,
            queues: 1,
            options: receiver.options()?,
            work: Comparison::work()?,
        };
        let mut passt = start(root, &comparison, "passt.sock")?;
        let mut theirs = Pair::new(
            comparison.frontend("theirs", "passt.sock")?,
            None,
            Forwarding::Sink,
        )?;
        let mut figures = comparison.compare("passt", &mut theirs, &SIZES)?;
        ensure!(passt.try_wait()?.is_none(), "passt ended");
        // The rest may still be in the ring.
        let (sent, delivered) = (theirs.sent()?, receiver.delivered()?);
        ensure!(
            sent > 0 && delivered + u64::from(RING) >= sent,
            "passt took {sent} frames and delivered {delivered} datagrams"
        );
        for figure in &mut figures {
            let counters = figure.counters.get_or_insert_default();
            counters.insert("passt_delivered".to_owned(), Some(delivered));
        }
        Ok(figures)
    })
}
