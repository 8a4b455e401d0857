//! Receive side scaling: the Toeplitz hash, its input, and the indirection table.

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::U16;

use crate::abi::{
    FIELD_FLOW_LABEL, FIELD_IP_DST, FIELD_IP_SRC, FIELD_L4_DST, FIELD_L4_SRC, FLOW_TYPES, FlowType,
    HashType, Invalid, RSS_KEY_SIZE, RssSet, RssSymmetric,
};
use crate::frame::{Headers, IpVersion, L4Protocol};
use crate::limits::MAX_RSS_TABLE;

/// Default hash input per flow type: addresses, and ports where there are any.
pub const DEFAULT_FIELDS: [u16; FLOW_TYPES] = [IP, IP | L4, IP | L4, IP, IP | L4, IP | L4, 0, 0];

/// The key of Microsoft's "Verifying the RSS Hash Calculation", which covers every input but a flow
/// label.
pub const DEFAULT_KEY: [u8; RSS_KEY_SIZE] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

const IP: u16 = FIELD_IP_SRC | FIELD_IP_DST;
const L4: u16 = FIELD_L4_SRC | FIELD_L4_DST;

/// The longest part of the input, an IPv6 address.
const MAX_PART: usize = 16;
/// The longest input: two IPv6 addresses, two ports and a flow label.
const MAX_INPUT: usize = 2 * MAX_PART + 2 * 2 + 4;
const _: () = assert!(MAX_INPUT + size_of::<u32>() <= RSS_KEY_SIZE);

/// The Toeplitz hash with one key, as tables of each input byte's contribution.
///
/// ```
/// use zcnic_device::rss::{DEFAULT_KEY, Toeplitz};
///
/// // The first vector of "Verifying the RSS Hash Calculation": 66.9.149.187 to 161.142.100.80.
/// let toeplitz = Toeplitz::new(&DEFAULT_KEY);
/// assert_eq!(toeplitz.hash(&[66, 9, 149, 187, 161, 142, 100, 80]), 0x323e_8fc2);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toeplitz {
    bytes: Box<[[u32; 256]; MAX_INPUT]>,
}

impl Toeplitz {
    /// Prepares `key`.
    #[must_use]
    pub fn new(key: &[u8; RSS_KEY_SIZE]) -> Self {
        let mut bytes = Box::new([[0; 256]; MAX_INPUT]);
        for (position, table) in bytes.iter_mut().enumerate() {
            // One window per bit, the lowest bit first.
            let windows: [u32; 8] =
                std::array::from_fn(|bit| key_window(key, position * 8 + 7 - bit));
            for byte in 1..table.len() {
                // All bits but the lowest set one, and that one.
                table[byte] = table[byte & (byte - 1)] ^ windows[byte.trailing_zeros() as usize];
            }
        }
        Self { bytes }
    }

    /// The hash of the first 40 bytes of `input`: no NIC hashes more.
    #[must_use]
    pub fn hash(&self, input: &[u8]) -> u32 {
        self.hash_at(0, input)
    }

    /// The contribution of `bytes` at `position` of the input.
    #[inline]
    fn hash_at(&self, position: usize, bytes: &[u8]) -> u32 {
        let tables = self.bytes.get(position..).unwrap_or_default();
        let contributions = bytes.iter().zip(tables);
        contributions.fold(0, |hash, (byte, table)| hash ^ table[usize::from(*byte)])
    }
}

/// The 32 bits of `key` that start at `bit`.
fn key_window(key: &[u8; RSS_KEY_SIZE], bit: usize) -> u32 {
    let mut window = 0u64;
    for index in 0..5 {
        window = window << 8 | u64::from(key.get(bit / 8 + index).copied().unwrap_or(0));
    }
    (window >> (8 - bit % 8)) as u32
}

/// A receive hash and the fields that it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash {
    /// The Toeplitz hash.
    pub value: u32,
    /// The fields that it covers: an L4 type only with ports. Never [`HashType::None`].
    pub kind: HashType,
}

/// One RSS context: hash key, hash input and indirection table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RssContext {
    toeplitz: Toeplitz,
    inputs: [Input; FLOW_TYPES],
    symmetric: RssSymmetric,
    /// Queues; the length is a power of two.
    table: Vec<u16>,
}

impl RssContext {
    fn new(
        key: &[u8; RSS_KEY_SIZE],
        fields: [u16; FLOW_TYPES],
        symmetric: RssSymmetric,
        table: Vec<u16>,
    ) -> Self {
        let input = |flow: usize| Input::new(flow as u8, fields[flow], symmetric);
        Self {
            toeplitz: Toeplitz::new(key),
            inputs: std::array::from_fn(input),
            symmetric,
            table,
        }
    }

    /// The context before RSS_SET: no hash, all frames to queue 0.
    #[must_use]
    pub fn unset() -> Self {
        let (key, fields) = ([0; RSS_KEY_SIZE], [0; FLOW_TYPES]);
        Self::new(&key, fields, RssSymmetric::Asymmetric, vec![0])
    }

