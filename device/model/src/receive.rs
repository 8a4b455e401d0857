//! The driver's end of a receive ring. Each returned chain is checked against docs/abi.md,
//! "Receive"; violations panic.

use std::collections::VecDeque;

use zcnic_device::abi::{self, RxHeader};
use zerocopy::FromBytes;

use crate::{
    guest::{Buffer, Guest},
    ring::Ring,
    transmit::piece,
    verify,
};

const RX_HEADER: usize = size_of::<RxHeader>();
const VIRTIO_NET_HEADER: usize = 12;
const KNOWN_FLAGS: u16 = abi::RX_FIRST
    | abi::RX_LAST
    | abi::RX_SPLIT
    | abi::RX_CSUM_GOOD
    | abi::RX_CSUM_BAD
    | abi::RX_AGGREGATED
    | abi::RX_FIXED_ID
    | abi::RX_FIXED_ID_INNER
    | abi::RX_TIMESTAMP
    | abi::RX_VLAN;

/// The shape of a receive queue's chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One descriptor.
    Linear {
        /// Its length.
        size: u32,
    },
    /// A header fragment and a payload buffer.
    Split {
        /// Length of descriptor 0.
        header_size: u32,
        /// Length of descriptor 1.
        page_size: u32,
        /// Longer frames are split.
        threshold: u32,
    },
    /// Mergeable buffers of a plain virtio-net driver.
    VirtioNet {
        /// Length of the one descriptor.
        size: u32,
    },
    /// Event buffers of the command pair.
    Event,
}

impl Shape {
    /// The driver's default shape: room for headers, one page, all frames are split.
    pub const SPLIT: Self = Self::Split {
        header_size: 256,
        page_size: 4096,
        threshold: 0,
    };

    /// Linear chains.
    #[must_use]
    pub fn linear(size: u32) -> Self {
        Self::Linear { size }
    }

    /// Split chains; all frames are split.
    #[must_use]
    pub fn split(header_size: u32, page_size: u32) -> Self {
        Self::Split {
            header_size,
            page_size,
            threshold: 0,
        }
    }

    /// Split chains for frames longer than `bytes`.
    #[must_use]
    pub fn threshold(self, bytes: u32) -> Self {
        match self {
            Self::Split {
                header_size,
                page_size,
                ..
            } => Self::Split {
                header_size,
                page_size,
                threshold: bytes,
            },
            other => other,
        }
    }

    /// Lengths of the descriptors of one chain.
    #[must_use]
    pub fn lengths(self) -> Vec<usize> {
        match self {
            Self::Linear { size } | Self::VirtioNet { size } => vec![size as usize],
            Self::Split {
                header_size,
                page_size,
                ..
            } => {
                vec![header_size as usize, page_size as usize]
            }
            Self::Event => vec![size_of::<abi::Event>()],
        }
    }
}

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// Its bytes.
    pub frame: Vec<u8>,
    /// The receive header of its first chain; from a plain device zero but for flags.
    pub header: RxHeader,
    /// Number of its chains.
    pub chains: usize,
}

impl Received {
    /// Offset of the split; `None` if the frame was not split.
    #[must_use]
    pub fn split_at(&self) -> Option<usize> {
        (self.header.flags.get() & abi::RX_SPLIT != 0)
            .then_some(self.header.header_length.get() as usize)
    }

    /// The VLAN tag that was stripped.
    #[must_use]
    pub fn tag(&self) -> Option<u16> {
        (self.header.flags.get() & abi::RX_VLAN != 0).then_some(self.header.vlan_tci.get())
    }

    /// The verdict on its checksum: `true` is valid.
    ///
    /// # Panics
    ///
    /// It is both good and bad.
    #[must_use]
    pub fn checksum(&self) -> Option<bool> {
        match self.header.flags.get() & (abi::RX_CSUM_GOOD | abi::RX_CSUM_BAD) {
            0 => None,
            abi::RX_CSUM_GOOD => Some(true),
            abi::RX_CSUM_BAD => Some(false),
            _ => panic!("a checksum is both good and bad"),
        }
    }
}

/// The verdicts on checksums that a driver expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedVerdict {
    /// No verdicts.
    None,
    /// The verdicts of etherparse.
    Valid,
    /// Any verdicts.
    Any,
}

/// Chains that were returned unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Returned {
    /// Of the queue's shape, or on a stopped queue.
    pub right: u32,
    /// Of another shape.
    pub wrong: u32,
}

