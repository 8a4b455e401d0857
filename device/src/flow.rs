//! Patterns of addresses and ports, which select the frames of flow counters and fault rules.

use std::net::IpAddr;

use crate::frame::{Headers, L4Protocol};

/// A flow: a frame matches if every given field does. Fragments have no ports and no protocol.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowPattern {
    /// TCP or UDP.
    pub protocol: Option<L4Protocol>,
    /// Source IP address.
    pub source: Option<IpAddr>,
    /// Destination IP address.
    pub destination: Option<IpAddr>,
    /// Source port.
    pub source_port: Option<u16>,
    /// Destination port.
    pub destination_port: Option<u16>,
}

impl FlowPattern {
    /// Whether the frame with these headers, parsed from `header_bytes`, matches.
    #[must_use]
    pub fn matches(&self, headers: &Headers, header_bytes: &[u8]) -> bool {
        let address = |bytes: &[u8]| -> Option<IpAddr> {
            <[u8; 4]>::try_from(bytes)
                .map(IpAddr::from)
                .or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
                .ok()
        };
        let addresses = headers.addresses(header_bytes);
        let is = |wanted: Option<IpAddr>, bytes: Option<&[u8]>| {
            wanted.is_none_or(|wanted| bytes.and_then(address) == Some(wanted))
        };
        let l4 = headers.l4;
        let port = |wanted: Option<u16>, port: Option<u16>| {
            wanted.is_none_or(|wanted| port == Some(wanted))
        };
        is(self.source, addresses.map(|(source, _)| source))
            && is(
                self.destination,
                addresses.map(|(_, destination)| destination),
            )
            && self
                .protocol
                .is_none_or(|wanted| l4.map(|l4| l4.protocol) == Some(wanted))
            && port(self.source_port, l4.map(|l4| l4.source_port))
            && port(self.destination_port, l4.map(|l4| l4.destination_port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{tcp4, udp6};

    #[test]
    fn every_field_of_a_pattern_counts() {
        let frame = tcp4(&[1, 2, 3]);
        let headers = Headers::parse(&frame, frame.len());
        let matches = |pattern: &FlowPattern| pattern.matches(&headers, &frame);
        let whole = FlowPattern {
            protocol: Some(L4Protocol::Tcp),
            source: Some([192, 0, 2, 2].into()),
            destination: Some([192, 0, 2, 1].into()),
            source_port: Some(1000),
            destination_port: Some(2000),
        };
        assert!(matches(&FlowPattern::default()) && matches(&whole));
        for other in [
            FlowPattern {
                protocol: Some(L4Protocol::Udp),
                ..whole
            },
            FlowPattern {
                source: whole.destination,
                ..whole
            },
            FlowPattern {
                destination: whole.source,
                ..whole
            },
            FlowPattern {
                source_port: Some(2000),
                ..whole
            },
            FlowPattern {
                destination_port: Some(1000),
                ..whole
            },
        ] {
            assert!(!matches(&other), "{other:?}");
        }
        let v6 = udp6(&[]);
        let pattern = FlowPattern {
            source: "2001:db8::2".parse().ok(),
            ..FlowPattern::default()
        };
        assert!(pattern.matches(&Headers::parse(&v6, v6.len()), &v6));
    }
}
