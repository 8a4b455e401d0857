//! The driver's end of a transmit ring: frames, and commands on the command pair's ring.

use std::collections::VecDeque;

use zcnic_device::abi::{self, GsoType};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use crate::{
    guest::{Buffer, Guest},
    ring::{Piece, Ring, table_length},
    verify,
};

/// A frame and its offloads.
#[derive(Clone, Debug)]
pub struct Packet {
    /// The frame.
    pub frame: Vec<u8>,
    /// The transmit header.
    pub header: abi::TxHeader,
    /// Lengths of the descriptors, repeated as often as needed; empty: one descriptor.
    pub pieces: Vec<usize>,
    /// Whether the descriptors are in an indirect table.
    pub indirect: bool,
    /// Bytes of a device-writable descriptor at the end, if there is one.
    pub room: Option<usize>,
}

impl From<Vec<u8>> for Packet {
    fn from(frame: Vec<u8>) -> Self {
        Self {
            frame,
            header: abi::TxHeader::new_zeroed(),
            pieces: Vec::new(),
            indirect: false,
            room: None,
        }
    }
}

impl From<&[u8]> for Packet {
    fn from(frame: &[u8]) -> Self {
        Self::from(frame.to_vec())
    }
}

impl From<&Vec<u8>> for Packet {
    fn from(frame: &Vec<u8>) -> Self {
        Self::from(frame.clone())
    }
}

impl Packet {
    /// Leaves the TCP or UDP checksum to the device, as Linux does with `CHECKSUM_PARTIAL`.
    ///
    /// # Panics
    ///
    /// The frame is neither TCP nor UDP.
    #[must_use]
    pub fn checksum(mut self) -> Self {
        let l4 = verify::dissect(&self.frame).l4.expect("TCP or UDP");
        let partial = verify::partial_checksum(&self.frame).expect("TCP or UDP");
        let field = l4.start + l4.checksum;
        self.frame[field..field + 2].copy_from_slice(&partial);
        self.header.flags |= abi::TX_CSUM;
        self.header.csum_start = (l4.start as u16).into();
        self.header.csum_offset = (l4.checksum as u16).into();
        self
    }

    /// Requests segmentation of the payload into segments of `size` bytes.
    ///
    /// # Panics
    ///
    /// The frame is neither TCP nor UDP.
    #[must_use]
    pub fn segmented(mut self, size: u16) -> Self {
        let parts = verify::dissect(&self.frame);
        let ((l3, _), l4) = (parts.l3.expect("IP"), parts.l4.expect("TCP or UDP"));
        let is_v4 = self.frame[l3] >> 4 == 4;
        let gso_type = match (l4.checksum, is_v4) {
            (16, true) => GsoType::Tcp4,
            (16, false) => GsoType::Tcp6,
            _ => GsoType::Udp,
        };
        self = self.checksum();
        self.header.gso_type = gso_type.into();
        self.header.gso_size = size.into();
        self.header.header_length = (l4.end as u16).into();
        self.header.l3_offset = (l3 as u16).into();
        self
    }

    /// Scatters header and frame over descriptors of these lengths, repeated as often as needed.
    #[must_use]
    pub fn scattered(mut self, pieces: &[usize]) -> Self {
        self.pieces = pieces.to_vec();
        self
    }

    /// Puts the descriptors into an indirect table.
    #[must_use]
    pub fn indirect(mut self) -> Self {
        self.indirect = true;
        self
    }

    /// Asks for a transmit timestamp.
    #[must_use]
    pub fn timestamped(mut self) -> Self {
        self.header.flags |= abi::TX_TIMESTAMP;
        self.room = Some(size_of::<abi::TxTime>());
        self
    }

    /// The header for a plain virtio-net device: `struct virtio_net_hdr_mrg_rxbuf`.
    fn virtio_net_header(&self) -> [u8; 12] {
        let header = &self.header;
        let mut bytes = [0; 12];
        bytes[0] = (header.flags.get() & abi::TX_CSUM) as u8;
        bytes[1] = match GsoType::try_from(header.gso_type) {
            Ok(GsoType::Tcp4) => 1,
            Ok(GsoType::Tcp6) => 4,
            Ok(GsoType::Udp) => 5,
            _ => 0,
        };
        bytes[2..4].copy_from_slice(header.header_length.as_bytes());
        bytes[4..6].copy_from_slice(header.gso_size.as_bytes());
        bytes[6..8].copy_from_slice(header.csum_start.as_bytes());
        bytes[8..10].copy_from_slice(header.csum_offset.as_bytes());
        bytes
    }

    fn bytes(&self, plain: bool) -> Vec<u8> {
        if plain {
            [&self.virtio_net_header(), &self.frame[..]].concat()
        } else {
            [self.header.as_bytes(), &self.frame].concat()
        }
    }
}

/// The driver's record of a transmit chain.
#[derive(Debug)]
pub struct TransmitChain {
    /// Readable buffers and their content.
    readable: Vec<(Buffer, Vec<u8>)>,
    /// Whether it is a command, not a frame.
    command: bool,
    /// The writable buffer, for a response or a timestamp.
    response: Option<Buffer>,
    /// The indirect table.
    table: Option<Buffer>,
}

/// A transmit ring.
#[derive(Debug)]
pub struct TransmitQueue {
    ring: Ring<TransmitChain>,
    /// Responses in the order of their commands; empty: the command was not executed.
    responses: VecDeque<Vec<u8>>,
    /// Commands in flight whose responses are not awaited any more.
    abandoned: usize,
    /// Transmit timestamps of frames that asked; `None`: the device wrote none.
    times: VecDeque<Option<u64>>,
    completed: u64,
}