/// A receive ring.
#[derive(Debug)]
pub struct ReceiveQueue {
    number: u16,
    ring: Ring<Vec<Buffer>>,
    /// The shape from RXQ_START; `None` while the device must not use a buffer.
    shape: Option<Shape>,
    next_frame: Option<u32>,
    frames: VecDeque<Received>,
    events: VecDeque<abi::Event>,
    returned: Returned,
    /// The expected verdicts on checksums.
    pub(crate) expected_verdict: ExpectedVerdict,
    /// Whether frames have receive timestamps; `None`: either.
    pub(crate) timestamped: Option<bool>,
    /// The last receive timestamp.
    last: u64,
}

/// One chain of a frame.
struct Part {
    header: RxHeader,
    /// Frame bytes behind the header, and in descriptor 1.
    bytes: [Vec<u8>; 2],
}

impl ReceiveQueue {
    /// A queue on a ring of `size` descriptors.
    pub fn new(guest: &mut Guest, number: u16, size: u16) -> Self {
        Self {
            number,
            ring: Ring::new(guest, size),
            shape: None,
            next_frame: None,
            frames: VecDeque::new(),
            events: VecDeque::new(),
            returned: Returned::default(),
            expected_verdict: ExpectedVerdict::None,
            timestamped: Some(false),
            last: 0,
        }
    }

    /// Its ring.
    #[must_use]
    pub fn ring(&self) -> &Ring<Vec<Buffer>> {
        &self.ring
    }

    /// Its ring, for tests that misuse it.
    pub fn ring_mut(&mut self) -> &mut Ring<Vec<Buffer>> {
        &mut self.ring
    }

    /// Chains that the device has.
    #[must_use]
    pub fn posted(&self) -> usize {
        self.ring.outstanding()
    }

    /// Sets the shape of chains that the device fills from now on; `None`: it fills none.
    pub fn set_shape(&mut self, shape: Option<Shape>) {
        self.shape = shape;
    }

    /// Accepts any time for the next frame, because the port's clock is stepped.
    pub fn reset_time(&mut self) {
        self.last = 0;
    }

    /// Accepts any number for the next frame, because a new session or device begins.
    pub fn reset_frame_number(&mut self) {
        self.next_frame = None;
    }

    /// Poisons posted buffers again because the device died and may have written to them; another
    /// one must not.
    pub fn clear_posted(&self, guest: &Guest) {
        for buffer in self.ring.tokens().flatten() {
            guest.clear(*buffer);
        }
    }

    /// Posts a chain of writable descriptors of these lengths.
    pub fn add(&mut self, guest: &mut Guest, lengths: &[usize]) {
        let buffers: Vec<Buffer> = lengths
            .iter()
            .map(|length| guest.allocate(*length))
            .collect();
        let pieces: Vec<_> = buffers
            .iter()
            .map(|buffer| piece(buffer, buffer.length, true))
            .collect();
        self.ring.add(&pieces, None, buffers);
    }

    /// Makes the added chains available; returns whether the device wants a kick.
    pub fn publish(&mut self) -> bool {
        self.ring.publish()
    }

    /// Takes a frame that was received and [reaped](Self::reap).
    pub fn take_frame(&mut self) -> Option<Received> {
        self.frames.pop_front()
    }

    /// Takes an event that was received and [reaped](Self::reap).
    pub fn take_event(&mut self) -> Option<abi::Event> {
        self.events.pop_front()
    }

    /// Chains returned unused since the last call.
    pub fn take_returned(&mut self) -> u32 {
        let Returned { right, wrong } = std::mem::take(&mut self.returned);
        right + wrong
    }

    /// Chains returned unused since [`take_returned`](Self::take_returned).
    #[must_use]
    pub fn returned(&self) -> Returned {
        self.returned
    }

