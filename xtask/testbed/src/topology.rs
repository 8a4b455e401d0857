//! Topologies: guests, their ports, and what connects these. They come from options or from a file.

use std::{collections::BTreeSet, fs, net::IpAddr, path::Path, str::FromStr};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use zcnic_guest_protocol::interface::PortPlan;

use crate::{
    backend::{BackendPort, Wiring},
    machine::{Mac, Port},
    setup::PORTS,
};

/// Most guests of a topology.
pub const MOST_GUESTS: u8 = 8;
/// Most ports of a guest.
pub const MOST_PORTS: u8 = 16;
/// Most data queue pairs of a port. One more carries commands.
pub const MOST_QUEUES: u16 = 127;
/// Data queue pairs of a port that nothing else is said of: interrupt vectors are finite.
const FEW_QUEUES: u16 = 4;
/// Range of an MTU.
pub const MTU: std::ops::RangeInclusive<u32> = 68..=9216;
/// The MAC addresses for which zcnic.ko takes a port.
const PREFIX: [u8; 3] = [0x5a, 0x43, 0x4e];

/// Guests, and the options of `zcnic` that connect their ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The guests, at least one.
    pub guests: Vec<GuestPlan>,
    /// Options of `zcnic`: `--cable`, `--wire`, `--switch` and their values.
    pub connections: Vec<String>,
}

/// A guest and its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestPlan {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<PlannedPort>,
}

/// A port before it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPort {
    /// Data queue pairs.
    pub queues: u16,
    /// MAC address.
    pub mac: Mac,
    /// Its interface in the guest.
    pub interface: PortPlan,
}

