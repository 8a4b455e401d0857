//! What the device does, again: step by step as the standards say it, without any short cut.

use zcnic_device::{
    abi::{FIELD_FLOW_LABEL, FIELD_IP_DST, FIELD_IP_SRC, FIELD_L4_DST, FIELD_L4_SRC, FlowType},
    abi::{Flow, RuleType},
    frame::{Headers, IpVersion, L4Protocol},
    rules::FlowRule,
};
use zerocopy::IntoBytes;

/// The 16-bit ones' complement sum (RFC 1071) of `parts`, each of which starts at an even byte.
pub(crate) fn internet_sum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u64;
    for part in parts {
        for pair in part.chunks(2) {
            sum += u64::from(u16::from_be_bytes([
                pair[0],
                pair.get(1).copied().unwrap_or(0),
            ]));
        }
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A checksum field for this sum. 0 would mean that there is none (RFC 768).
pub(crate) fn checksum(sum: u16) -> u16 {
    match !sum {
        0 => 0xffff,
        value => value,
    }
}

fn put16(frame: &mut [u8], at: usize, value: usize) {
    frame[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// The frames that a frame with these headers is segmented into.
pub(crate) fn segments(frame: &[u8], headers: &Headers, size: usize) -> Vec<Vec<u8>> {
    let (l3, l4) = (headers.l3.expect("IP"), headers.l4.expect("TCP or UDP"));
    let (header, payload) = frame.split_at(headers.payload_offset());
    let last = payload.len().div_ceil(size) - 1;
    let segment = |(index, part): (usize, &[u8])| {
        let mut frame = [header, part].concat();
        let length = frame.len() - l4.offset;
        match l3.version {
            IpVersion::V4 => {
                let id = usize::from(u16::from_be_bytes([
                    frame[l3.offset + 4],
                    frame[l3.offset + 5],
                ]));
                let total = frame.len() - l3.offset;
                put16(&mut frame, l3.offset + 2, total);
                put16(&mut frame, l3.offset + 4, id + index);
                put16(&mut frame, l3.offset + 10, 0);
                let sum = !internet_sum(&[&frame[l3.offset..l4.offset]]);
                put16(&mut frame, l3.offset + 10, sum.into());
            }
            IpVersion::V6 => {
                let length = frame.len() - l3.offset - 40;
                put16(&mut frame, l3.offset + 4, length);
            }
        }
        match l4.protocol {
            L4Protocol::Tcp => {
                let sequence = &mut frame[l4.offset + 4..l4.offset + 8];
                let first = u32::from_be_bytes(sequence.try_into().expect("four bytes"));
                let own = first.wrapping_add((index * size) as u32);
                sequence.copy_from_slice(&own.to_be_bytes());
                if index < last {
                    // FIN and PSH are the last one's.
                    frame[l4.offset + 13] &= !0x09;
                }
                if index > 0 {
                    // CWR is the first one's.
                    frame[l4.offset + 13] &= !0x80;
                }
            }
            L4Protocol::Udp => put16(&mut frame, l4.offset + 4, length),
        }
        let field = l4.offset + l4.protocol.checksum_offset();
        put16(&mut frame, field, 0);
        let addresses = match l3.version {
            IpVersion::V4 => l3.offset + 12..l3.offset + 20,
            IpVersion::V6 => l3.offset + 8..l3.offset + 40,
        };
        let pseudo = (length as u32 + u32::from(l4.protocol.number())).to_be_bytes();
        let sum = internet_sum(&[&frame[addresses], &pseudo, &frame[l4.offset..]]);
        put16(&mut frame, field, checksum(sum).into());
        frame
    };
    payload.chunks(size).enumerate().map(segment).collect()
}

/// Whether a rule matches, field by field.
pub(crate) fn matches(rule: &FlowRule, headers: &Headers, frame: &[u8]) -> bool {
    let protocol = headers.l4.map(|l4| l4.protocol);
    let version = headers.l3.map(|l3| l3.version);
    let (v4, v6) = (
        version == Some(IpVersion::V4),
        version == Some(IpVersion::V6),
    );
    let (tcp, udp) = (
        protocol == Some(L4Protocol::Tcp),
        protocol == Some(L4Protocol::Udp),
    );
    let of_type = match rule.rule_type {
        RuleType::Ether => true,
        RuleType::Ipv4 => v4,
        RuleType::Tcp4 => v4 && tcp,
        RuleType::Udp4 => v4 && udp,
        RuleType::Ipv6 => v6,
        RuleType::Tcp6 => v6 && tcp,
        RuleType::Udp6 => v6 && udp,
    };
    // Addresses are compared as soon as both are there.
    if frame.len() < 12 || (rule.mask.vlan_tci.get() != 0 && headers.vlan.is_none()) {
        return false;
    }
    let flow = flow_of(headers, frame);
    let mut bytes = flow
        .as_bytes()
        .iter()
        .zip(rule.mask.as_bytes())
        .zip(rule.value.as_bytes());
    of_type && bytes.all(|((have, mask), value)| have & mask == *value)
}

/// The fields of a frame, zero where it has none.
pub(crate) fn flow_of(headers: &Headers, frame: &[u8]) -> Flow {
    let mut flow = Flow {
        eth_dst: frame[..6].try_into().expect("six bytes"),
        eth_src: frame[6..12].try_into().expect("six bytes"),
        eth_type: headers.ether_type.into(),
        vlan_tci: headers.vlan.unwrap_or(0).into(),
        ..Flow::default()
    };
    if let (Some(l3), Some((source, destination))) = (headers.l3, headers.addresses(frame)) {
        flow.ip_proto = l3.protocol;
        flow.ip_tos = l3.tos;
        flow.ip_src[..source.len()].copy_from_slice(source);
        flow.ip_dst[..destination.len()].copy_from_slice(destination);
    }
    if let Some(l4) = headers.l4 {
        flow.l4_src = l4.source_port.into();
        flow.l4_dst = l4.destination_port.into();
    }
    flow
}

/// The flow type of a frame, if it is IP.
pub(crate) fn flow_type(headers: &Headers) -> Option<FlowType> {
    let version = headers.l3?.version;
    Some(match (version, headers.l4.map(|l4| l4.protocol)) {
        (IpVersion::V4, None) => FlowType::Ipv4,
        (IpVersion::V4, Some(L4Protocol::Tcp)) => FlowType::Tcp4,
        (IpVersion::V4, Some(L4Protocol::Udp)) => FlowType::Udp4,
        (IpVersion::V6, None) => FlowType::Ipv6,
        (IpVersion::V6, Some(L4Protocol::Tcp)) => FlowType::Tcp6,
        (IpVersion::V6, Some(L4Protocol::Udp)) => FlowType::Udp6,
    })
}

/// The hash input of a frame: these fields in the order of "Verifying the RSS Hash Calculation".
pub(crate) fn hash_input(headers: &Headers, frame: &[u8], fields: u16) -> Vec<u8> {
    let mut input = Vec::new();
    let mut add = |field, bytes: &[u8]| {
        if fields & field != 0 {
            input.extend_from_slice(bytes);
        }
    };
    let (source, destination) = headers.addresses(frame).expect("IP");
    add(FIELD_IP_SRC, source);
    add(FIELD_IP_DST, destination);
    if let Some(l4) = headers.l4 {
        add(FIELD_L4_SRC, &l4.source_port.to_be_bytes());
        add(FIELD_L4_DST, &l4.destination_port.to_be_bytes());
    }
    let label = headers.l3.expect("IP").flow_label;
    add(FIELD_FLOW_LABEL, &label.to_be_bytes());
    input
}