    /// Takes and checks all chains that the device returned.
    ///
    /// # Panics
    ///
    /// The device violates docs/abi.md. At any time whole frames must be visible.
    pub fn reap(&mut self, guest: &mut Guest) {
        let mut parts = Vec::new();
        let mut plain_left = 0;
        for _ in 0..self.ring.pending() {
            let (length, buffers) = self.ring.take().expect("pending");
            let length = length as usize;
            if length == 0 {
                for buffer in &buffers {
                    guest.assert_untouched(*buffer, 0);
                }
                let lengths = buffers.iter().map(|buffer| buffer.length);
                match self.shape {
                    Some(shape) if !lengths.eq(shape.lengths()) => self.returned.wrong += 1,
                    _ => self.returned.right += 1,
                }
            } else {
                match self
                    .shape
                    .expect("nothing is written while the queue is stopped")
                {
                    Shape::Event => self.reap_event(guest, length, &buffers),
                    Shape::VirtioNet { .. } => {
                        self.reap_plain(guest, length, &buffers, &mut plain_left);
                    }
                    shape => {
                        parts.push(self.reap_part(guest, shape, length, &buffers, parts.len()));
                        let last = parts.last().expect("just pushed");
                        if last.header.flags.get() & abi::RX_LAST != 0 {
                            self.finish(shape, &std::mem::take(&mut parts));
                        }
                    }
                }
            }
            for buffer in buffers {
                guest.free(buffer);
            }
        }
        assert!(
            parts.is_empty() && plain_left == 0,
            "only a part of a frame is visible"
        );
    }

    fn reap_event(&mut self, guest: &Guest, length: usize, buffers: &[Buffer]) {
        let bytes = guest.read(buffers[0], length);
        guest.assert_untouched(buffers[0], length);
        let event = abi::Event::read_from_bytes(&bytes).expect("an event has its full length");
        assert_eq!(event.magic.get(), abi::MAGIC);
        assert_eq!(abi::reserved_bits(&event), None, "reserved fields are zero");
        self.events.push_back(event);
    }

    fn reap_plain(&mut self, guest: &Guest, length: usize, buffers: &[Buffer], left: &mut u16) {
        let bytes = guest.read(buffers[0], length);
        guest.assert_untouched(buffers[0], length);
        if *left > 0 {
            *left -= 1;
            let frame = self.frames.back_mut().expect("the first chain of a frame");
            frame.frame.extend_from_slice(&bytes);
            frame.chains += 1;
            return;
        }
        let (header, rest) = bytes.split_at(VIRTIO_NET_HEADER);
        assert_eq!(
            header[1..10],
            [0; 9],
            "frames are not aggregated and need no checksum"
        );
        assert_eq!(header[0] & !2, 0, "only DATA_VALID is known");
        *left = u16::from_le_bytes([header[10], header[11]]) - 1;
        let flags = if header[0] == 2 { abi::RX_CSUM_GOOD } else { 0 };
        let header = RxHeader {
            flags: flags.into(),
            ..Default::default()
        };
        self.frames.push_back(Received {
            frame: rest.to_vec(),
            header,
            chains: 1,
        });
    }

    fn reap_part(
        &self,
        guest: &Guest,
        shape: Shape,
        length: usize,
        buffers: &[Buffer],
        number: usize,
    ) -> Part {
        let lengths: Vec<usize> = buffers.iter().map(|buffer| buffer.length).collect();
        assert_eq!(
            lengths,
            shape.lengths(),
            "a chain of the wrong shape was used"
        );
        assert!(
            length >= RX_HEADER,
            "used length {length} is shorter than a receive header"
        );
        let bytes = guest.read(buffers[0], RX_HEADER);
        let header = RxHeader::read_from_bytes(&bytes).expect("64 bytes");
        let in_first = header.header_length.get() as usize;
        let in_second = header.payload_length.get() as usize;
        assert_eq!(
            length,
            RX_HEADER + in_first + in_second,
            "used length of {header:?}"
        );
        assert!(
            RX_HEADER + in_first <= lengths[0],
            "header length of {header:?}"
        );
        assert!(
            in_second <= lengths.get(1).copied().unwrap_or(0),
            "payload length of {header:?}"
        );
        guest.assert_untouched(buffers[0], RX_HEADER + in_first);
        let first = guest
            .read(buffers[0], RX_HEADER + in_first)
            .split_off(RX_HEADER);
        let mut second = Vec::new();
        if let Some(buffer) = buffers.get(1) {
            guest.assert_untouched(*buffer, in_second);
            second = guest.read(*buffer, in_second);
        }

        let flags = header.flags.get();
        assert_eq!(flags & !KNOWN_FLAGS, 0, "unknown flags in {header:?}");
        assert_eq!(
            abi::reserved_bits(&header),
            None,
            "reserved fields of {header:?}"
        );
        let aggregate = [
            header.seg_size.get(),
            header.seg_count.get(),
            u16::from(header.gso_type),
            header.l3_offset.get(),
            header.l4_offset.get(),
        ];
        if flags & abi::RX_AGGREGATED == 0 {
            assert_eq!(aggregate, [0; 5], "fields without their flag in {header:?}");
            let fixed = abi::RX_FIXED_ID | abi::RX_FIXED_ID_INNER;
            assert_eq!(flags & fixed, 0, "flags without theirs in {header:?}");
        } else {
            assert!(aggregate.iter().all(|field| *field > 0), "in {header:?}");
            assert!(header.seg_count.get() > 1, "in {header:?}");
        }
        let timestamped = flags & abi::RX_TIMESTAMP != 0;
        let expected = self.timestamped.unwrap_or(timestamped);
        assert_eq!(timestamped, expected, "TIMESTAMP in {header:?}");
        let tagged = flags & abi::RX_VLAN != 0;
        assert!(
            header.timestamp_ns.get() != 0 || !timestamped,
            "no time in {header:?}"
        );
        assert!(
            (tagged || header.vlan_tci.get() == 0)
                && (timestamped || header.timestamp_ns.get() == 0),
            "fields without their flag in {header:?}"
        );
        assert_eq!(header.queue.get(), self.number, "queue in {header:?}");
        assert_eq!(
            usize::from(header.chain.get()),
            number,
            "chain number in {header:?}"
        );
        assert_eq!(
            flags & abi::RX_FIRST != 0,
            number == 0,
            "FIRST in {header:?}"
        );
        if let Some(expected) = self.next_frame {
            assert_eq!(
                header.frame_id.get(),
                expected,
                "frame number in {header:?}"
            );
        }
        Part {
            header,
            bytes: [first, second],
        }
    }