    /// A context with a fixed key that spreads flows over the first `queues` queues (at least one).
    #[must_use]
    pub fn spread(queues: u16) -> Self {
        let queues = queues.max(1);
        let entries = queues
            .saturating_mul(4)
            .checked_next_power_of_two()
            .map_or(MAX_RSS_TABLE, |entries| entries.clamp(8, MAX_RSS_TABLE));
        let table = (0..entries).map(|entry| entry % queues).collect();
        let symmetric = RssSymmetric::Asymmetric;
        Self::new(&DEFAULT_KEY, DEFAULT_FIELDS, symmetric, table)
    }

    /// The context that RSS_SET asks for, on a device with `queues` data queues.
    ///
    /// # Errors
    /// The invalid field: unknown bits or values, ports or a flow label for a flow type without
    /// them, a table that is empty, longer than [`MAX_RSS_TABLE`], not a power of two or with a
    /// queue that does not exist. A symmetric transform takes addresses and ports in pairs and no
    /// other field (as kernel `ethtool_check_xfrm_rxfh()` demands).
    pub fn from_request(set: &RssSet, table: &[U16], queues: u16) -> Result<Self, Invalid> {
        let refuse = |offset| Err(Invalid { offset });
        let Ok(symmetric) = RssSymmetric::try_from(set.symmetric.get()) else {
            return refuse(offset_of!(RssSet, symmetric));
        };
        if !table.len().is_power_of_two() || table.len() > usize::from(MAX_RSS_TABLE) {
            return refuse(offset_of!(RssSet, table_length));
        }
        for (index, fields) in set.fields.iter().enumerate() {
            if !fields_are_valid(index, fields.get(), symmetric) {
                return refuse(offset_of!(RssSet, fields) + index * size_of::<U16>());
            }
        }
        if let Some(index) = table.iter().position(|queue| queue.get() >= queues) {
            return refuse(size_of::<RssSet>() + index * size_of::<U16>());
        }
        let table = table.iter().map(|queue| queue.get()).collect();
        Ok(Self::new(
            &set.key,
            set.fields.map(U16::get),
            symmetric,
            table,
        ))
    }

    /// The hash of a frame; `None` if it is not IP or its flow type has no fields.
    #[must_use]
    #[inline]
    pub fn hash(&self, headers: &Headers, header_bytes: &[u8]) -> Option<Hash> {
        let flow = flow_type(headers)?;
        let input = self.inputs.get(usize::from(u8::from(flow)))?;
        let value = match (input.is_common, headers.l4) {
            // The usual input, in runs whose length the compiler knows.
            (true, Some(l4)) if let Some(addresses) = headers.addresses_v4(header_bytes) => {
                let ([s0, s1], [d0, d1]) = (
                    l4.source_port.to_be_bytes(),
                    l4.destination_port.to_be_bytes(),
                );
                let ports = [s0, s1, d0, d1];
                self.toeplitz.hash_at(0, addresses) ^ self.toeplitz.hash_at(8, &ports)
            }
            _ => self.hash_any(input.fields, headers, header_bytes)?,
        };
        let kind = input.kind;
        Some(Hash { value, kind })
    }

    /// The hash over any `fields`; `None` without fields.
    #[inline(never)]
    fn hash_any(&self, fields: u16, headers: &Headers, header_bytes: &[u8]) -> Option<u32> {
        if fields == 0 {
            return None;
        }
        let wants = |field| fields & field != 0;
        let (source, destination) = headers.addresses(header_bytes)?;
        let mut sum = Sum {
            toeplitz: &self.toeplitz,
            symmetric: self.symmetric,
            length: 0,
            hash: 0,
        };
        let wanted = (wants(FIELD_IP_SRC), wants(FIELD_IP_DST));
        sum.add_pair(source, destination, wanted);
        if let Some(l4) = headers.l4 {
            let source = l4.source_port.to_be_bytes();
            let destination = l4.destination_port.to_be_bytes();
            let wanted = (wants(FIELD_L4_SRC), wants(FIELD_L4_DST));
            sum.add_pair(&source, &destination, wanted);
        }
        if wants(FIELD_FLOW_LABEL) {
            sum.add(&headers.l3?.flow_label.to_be_bytes());
        }
        Some(sum.hash)
    }

    /// The queue for a frame with this hash; without one, that of table entry 0.
    #[must_use]
    #[inline]
    pub fn queue(&self, hash: Option<Hash>) -> u16 {
        let value = hash.map_or(0, |hash| hash.value) as usize;
        let entry = value & self.table.len().saturating_sub(1);
        self.table.get(entry).copied().unwrap_or(0)
    }

