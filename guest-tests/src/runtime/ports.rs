//! `zcnic-guest ports`: sets ports up, with any driver. Without a plan it makes the topology that all
//! tests use: the first port is eth0, the second is eth1 in the network namespace "peer".

use std::{collections::BTreeSet, fs, process::ExitCode, thread, time::Duration};

use anyhow::{Context, bail};
use serde::Deserialize;
use zcnic_guest_protocol::interface::{PortPlan, PortSetup};

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

/// The plan of the last `ports up`, for `ports down`.
const PLAN: &str = "/run/zcnic-ports.json";

/// The least MTU with which an interface has IPv6 (RFC 8200).
const MIN_IPV6_MTU: u32 = 1280;

impl Port {
    fn plan(&self) -> PortPlan {
        PortPlan {
            mac: self.mac.to_owned(),
            netns: self.netns.map(str::to_owned),
            interface: self.name.to_owned(),
            addresses: self.addresses.map(str::to_owned).to_vec(),
            mtu: None,
        }
    }
}

fn usual() -> Vec<PortPlan> {
    PORTS.iter().map(Port::plan).collect()
}

/// First three bytes of the MAC address of every zcnic port ("ZCN", locally administered).
const MAC_PREFIX: &str = "5a:43:4e:";

/// Sets ports up, by default two: eth0 and, in the network namespace "peer", eth1; or undoes that
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
        /// The ports, as a JSON array, instead of eth0 and eth1
        #[arg(long, value_name = "JSON")]
        plan: Option<String>,
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
    match &args.action {
        PortsCommand::Up { wait, plan } => {
            let plans = match plan {
                Some(plan) => serde_json::from_str(plan).context("--plan")?,
                None => usual(),
            };
            let reports = up(&plans, Duration::from_secs(*wait))?;
            println!("{}", serde_json::to_string(&reports)?);
        }
        PortsCommand::Down => down()?,
    }
    Ok(ExitCode::SUCCESS)
}

fn up(plans: &[PortPlan], wait: Duration) -> anyhow::Result<Vec<PortSetup>> {
    // A port that an earlier call left in a namespace would not be found here.
    down()?;
    let links = links(None)?;
    let mut ports = Vec::new();
    for plan in plans {
        let Some(link) = links.iter().find(|link| is_port(link, plan)) else {
            bail!(
                "there is no port {MAC_PREFIX}…{}: no such device, or no driver for it",
                plan.mac
            );
        };
        ports.push((plan, link));
    }
    fs::write(PLAN, serde_json::to_string(plans)?).context(PLAN)?;
    for netns in netns_of(plans) {
        net::run(None, &["ip", "netns", "add", netns])?;
        net::run(Some(netns), &["ip", "link", "set", "lo", "up"])?;
    }
    net::run(None, &["ip", "link", "set", "lo", "up"])?;
    // A port may have the name that another shall get.
    let passing = |number: usize| format!("zcnic-port{number}");
    for (number, (_, link)) in ports.iter().enumerate() {
        let set = ["ip", "link", "set", &link.ifname];
        net::run(None, &[&set[..], &["down"]].concat())?;
        net::run(None, &[&set[..], &["name", &passing(number)]].concat())?;
    }
    for (number, plan) in plans.iter().enumerate() {
        let name = passing(number);
        let mut set = vec!["ip", "link", "set", &name];
        set.extend(plan.netns.iter().flat_map(|netns| ["netns", netns]));
        set.extend(["name", &plan.interface]);
        net::run(None, &set)?;
    }
    let mut reports = Vec::new();
    for (plan, link) in &ports {
        in_netns(plan.netns.as_deref(), || configure_as(plan))?;
        reports.push(PortSetup {
            netns: plan.netns.clone(),
            interface: plan.interface.clone(),
            mac: link.address.clone(),
            driver: driver(plan),
            addresses: plan.addresses.clone(),
        });
    }
    for plan in plans {
        in_netns(plan.netns.as_deref(), || {
            let index = net::ifindex(&plan.interface)?;
            link::wait_for_carrier(index, wait).with_context(|| plan.interface.clone())
        })?;
    }
    Ok(reports)
}

/// The network namespaces of ports, each once.
fn netns_of(plans: &[PortPlan]) -> BTreeSet<&str> {
    plans
        .iter()
        .filter_map(|plan| plan.netns.as_deref())
        .collect()
}

/// Addresses, so that they survive the link going down, and no duplicate address detection.
pub(crate) fn configure(port: &Port) -> anyhow::Result<()> {
    configure_as(&port.plan())
}

fn configure_as(plan: &PortPlan) -> anyhow::Result<()> {
    let name = &plan.interface;
    if let Some(mtu) = plan.mtu {
        net::run(None, &["ip", "link", "set", name, "mtu", &mtu.to_string()])?;
    }
    for (key, value) in [("keep_addr_on_down", "1"), ("accept_dad", "0")] {
        let path = format!("/proc/sys/net/ipv6/conf/{name}/{key}");
        // Below 1280 bytes there is no IPv6.
        if fs::exists(&path)? {
            fs::write(&path, value).with_context(|| path)?;
        }
    }
    for address in &plan.addresses {
        if address.contains(':') && plan.mtu.is_some_and(|mtu| mtu < MIN_IPV6_MTU) {
            continue;
        }
        let mut command = vec!["ip", "address", "add", address, "dev", name];
        command.extend(address.contains(':').then_some("nodad"));
        net::run(None, &command)?;
    }
    net::run(None, &["ip", "link", "set", name, "up"])?;
    Ok(())
}

fn down() -> anyhow::Result<()> {
    let plans: Vec<PortPlan> = match fs::read_to_string(PLAN) {
        Ok(text) => serde_json::from_str(&text).context(PLAN)?,
        Err(_) => usual(),
    };
    let is_ours = |link: &IpLink| plans.iter().any(|plan| is_port(link, plan));
    for netns in netns_of(&plans) {
        if !fs::exists(format!("/run/netns/{netns}"))? {
            continue;
        }
        for link in links(Some(netns))?.iter().filter(|link| is_ours(link)) {
            net::run(Some(netns), &["ip", "link", "set", &link.ifname, "down"])?;
            // Deleting the namespace would move the interface back too, but at some later time.
            let here = std::process::id().to_string();
            net::run(
                Some(netns),
                &["ip", "link", "set", &link.ifname, "netns", &here],
            )?;
        }
        net::run(None, &["ip", "netns", "delete", netns])?;
    }
    for link in links(None)?.iter().filter(|link| is_ours(link)) {
        net::run(None, &["ip", "link", "set", &link.ifname, "down"])?;
        net::run(None, &["ip", "address", "flush", "dev", &link.ifname])?;
    }
    Ok(())
}

fn is_port(link: &IpLink, plan: &PortPlan) -> bool {
    link.address.starts_with(MAC_PREFIX) && link.address.ends_with(&plan.mac)
}

/// The links of a namespace.
pub(crate) fn links(netns: Option<&str>) -> anyhow::Result<Vec<IpLink>> {
    let output = net::run(netns, &["ip", "-json", "link", "show"])?;
    serde_json::from_str(&output).context("ip -json link show")
}

/// The driver's name by ethtool (sysfs shows our own namespace only).
fn driver(plan: &PortPlan) -> Option<String> {
    let netns = plan.netns.as_deref();
    let output = net::run(netns, &["ethtool", "-i", &plan.interface]).ok()?;
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