    /// Assembles a frame and checks the fields that concern all of it.
    fn finish(&mut self, shape: Shape, parts: &[Part]) {
        let header = parts[0].header;
        let of_frame = |header: RxHeader| {
            let flags = header.flags.get() & !(abi::RX_FIRST | abi::RX_LAST);
            (
                flags,
                header.frame_id,
                header.frame_length,
                header.hash,
                header.hash_type,
                header.timestamp_ns,
                header.vlan_tci,
            )
        };
        let split = parts.iter().any(|part| !part.bytes[1].is_empty());
        let mut frame = Vec::new();
        for (number, part) in parts.iter().enumerate() {
            assert_eq!(
                of_frame(part.header),
                of_frame(header),
                "chains of a frame agree"
            );
            let [first, second] = &part.bytes;
            if number + 1 < parts.len() {
                let mut lengths = shape.lengths();
                if !split {
                    lengths.truncate(1);
                }
                let room = lengths.pop().expect("a descriptor");
                let last = if second.is_empty() {
                    RX_HEADER + first.len()
                } else {
                    second.len()
                };
                assert_eq!(last, room, "only the last chain of a frame has room left");
            }
            if number > 0 && split {
                assert!(
                    first.is_empty(),
                    "follow-on chains of a split frame hold payload only"
                );
            }
            frame.extend_from_slice(first);
            frame.extend_from_slice(second);
        }
        assert_eq!(
            header.frame_length.get() as usize,
            frame.len(),
            "frame length of {header:?}"
        );
        assert_eq!(
            header.flags.get() & abi::RX_SPLIT != 0,
            split,
            "SPLIT in {header:?}"
        );
        if let Shape::Split { threshold, .. } = shape {
            assert!(
                !split || frame.len() > threshold as usize,
                "split below the threshold"
            );
        }
        self.next_frame = Some(header.frame_id.get().wrapping_add(1));
        if header.flags.get() & abi::RX_TIMESTAMP != 0 {
            let time = header.timestamp_ns.get();
            // Noise may step the clock.
            assert!(
                self.last <= time || self.timestamped.is_none(),
                "time goes back in {header:?}"
            );
            self.last = time;
        }
        let received = Received {
            frame,
            header,
            chains: parts.len(),
        };
        let expected = match self.expected_verdict {
            ExpectedVerdict::None => None,
            ExpectedVerdict::Valid => verify::l4_checksum_is_right(&received.frame),
            ExpectedVerdict::Any => received.checksum(),
        };
        assert_eq!(
            received.checksum(),
            expected,
            "verdict on the checksum of {header:?}"
        );
        self.frames.push_back(received);
    }
}