/// What options say about the ports of all guests.
#[derive(Clone, Debug, Default)]
pub struct Shape {
    /// Number of guests.
    pub guests: u8,
    /// Ports of each; 0: as many as are usual.
    pub ports: u8,
    /// Data queue pairs of each port of a guest, the last number for all further ones.
    pub queues: Vec<u16>,
    /// MTU of every port.
    pub mtu: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    guest: Vec<GuestTable>,
    #[serde(default)]
    cables: Vec<String>,
    #[serde(default)]
    wires: Vec<String>,
    #[serde(default)]
    switches: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct GuestTable {
    name: String,
    port: Vec<PortTable>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct PortTable {
    queues: Option<u16>,
    mac: Option<String>,
    interface: Option<String>,
    netns: Option<String>,
    addresses: Option<Vec<String>>,
    mtu: Option<u32>,
}

impl Topology {
    /// Reads a file, for clap.
    ///
    /// # Errors
    ///
    /// If it can't be read, or describes no topology.
    pub fn read(path: &str) -> Result<Self, String> {
        let read = || {
            let text = fs::read_to_string(Path::new(path))?;
            text.parse()
        };
        read().map_err(|error| format!("{error:#}"))
    }

    /// Makes guests of the same shape; a single guest of the usual shape has [`PORTS`].
    ///
    /// # Errors
    ///
    /// If `connections` is empty and the ports can't be cabled in pairs.
    pub fn of_shape(shape: &Shape, connections: Vec<String>) -> Result<Self> {
        let usual = [PORTS[0].pairs - 1, PORTS[1].pairs - 1];
        let ports = match (shape.ports, shape.guests) {
            (0, 1) => 2,
            (0, _) => 1,
            (ports, _) => usize::from(ports),
        };
        let port = |number: usize| {
            let said = shape.queues.get(number).or(shape.queues.last());
            PortTable {
                queues: said.or(usual.get(number)).copied(),
                mtu: shape.mtu,
                ..PortTable::default()
            }
        };
        let guests = (0..shape.guests).map(|guest| {
            let name = char::from(b'a' + guest).to_string();
            (name, (0..ports).map(port).collect())
        });
        Self::new(guests.collect(), connections)
    }

    fn new(tables: Vec<(String, Vec<PortTable>)>, mut connections: Vec<String>) -> Result<Self> {
        ensure!(
            (1..=usize::from(MOST_GUESTS)).contains(&tables.len()),
            "a topology has 1 to {MOST_GUESTS} guests"
        );
        let (mut guests, mut names, mut macs) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
        let mut index = 0;
        for (name, tables) in tables {
            let legal = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            ensure!(
                name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(legal),
                "{name:?} is no name of a guest: a letter, then letters, digits, - and _"
            );
            ensure!(names.insert(name.clone()), "two guests are called {name}");
            ensure!(
                (1..=usize::from(MOST_PORTS)).contains(&tables.len()),
                "guest {name} has {} ports; 1 to {MOST_PORTS} are possible",
                tables.len()
            );
            let mut ports = Vec::new();
            for (number, table) in tables.into_iter().enumerate() {
                let port = table.plan(number, index);
                let port = port.with_context(|| format!("port {number} of guest {name}"))?;
                ensure!(
                    macs.insert(port.mac),
                    "two ports have the MAC address {}",
                    port.mac
                );
                let place = |port: &PlannedPort| {
                    (
                        port.interface.netns.clone(),
                        port.interface.interface.clone(),
                    )
                };
                if ports.iter().any(|other| place(other) == place(&port)) {
                    bail!(
                        "guest {name} has two interfaces {}",
                        port.interface.interface
                    );
                }
                ports.push(port);
                index += 1;
            }
            guests.push(GuestPlan { name, ports });
        }
        if connections.is_empty() {
            if index % 2 == 1 {
                bail!("{index} ports can't be cabled in pairs: give --cable, --wire or --switch");
            }
            for pair in 0..index / 2 {
                let ends = format!("{}:{}", 2 * pair, 2 * pair + 1);
                connections.extend(["--cable".to_owned(), ends]);
            }
        }
        Ok(Self {
            guests,
            connections,
        })
    }

    /// Returns the ports of each guest, numbered from the first guest's first one on.
    pub fn ports(&self) -> Vec<Vec<Port>> {
        let mut index = 0;
        let mut port = |planned: &PlannedPort| {
            index += 1;
            Port {
                index: index - 1,
                pairs: planned.queues + 1,
                mac: planned.mac,
            }
        };
        self.guests
            .iter()
            .map(|guest| guest.ports.iter().map(&mut port).collect())
            .collect()
    }

    /// Returns the ports and connections of the backend. Ports of several guests have names:
    /// GUEST.NUMBER.
    pub fn wiring(&self) -> Wiring {
        let mut ports = Vec::new();
        for (guest, own) in self.guests.iter().zip(self.ports()) {
            for (number, port) in own.into_iter().enumerate() {
                let name = (self.guests.len() > 1).then(|| format!("{}.{number}", guest.name));
                ports.push(BackendPort { port, name });
            }
        }
        Wiring {
            ports,
            options: self.connections.clone(),
        }
    }
}

impl FromStr for Topology {
    type Err = anyhow::Error;

    /// Parses the text of a file.
    fn from_str(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|error| {
            let line = error
                .span()
                .map_or(1, |span| 1 + text[..span.start].matches('\n').count());
            anyhow::anyhow!("line {line}: {}", error.message().replace('\n', " "))
        })?;
        let guests = file.guest.into_iter().map(|guest| (guest.name, guest.port));
        let options = [
            ("--cable", file.cables),
            ("--wire", file.wires),
            ("--switch", file.switches),
        ];
        let connections = options.into_iter().flat_map(|(option, values)| {
            values.into_iter().flat_map(move |v| [option.to_owned(), v])
        });
        Self::new(guests.collect(), connections.collect())
    }
}

impl PortTable {
    /// Fills in what is usual. `number` counts the ports of the guest, `index` all ports.
    fn plan(self, number: usize, index: u8) -> Result<PlannedPort> {
        let queues = self.queues.unwrap_or(FEW_QUEUES);
        ensure!(
            (1..=MOST_QUEUES).contains(&queues),
            "queues = {queues}; 1 to {MOST_QUEUES} are possible"
        );
        let mac = self.mac.map_or(Ok(Mac::of(index)), |mac| mac.parse())?;
        ensure!(
            mac.0.starts_with(&PREFIX),
            "the MAC address {mac} does not begin with 5a:43:4e, by which zcnic.ko knows its ports"
        );
        if let Some(mtu) = self.mtu {
            ensure!(
                MTU.contains(&mtu),
                "mtu = {mtu}; {} to {} are possible",
                MTU.start(),
                MTU.end()
            );
        }
        let usual = [
            format!("192.0.2.{}/24", index + 1),
            format!("2001:db8::{:x}/64", index + 1),
        ];
        let addresses = self.addresses.unwrap_or_else(|| usual.to_vec());
        for address in &addresses {
            let valid = address.split_once('/').and_then(|(ip, length)| {
                let most = if ip.parse::<IpAddr>().ok()?.is_ipv4() {
                    32
                } else {
                    128
                };
                length.parse::<u8>().ok().filter(|length| *length <= most)
            });
            ensure!(
                valid.is_some(),
                "{address:?} is no address with the length of its prefix, such as 192.0.2.1/24"
            );
        }
        let name_of = |what: &str, name: String, most: usize| {
            let legal = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            let fits = (1..=most).contains(&name.len()) && !name.starts_with(['-', '.']);
            ensure!(
                fits && name.chars().all(legal),
                "{name:?} is no name of {what}: letters, digits, -, _ and ., at most {most}"
            );
            Ok(name)
        };
        let interface = self.interface.unwrap_or_else(|| format!("eth{number}"));
        // Two ends in one namespace would reach each other without a frame.
        let usual_netns = match number {
            0 => None,
            1 => Some("peer".to_owned()),
            _ => Some(format!("peer{number}")),
        };
        let netns = match self.netns.as_deref() {
            None => usual_netns,
            Some("") => None,
            Some(name) => Some(name_of("a network namespace", name.to_owned(), 64)?),
        };
        Ok(PlannedPort {
            queues,
            mac,
            interface: PortPlan {
                mac: mac.to_string(),
                netns,
                interface: name_of("an interface", interface, 15)?,
                addresses,
                mtu: self.mtu,
            },
        })
    }
}

impl FromStr for Mac {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let bytes: Option<Vec<u8>> = text
            .split(':')
            .map(|byte| {
                u8::from_str_radix(byte, 16)
                    .ok()
                    .filter(|_| byte.len() == 2)
            })
            .collect();
        let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        bytes
            .map(Self)
            .with_context(|| format!("{text:?} is no MAC address"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(guests: u8, ports: u8) -> Shape {
        Shape {
            guests,
            ports,
            ..Shape::default()
        }
    }

    fn arguments(topology: &Topology) -> String {
        topology.wiring().arguments(Path::new("/d")).join(" ")
    }

    #[test]
    fn without_options_a_guest_has_the_ports_of_all_tests() {
        let topology = Topology::of_shape(&shape(1, 0), Vec::new()).unwrap();
        assert_eq!(topology.ports()[..], [PORTS.to_vec()]);
        assert_eq!(
            arguments(&topology),
            "--port path=/d/port0.sock --port path=/d/port1.sock --cable 0:1 --control /d/control.sock"
        );
        let [eth0, eth1] = &topology.guests[0].ports[..] else {
            panic!("{topology:?}");
        };
        assert_eq!(eth0.interface.netns, None);
        assert_eq!(eth0.interface.addresses, ["192.0.2.1/24", "2001:db8::1/64"]);
        assert_eq!(eth1.interface.netns.as_deref(), Some("peer"));
        assert_eq!(eth1.interface.interface, "eth1");
    }

    #[test]
    fn two_guests_are_cabled_port_by_port() {
        let topology = Topology::of_shape(&shape(2, 0), Vec::new()).unwrap();
        assert_eq!(
            arguments(&topology),
            "--port path=/d/port0.sock,name=a.0 --port path=/d/port1.sock,name=b.0 --cable 0:1 \
             --control /d/control.sock"
        );
        let second = &topology.guests[1].ports[0].interface;
        assert_eq!(second.interface, "eth0");
        assert_eq!(second.netns, None);
        assert_eq!(second.addresses[0], "192.0.2.2/24");
        assert_eq!(topology.ports()[1][0].mac, Mac::of(1));
    }

    #[test]
    fn queues_of_ports_that_are_not_listed_are_those_of_the_last_one() {
        let shape = Shape {
            queues: vec![8, 2],
            ..shape(1, 4)
        };
        let topology = Topology::of_shape(&shape, Vec::new()).unwrap();
        let pairs: Vec<_> = topology.ports()[0].iter().map(|port| port.pairs).collect();
        assert_eq!(pairs, [9, 3, 3, 3]);
    }

    #[test]
    fn three_ports_need_to_be_connected() {
        let error = Topology::of_shape(&shape(1, 3), Vec::new()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "3 ports can't be cabled in pairs: give --cable, --wire or --switch"
        );
        let given = ["--switch", "0,1,2"].map(str::to_owned).to_vec();
        let topology = Topology::of_shape(&shape(1, 3), given).unwrap();
        assert!(arguments(&topology).contains(" --switch 0,1,2 "));
        let namespaces: Vec<_> = topology.guests[0]
            .ports
            .iter()
            .map(|port| port.interface.netns.as_deref())
            .collect();
        assert_eq!(namespaces, [None, Some("peer"), Some("peer2")]);
    }

    #[test]
    fn a_file_describes_guests_and_connections() {
        let text = r#"
            cables = ["left.0:right.0,pause"]
            wires = ["left.1=loopback"]
            [[guest]]
            name = "left"
            [[guest.port]]
            queues = 16
            addresses = ["198.51.100.1/30"]
            mtu = 9000
            [[guest.port]]
            mac = "5a:43:4e:00:01:00"
            netns = ""
            [[guest]]
            name = "right"
            [[guest.port]]
            interface = "wan"
        "#;
        let topology = Topology::from_str(text).unwrap();
        assert_eq!(
            topology.connections,
            [
                "--cable",
                "left.0:right.0,pause",
                "--wire",
                "left.1=loopback"
            ]
        );
        let [first, second] = &topology.guests[0].ports[..] else {
            panic!("{topology:?}");
        };
        assert_eq!((first.queues, first.interface.mtu), (16, Some(9000)));
        assert_eq!(first.interface.addresses, ["198.51.100.1/30"]);
        assert_eq!(second.mac.to_string(), "5a:43:4e:00:01:00");
        assert_eq!(second.interface.netns, None);
        assert_eq!(second.queues, FEW_QUEUES);
        assert_eq!(topology.guests[1].ports[0].interface.interface, "wan");
    }

    #[test]
    fn a_wrong_file_gets_one_line_that_names_the_fault() {
        let guest = "[[guest]]\nname = \"a\"\n";
        for (text, words) in [
            ("", "missing field `guest`"),
            ("guest = []", "1 to 8 guests"),
            (
                "[[guest]]\nname = \"a\"\ncolour = 1\n",
                "line 3: unknown field `colour`",
            ),
            ("[[guest]]\nname = \"1\"\nport = [{}]", "no name of a guest"),
            (&format!("{guest}port = []"), "guest a has 0 ports"),
            (
                &format!("{guest}port = [{{queues = 128}}, {{}}]"),
                "queues = 128; 1 to 127",
            ),
            (
                &format!("{guest}port = [{{mtu = 67}}, {{}}]"),
                "mtu = 67; 68 to 9216",
            ),
            (
                &format!("{guest}port = [{{mac = \"52:54:00:00:00:01\"}}, {{}}]"),
                "5a:43:4e",
            ),
            (
                &format!("{guest}port = [{{mac = \"5a:43\"}}, {{}}]"),
                "no MAC address",
            ),
            (
                &format!("{guest}port = [{{mac = \"5a:43:4e:00:00:02\"}}, {{}}]"),
                "two ports have",
            ),
            (
                &format!("{guest}port = [{{addresses = [\"192.0.2.1\"]}}, {{}}]"),
                "no address",
            ),
            (
                &format!("{guest}port = [{{interface = \"a/b\"}}, {{}}]"),
                "no name of an interface",
            ),
            (
                &format!("{guest}port = [{{}}, {{netns = \"\", interface = \"eth0\"}}]"),
                "two interfaces eth0",
            ),
            (
                &format!("{guest}port = [{{}}, {{}}]\n{guest}port = [{{}}]"),
                "two guests are called a",
            ),
            (
                &format!("{guest}port = [{{}}]"),
                "1 ports can't be cabled in pairs",
            ),
        ] {
            let error = format!("{:#}", Topology::from_str(text).unwrap_err());
            assert!(error.contains(words), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
