//! `zcnic-guest ports`: the topology that all tests use. The first port is eth0, the second is eth1
//! in the network namespace "peer", with any driver.

use std::{fs, process::ExitCode, thread, time::Duration};

use anyhow::{Context, bail};
use serde::Deserialize;
use zcnic_guest_protocol::interface::PortSetup;

use crate::kit::{link, net};

/// Name of the second port's network namespace.
pub const PEER: &str = "peer";

/// How a port is set up.
pub(crate) struct Port {
    /// Last byte of its MAC address, as `zcnic qemu-args` gives them.
    mac: &'static str,
    /// Network namespace.
    pub(crate) netns: Option<&'static str>,
    /// Interface.
    pub(crate) name: &'static str,
    /// IPv4 and IPv6, with their prefix lengths.
    pub(crate) addresses: [&'static str; 2],
}

/// eth0 and eth1.
pub(crate) const PORTS: [Port; 2] = [
    Port {
        mac: ":01",
        netns: None,
        name: "eth0",
        addresses: ["192.0.2.1/24", "2001:db8::1/64"],
    },
    Port {
        mac: ":02",
        netns: Some(PEER),
        name: "eth1",
        addresses: ["192.0.2.2/24", "2001:db8::2/64"],
    },
];

/// First three bytes of the MAC address of every zcnic port ("ZCN", locally administered).
const MAC_PREFIX: &str = "5a:43:4e:";

/// Sets the two ports up as eth0 and, in the network namespace "peer", eth1; or undoes that
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: PortsCommand,
}

#[derive(Debug, clap::Subcommand)]
enum PortsCommand {
    /// Name, address and start both ports and wait until they have carrier
    Up {
        /// How long to wait for carrier
        #[arg(long, value_name = "SECONDS", default_value_t = 30)]
        wait: u64,
    },
    /// Stop both ports and remove addresses and namespace
    Down,
}

/// A link as `ip -json link` shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct IpLink {
    pub(crate) ifname: String,
    #[serde(default)]
    pub(crate) address: String,
}

/// Runs the subcommand.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.action {
        PortsCommand::Up { wait } => {
            let reports = up(Duration::from_secs(wait))?;
            println!("{}", serde_json::to_string(&reports)?);
        }
        PortsCommand::Down => down()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(wait: Duration) -> anyhow::Result<Vec<PortSetup>> {
    // A port that an earlier call left in a namespace would not be found here.
    down()?;
    let links = links(None)?;
    let mut ports = Vec::new();
    for port in &PORTS {
        let Some(link) = links.iter().find(|link| is_port(link, port)) else {
            bail!(
                "there is no port {MAC_PREFIX}…{}: no such device, or no driver for it",
                port.mac
            );
        };
        ports.push((port, link));
    }
    net::run(None, &["ip", "netns", "add", PEER])?;
    for netns in [None, Some(PEER)] {
        net::run(netns, &["ip", "link", "set", "lo", "up"])?;
    }
    // The last first: it may have the name that the first shall get.
    for (port, link) in ports.iter().rev() {
        net::run(None, &["ip", "link", "set", &link.ifname, "down"])?;
        if let Some(netns) = port.netns {
            net::run(
                None,
                &[
                    "ip",
                    "link",
                    "set",
                    &link.ifname,
                    "netns",
                    netns,
                    "name",
                    port.name,
                ],
            )?;
        } else if link.ifname != port.name {
            net::run(
                None,
                &["ip", "link", "set", &link.ifname, "name", port.name],
            )?;
        }
    }
    let mut reports = Vec::new();
    for (port, link) in &ports {
        in_netns(port.netns, || configure(port))?;
        reports.push(PortSetup {
            netns: port.netns.map(str::to_owned),
            interface: port.name.to_owned(),
            mac: link.address.clone(),
            driver: driver(port),
            addresses: port.addresses.map(str::to_owned).to_vec(),
        });
    }
    for port in &PORTS {
        in_netns(port.netns, || {
            link::wait_for_carrier(net::ifindex(port.name)?, wait).with_context(|| port.name)
        })?;
    }
    Ok(reports)
}

/// Addresses, so that they survive the link going down, and no duplicate address detection.
pub(crate) fn configure(port: &Port) -> anyhow::Result<()> {
    for (key, value) in [("keep_addr_on_down", "1"), ("accept_dad", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{}/{key}", port.name);
        fs::write(&path, value).with_context(|| path)?;
    }
    for address in port.addresses {
        let mut command = vec!["ip", "address", "add", address, "dev", port.name];
        command.extend(address.contains(':').then_some("nodad"));
        net::run(None, &command)?;
    }
    net::run(None, &["ip", "link", "set", port.name, "up"])?;
    Ok(())
}

fn down() -> anyhow::Result<()> {
    let has_peer = fs::exists(format!("/run/netns/{PEER}"))?;
    if has_peer {
        for link in links(Some(PEER))? {
            if PORTS.iter().any(|port| is_port(&link, port)) {
                net::run(Some(PEER), &["ip", "link", "set", &link.ifname, "down"])?;
                // Deleting the namespace would move the interface back too, but at some later time.
                let here = std::process::id().to_string();
                net::run(
                    Some(PEER),
                    &["ip", "link", "set", &link.ifname, "netns", &here],
                )?;
            }
        }
        net::run(None, &["ip", "netns", "delete", PEER])?;
    }
    for link in links(None)? {
        if PORTS.iter().any(|port| is_port(&link, port)) {
            net::run(None, &["ip", "link", "set", &link.ifname, "down"])?;
            net::run(None, &["ip", "address", "flush", "dev", &link.ifname])?;
        }
    }
    Ok(())
}

fn is_port(link: &IpLink, port: &Port) -> bool {
    link.address.starts_with(MAC_PREFIX) && link.address.ends_with(port.mac)
}

/// The links of a namespace.
pub(crate) fn links(netns: Option<&str>) -> anyhow::Result<Vec<IpLink>> {
    let output = net::run(netns, &["ip", "-json", "link", "show"])?;
    serde_json::from_str(&output).context("ip -json link show")
}

/// The driver's name by ethtool (sysfs shows our own namespace only).
fn driver(port: &Port) -> Option<String> {
    let output = net::run(port.netns, &["ethtool", "-i", port.name]).ok()?;
    Some(
        output
            .lines()
            .find_map(|line| line.strip_prefix("driver: "))?
            .into(),
    )
}

/// Runs `work` in a namespace, on a new thread, because each thread has its own namespace.
pub(crate) fn in_netns<T: Send>(
    netns: Option<&str>,
    work: impl FnOnce() -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    let Some(name) = netns else { return work() };
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            net::enter_netns(name)?;
            work()
        });
        there
            .join()
            .unwrap_or_else(|_| bail!("work in namespace {name} panicked"))
    })
}
