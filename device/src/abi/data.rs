//! The headers of receive chains and transmit chains, and event buffers.

use zerocopy::little_endian::{U16, U32, U64};

use super::layout::wire_structs;

wire_structs! {
    /// At the start of descriptor 0 of every used receive chain; used.len is 64 plus both lengths.
    pub struct RxHeader {
        /// `RX_*`.
        pub flags: U16,
        /// Number of this chain in its frame, from 0.
        pub chain: U16,
        /// Counts the queue's frames; the same in all chains of a frame.
        pub frame_id: U32,
        /// Frame bytes in descriptor 0, behind this header.
        pub header_length: U32,
        /// Frame bytes in descriptor 1; 0 in a linear chain.
        pub payload_length: U32,
        /// Bytes of the whole frame.
        pub frame_length: U32,
        /// The RSS hash.
        pub hash: U32,
        /// [`HashType`](super::HashType).
        pub hash_type: u8,
        /// [`GsoType`](super::GsoType) of an aggregated frame.
        pub gso_type: u8,
        /// The receive queue.
        pub queue: U16,
        /// Payload bytes of every segment of an aggregated frame but the last.
        pub seg_size: U16,
        /// Segments of an aggregated frame.
        pub seg_count: U16,
        /// The VLAN tag that was stripped.
        pub vlan_tci: U16,
        /// Where the innermost IP header of an aggregated frame starts.
        pub l3_offset: U16,
        /// Where the TCP header of an aggregated frame starts.
        pub l4_offset: U16,
        /// Zero.
        pub reserved0: U16,
        /// When the frame arrived, in nanoseconds of the device's clock.
        pub timestamp_ns: U64,
        /// Zero.
        pub reserved2: [u8; 16],
    }
    reserved: reserved0, reserved2;

    /// At the start of every transmit chain.
    pub struct TxHeader {
        /// `TX_*`.
        pub flags: U16,
        /// [`GsoType`](super::GsoType).
        pub gso_type: u8,
        /// Zero.
        pub reserved0: u8,
        /// GSO: bytes to replicate in each segment, through the L4 header.
        pub header_length: U16,
        /// Where the checksum's sum starts, from the first byte of the frame.
        pub csum_start: U16,
        /// Where the checksum goes, from `csum_start`.
        pub csum_offset: U16,
        /// GSO: payload bytes of a segment.
        pub gso_size: U16,
        /// GSO: where the (innermost) IP header starts.
        pub l3_offset: U16,
        /// Zero.
        pub reserved1: [u8; 18],
    }
    reserved: reserved0, reserved1;

    /// The timestamp that the device writes to a device-writable descriptor behind a frame; used.len
    /// is 0 if it wrote none.
    pub struct TxTime {
        /// When the frame was sent, in nanoseconds of the device's clock.
        pub timestamp_ns: U64,
        /// Zero.
        pub reserved: U64,
    }
    reserved: reserved;

    /// An event, as the device writes it to a buffer of the command pair's receive ring.
    pub struct Event {
        /// [`MAGIC`](super::MAGIC).
        pub magic: U32,
        /// Counts the port's events.
        pub sequence: U32,
        /// The session that it belongs to.
        pub session: U64,
        /// `EVENT_*`: the events since the last event buffer.
        pub pending: U32,
        /// Zero.
        pub reserved0: U32,
        /// Zero.
        pub reserved1: U64,
    }
    reserved: reserved0, reserved1;
}