    /// The hash input of flow types that have any.
    pub fn fields(&self) -> impl Iterator<Item = (FlowType, u16)> {
        let inputs = self.inputs.iter().enumerate();
        let chosen = inputs.filter(|(_, input)| input.fields != 0);
        chosen
            .filter_map(|(flow, input)| Some((FlowType::try_from(flow as u8).ok()?, input.fields)))
    }

    /// The symmetric transform.
    #[must_use]
    pub fn symmetric(&self) -> RssSymmetric {
        self.symmetric
    }

    /// The indirection table.
    #[must_use]
    pub fn table(&self) -> &[u16] {
        &self.table
    }

    /// The highest queue in the table.
    #[must_use]
    pub fn highest_queue(&self) -> u16 {
        self.table.iter().copied().max().unwrap_or(0)
    }
}

/// The hash input of one flow type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Input {
    fields: u16,
    /// The reported hash type.
    kind: HashType,
    /// The input is addresses and ports, untransformed.
    is_common: bool,
}

impl Input {
    fn new(flow: u8, fields: u16, symmetric: RssSymmetric) -> Self {
        let with_ports = fields & L4 != 0;
        let kind = match FlowType::try_from(flow) {
            Ok(FlowType::Tcp4) if with_ports => HashType::Tcp4,
            Ok(FlowType::Udp4) if with_ports => HashType::Udp4,
            Ok(FlowType::Tcp6) if with_ports => HashType::Tcp6,
            Ok(FlowType::Udp6) if with_ports => HashType::Udp6,
            Ok(FlowType::Ipv4 | FlowType::Tcp4 | FlowType::Udp4) => HashType::Ipv4,
            Ok(FlowType::Ipv6 | FlowType::Tcp6 | FlowType::Udp6) => HashType::Ipv6,
            Err(_) => HashType::None,
        };
        Self {
            fields,
            kind,
            is_common: fields == IP | L4 && symmetric == RssSymmetric::Asymmetric,
        }
    }
}

/// The hash of addresses, ports and flow label, in this order.
struct Sum<'c> {
    toeplitz: &'c Toeplitz,
    symmetric: RssSymmetric,
    /// Bytes added.
    length: usize,
    hash: u32,
}

impl Sum<'_> {
    #[inline]
    fn add(&mut self, bytes: &[u8]) {
        self.hash ^= self.toeplitz.hash_at(self.length, bytes);
        self.length += bytes.len();
    }

    /// Adds source and destination as far as wanted, transformed if both are.
    #[inline]
    fn add_pair(&mut self, source: &[u8], destination: &[u8], wanted: (bool, bool)) {
        let combinations: [fn(u8, u8) -> u8; 2] = match (wanted, self.symmetric) {
            ((true, true), RssSymmetric::SymXor) => [|a, b| a ^ b, |a, b| a ^ b],
            ((true, true), RssSymmetric::SymOrXor) => [|a, b| a | b, |a, b| a ^ b],
            ((with_source, with_destination), _) => {
                if with_source {
                    self.add(source);
                }
                if with_destination {
                    self.add(destination);
                }
                return;
            }
        };
        for combine in combinations {
            let mut bytes = [0; MAX_PART];
            for ((to, a), b) in bytes.iter_mut().zip(source).zip(destination) {
                *to = combine(*a, *b);
            }
            self.add(&bytes[..source.len().min(MAX_PART)]);
        }
    }
}

/// The flow type of a frame; `None` if it is not IP.
#[inline]
fn flow_type(headers: &Headers) -> Option<FlowType> {
    let [other, tcp, udp] = match headers.l3?.version {
        IpVersion::V4 => [FlowType::Ipv4, FlowType::Tcp4, FlowType::Udp4],
        IpVersion::V6 => [FlowType::Ipv6, FlowType::Tcp6, FlowType::Udp6],
    };
    Some(match headers.l4 {
        None => other,
        Some(l4) if l4.protocol == L4Protocol::Tcp => tcp,
        Some(_) => udp,
    })
}

/// Whether entry `index` of the fields may be `fields`.
fn fields_are_valid(index: usize, fields: u16, symmetric: RssSymmetric) -> bool {
    let Some(flow) = u8::try_from(index)
        .ok()
        .and_then(|index| FlowType::try_from(index).ok())
    else {
        return fields == 0;
    };
    let allowed = match flow {
        FlowType::Ipv4 => IP,
        FlowType::Tcp4 | FlowType::Udp4 => IP | L4,
        FlowType::Ipv6 => IP | FIELD_FLOW_LABEL,
        FlowType::Tcp6 | FlowType::Udp6 => IP | L4 | FIELD_FLOW_LABEL,
    };
    let paired = |pair| matches!(fields & pair, both if both == 0 || both == pair);
    let symmetric_fits = symmetric == RssSymmetric::Asymmetric
        || (paired(IP) && paired(L4) && fields & FIELD_FLOW_LABEL == 0);
    fields & !allowed == 0 && symmetric_fits
}

#[cfg(test)]
mod tests;