impl TransmitQueue {
    /// A queue on a ring of `size` descriptors.
    pub fn new(guest: &mut Guest, size: u16) -> Self {
        Self {
            ring: Ring::new(guest, size),
            responses: VecDeque::new(),
            abandoned: 0,
            times: VecDeque::new(),
            completed: 0,
        }
    }

    /// Its ring.
    #[must_use]
    pub fn ring(&self) -> &Ring<TransmitChain> {
        &self.ring
    }

    /// Chains that the device has.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.ring.outstanding()
    }

    /// Frames completed so far, whether sent or not.
    #[must_use]
    pub fn completed(&self) -> u64 {
        self.completed
    }

    /// The device died. Poisons response buffers again: it may have written to them, and another
    /// one must not. Commands in flight are abandoned: the next device answers them as stale.
    pub fn abandon_commands(&mut self, guest: &Guest) {
        for buffer in self.ring.tokens().filter_map(|chain| chain.response) {
            guest.clear(buffer);
        }
        self.responses.clear();
        self.abandoned = self.ring.tokens().filter(|chain| chain.command).count();
    }

    /// Adds a frame; returns whether the ring had room for it.
    pub fn add(&mut self, guest: &mut Guest, packet: &Packet, plain: bool) -> bool {
        let bytes = packet.bytes(plain);
        let mut sizes = packet.pieces.iter().copied().cycle();
        let mut readable = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let here = sizes.next().unwrap_or(rest.len()).clamp(1, rest.len());
            let (piece, behind) = rest.split_at(here);
            readable.push(piece);
            rest = behind;
        }
        let descriptors = readable.len() + usize::from(packet.room.is_some());
        let needed = if packet.indirect { 1 } else { descriptors };
        if needed > self.ring.room() {
            return false;
        }
        self.add_chain(guest, &readable, packet.room, packet.indirect, false);
        true
    }

    /// Adds a command whose request is in `pieces`, with `room` bytes for the response.
    pub fn add_command(&mut self, guest: &mut Guest, pieces: &[&[u8]], room: usize) {
        self.add_chain(guest, pieces, Some(room), false, true);
    }

    /// Makes the added chains available; returns whether the device wants a kick.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Takes all chains that the device completed.
    ///
    /// # Panics
    ///
    /// The device wrote to a readable buffer, wrote beyond a response's used length, or returned a
    /// frame with a used length.
    pub fn reap(&mut self, guest: &mut Guest) {
        while let Some((length, chain)) = self.ring.take() {
            for (buffer, sent) in chain.readable {
                assert_eq!(
                    guest.read(buffer, sent.len()),
                    sent,
                    "the device wrote to a request"
                );
                guest.assert_untouched(buffer, sent.len());
                guest.free(buffer);
            }
            if let Some(table) = chain.table {
                guest.free(table);
            }
            let length = length as usize;
            match chain.response {
                None => {
                    assert_eq!(
                        length, 0,
                        "the device wrote to a chain without writable part"
                    );
                    self.completed += 1;
                }
                Some(buffer) => {
                    assert!(
                        length <= buffer.length,
                        "used length {length} exceeds the buffer"
                    );
                    guest.assert_untouched(buffer, length);
                    let written = guest.read(buffer, length);
                    guest.free(buffer);
                    if chain.command && self.abandoned > 0 {
                        self.abandoned -= 1;
                    } else if chain.command {
                        self.responses.push_back(written);
                    } else {
                        self.times.push_back(time(&written));
                        self.completed += 1;
                    }
                }
            }
        }
    }

    /// The transmit timestamp of the oldest frame that asked for one and was not taken yet; `None`:
    /// the device wrote none.
    pub fn take_time(&mut self) -> Option<u64> {
        self.times.pop_front().flatten()
    }

    /// The oldest response that was not taken yet.
    pub fn take_response(&mut self) -> Option<Vec<u8>> {
        self.responses.pop_front()
    }

    /// Its ring, for tests that misuse it.
    pub fn ring_mut(&mut self) -> &mut Ring<TransmitChain> {
        &mut self.ring
    }

    fn add_chain(
        &mut self,
        guest: &mut Guest,
        parts: &[&[u8]],
        room: Option<usize>,
        indirect: bool,
        command: bool,
    ) {
        let readable: Vec<(Buffer, Vec<u8>)> = parts
            .iter()
            .map(|part| {
                let buffer = guest.allocate(part.len().next_multiple_of(64));
                guest.write(buffer, part);
                (buffer, part.to_vec())
            })
            .collect();
        let mut pieces: Vec<Piece> = readable
            .iter()
            .map(|(buffer, bytes)| piece(buffer, bytes.len(), false))
            .collect();
        let response = room.map(|room| guest.allocate(room));
        pieces.extend(
            response
                .iter()
                .map(|buffer| piece(buffer, buffer.length, true)),
        );
        let table = indirect.then(|| guest.allocate(table_length(pieces.len())));
        let at = table.map(|buffer| buffer.address);
        self.ring.add(
            &pieces,
            at,
            TransmitChain {
                readable,
                command,
                response,
                table,
            },
        );
    }
}

/// The transmit timestamp written by the device.
fn time(written: &[u8]) -> Option<u64> {
    if written.is_empty() {
        return None;
    }
    let time = abi::TxTime::read_from_bytes(written).expect("the whole time");
    assert_eq!(
        abi::reserved_bits(&time),
        None,
        "reserved fields of {time:?}"
    );
    Some(time.timestamp_ns.get())
}

pub(crate) fn piece(buffer: &Buffer, length: usize, writable: bool) -> Piece {
    Piece {
        address: buffer.address,
        length: length as u32,
        writable,
    }
}
