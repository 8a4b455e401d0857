//! Frames to send, built by etherparse with valid checksums.

use etherparse::{
    IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder, SingleVlanHeader, TcpHeader, VlanHeader,
    VlanId, ip_number,
};

/// Address of the receiving port of [`Flow`] frames.
pub const RECEIVER: [u8; 6] = [0x5a, 0x43, 0x4e, 0, 0, 2];
/// Address of the sending port.
pub const SENDER: [u8; 6] = [0x5a, 0x43, 0x4e, 0, 0, 1];

/// The common fields of one flow's frames. Lengths, protocols and checksums are filled in.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Destination Ethernet address.
    pub destination: [u8; 6],
    /// Source Ethernet address.
    pub source: [u8; 6],
    /// VLAN identifier, if the frames carry a tag.
    pub vlan: Option<u16>,
    /// IP header, options and extension headers.
    pub ip: IpHeaders,
    /// TCP or UDP.
    pub transport: TransportHeader,
}

/// TCP or UDP header.
#[derive(Clone, Debug)]
pub enum TransportHeader {
    /// TCP.
    Tcp(Box<TcpHeader>),
    /// UDP source and destination port.
    Udp(u16, u16),
}

impl Flow {
    /// TCP over IPv4: 192.0.2.2:1000 to 192.0.2.1:2000.
    #[must_use]
    pub fn tcp4() -> Self {
        Self::new(ipv4([192, 0, 2, 2], [192, 0, 2, 1]), tcp(1000, 2000))
    }

    /// UDP over IPv4: 192.0.2.2:1000 to 192.0.2.1:2000.
    #[must_use]
    pub fn udp4() -> Self {
        Self {
            transport: TransportHeader::Udp(1000, 2000),
            ..Self::tcp4()
        }
    }

    /// TCP over IPv6: `[2001:db8::2]:1000` to `[2001:db8::1]:2000`.
    #[must_use]
    pub fn tcp6() -> Self {
        let address = |last: u128| (0x2001_0db8 << 96 | last).to_be_bytes();
        Self::new(ipv6(address(2), address(1)), tcp(1000, 2000))
    }

    /// UDP over IPv6: `[2001:db8::2]:1000` to `[2001:db8::1]:2000`.
    #[must_use]
    pub fn udp6() -> Self {
        Self {
            transport: TransportHeader::Udp(1000, 2000),
            ..Self::tcp6()
        }
    }

    /// The four flow types with ports.
    #[must_use]
    pub fn all() -> [Self; 4] {
        [Self::tcp4(), Self::udp4(), Self::tcp6(), Self::udp6()]
    }

    fn new(ip: IpHeaders, transport: TransportHeader) -> Self {
        Self {
            destination: RECEIVER,
            source: SENDER,
            vlan: None,
            ip,
            transport,
        }
    }

    /// The same flow between other ports.
    #[must_use]
    pub fn ports(mut self, source: u16, destination: u16) -> Self {
        match &mut self.transport {
            TransportHeader::Tcp(header) => {
                header.source_port = source;
                header.destination_port = destination;
            }
            TransportHeader::Udp(from, to) => (*from, *to) = (source, destination),
        }
        self
    }

    /// The same flow between other IPv4 addresses.
    #[must_use]
    pub fn between4(mut self, source: [u8; 4], destination: [u8; 4]) -> Self {
        self.ip = ipv4(source, destination);
        self
    }

    /// The same flow between other IPv6 addresses.
    #[must_use]
    pub fn between6(mut self, source: u128, destination: u128) -> Self {
        self.ip = ipv6(source.to_be_bytes(), destination.to_be_bytes());
        self
    }

    /// The same flow to another Ethernet address.
    #[must_use]
    pub fn to(mut self, destination: [u8; 6]) -> Self {
        self.destination = destination;
        self
    }

    /// The same flow in a VLAN.
    #[must_use]
    pub fn in_vlan(mut self, identifier: u16) -> Self {
        self.vlan = Some(identifier);
        self
    }

    /// The same flow with a changed TCP header.
    ///
    /// # Panics
    ///
    /// The flow is UDP.
    #[must_use]
    pub fn tcp_header(mut self, change: impl FnOnce(&mut TcpHeader)) -> Self {
        match &mut self.transport {
            TransportHeader::Tcp(header) => change(header),
            TransportHeader::Udp(..) => panic!("UDP has no TCP header"),
        }
        self
    }

    /// One frame.
    ///
    /// # Panics
    ///
    /// The payload is too long for IP's length fields.
    #[must_use]
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        let link = PacketBuilder::ethernet2(self.source, self.destination);
        let ip = match self.vlan {
            None => link.ip(self.ip.clone()),
            Some(identifier) => {
                let tag = SingleVlanHeader {
                    vlan_id: VlanId::try_new(identifier).expect("12 bits"),
                    ..Default::default()
                };
                link.vlan(VlanHeader::Single(tag)).ip(self.ip.clone())
            }
        };
        let mut frame = Vec::new();
        let written = match &self.transport {
            TransportHeader::Tcp(header) => ip
                .tcp_header(TcpHeader::clone(header))
                .write(&mut frame, payload),
            TransportHeader::Udp(source, destination) => {
                ip.udp(*source, *destination).write(&mut frame, payload)
            }
        };
        written.expect("the payload fits IP's length");
        frame
    }
}

fn ipv4(source: [u8; 4], destination: [u8; 4]) -> IpHeaders {
    let mut header =
        Ipv4Header::new(0, 64, ip_number::TCP, source, destination).expect("no payload");
    header.identification = 0x1234;
    IpHeaders::Ipv4(header, Default::default())
}

fn ipv6(source: [u8; 16], destination: [u8; 16]) -> IpHeaders {
    let header = Ipv6Header {
        source,
        destination,
        hop_limit: 64,
        ..Default::default()
    };
    IpHeaders::Ipv6(header, Default::default())
}

fn tcp(source: u16, destination: u16) -> TransportHeader {
    let mut header = TcpHeader::new(source, destination, 7, 512);
    header.ack = true;
    header.acknowledgment_number = 9;
    TransportHeader::Tcp(Box::new(header))
}

/// Payload whose bytes encode their position.
#[must_use]
pub fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

/// A broadcast frame of an EtherType for local experiments, which is not parsed.
#[must_use]
pub fn broadcast(payload: &[u8]) -> Vec<u8> {
    [&[0xff; 6][..], &SENDER, &[0x88, 0xb5], payload].concat()
}
