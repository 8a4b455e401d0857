//! Requests and responses of the command pair.

use zerocopy::big_endian;
use zerocopy::little_endian::{I64, U16, U32, U64};

use super::layout::wire_structs;
use super::{FEATURE_WORDS, FLOW_TYPES, RSS_KEY_SIZE};

wire_structs! {
    /// The start of every request.
    pub struct Request {
        /// [`MAGIC`](super::MAGIC).
        pub magic: U32,
        /// [`Opcode`](super::Opcode).
        pub opcode: U16,
        /// Zero.
        pub reserved: U16,
        /// Repeated in the response.
        pub sequence: U32,
        /// Of the whole request, in bytes.
        pub length: U32,
        /// The current session; 0 in HELLO.
        pub session: U64,
    }
    reserved: reserved;

    /// The start of every response.
    pub struct Response {
        /// [`MAGIC`](super::MAGIC).
        pub magic: U32,
        /// Copied from the request.
        pub opcode: U16,
        /// [`Status`](super::Status).
        pub status: U16,
        /// Copied from the request.
        pub sequence: U32,
        /// Of the whole response, in bytes.
        pub length: U32,
        /// The current session.
        pub session: U64,
        /// See [`Status`](super::Status).
        pub detail: U32,
        /// Zero.
        pub reserved: U32,
    }
    reserved: reserved;

    /// HELLO: begins a session.
    pub struct Hello {
        /// The request header.
        pub request: Request,
        /// Oldest version that the driver speaks.
        pub version_min: U16,
        /// Newest version that the driver speaks.
        pub version_max: U16,
        /// The device's, command pair included.
        pub queue_pairs: U16,
        /// Zero.
        pub reserved: U16,
        /// Features that the driver knows.
        pub features: [U64; FEATURE_WORDS],
    }
    reserved: request.reserved, reserved;

    /// The answer to HELLO: version, limits and features of the session.
    pub struct HelloResponse {
        /// The response header, with the new session.
        pub response: Response,
        /// The version chosen.
        pub version: U16,
        /// Context 0 included.
        pub max_rss_contexts: U16,
        /// Entries of an indirection table.
        pub max_rss_table: U16,
        /// Receive chains that one frame may take.
        pub max_chains: U16,
        /// Rule locations are below this.
        pub max_rules: U32,
        /// Bytes from destination address to the end of the payload.
        pub max_frame: U32,
        /// Of descriptor 0 of a split chain, in bytes.
        pub max_header_size: U32,
        /// Of descriptor 1 of a split chain, in bytes.
        pub max_page_size: U32,
        /// Features of both driver and device.
        pub features: [U64; FEATURE_WORDS],
    }
    reserved: response.reserved;

    /// RXQ_START: the shape of the queue's chains.
    pub struct RxqStart {
        /// The request header.
        pub request: Request,
        /// The receive queue.
        pub queue: U16,
        /// [`RxShape`](super::RxShape).
        pub shape: u8,
        /// The most chains that one frame may take; 0: the limit from HELLO.
        pub max_chains: u8,
        /// Length of descriptor 0, receive header included: a multiple of 64.
        pub header_size: U32,
        /// Length of descriptor 1; 0 when linear.
        pub page_size: U32,
        /// Frames longer than this are split; 0 when linear.
        pub hds_thresh: U32,
    }
    reserved: request.reserved;

    /// RXQ_STOP, TXQ_START and TXQ_STOP. The response to a stop has the number of chains returned.
    pub struct QueueCommand {
        /// The request header.
        pub request: Request,
        /// The queue.
        pub queue: U16,
        /// Zero.
        pub reserved0: U16,
        /// Zero.
        pub reserved1: U32,
    }
    reserved: request.reserved, reserved0, reserved1;

    /// RSS_SET, without the table that follows.
    pub struct RssSet {
        /// The request header.
        pub request: Request,
        /// The context to set or create.
        pub context: U16,
        /// [`RssSymmetric`](super::RssSymmetric).
        pub symmetric: U16,
        /// Entries of the table, a power of two.
        pub table_length: U16,
        /// Zero.
        pub reserved: U16,
        /// `FIELD_*` by [`FlowType`](super::FlowType).
        pub fields: [U16; FLOW_TYPES],
        /// The Toeplitz key.
        pub key: [u8; RSS_KEY_SIZE],
        /// Zero.
        pub reserved1: U32,
    }
    reserved: request.reserved, reserved, reserved1;

    /// RSS_DEL.
    pub struct RssDel {
        /// The request header.
        pub request: Request,
        /// The context to delete.
        pub context: U16,
        /// Zero.
        pub reserved0: U16,
        /// Zero.
        pub reserved1: U32,
    }
    reserved: request.reserved, reserved0, reserved1;

    /// Fields of a frame, as in the frame.
    pub struct Flow {
        /// Destination address.
        pub eth_dst: [u8; 6],
        /// Source address.
        pub eth_src: [u8; 6],
        /// EtherType behind VLAN tags.
        pub eth_type: big_endian::U16,
        /// Of the outer VLAN tag.
        pub vlan_tci: big_endian::U16,
        /// IP protocol.
        pub ip_proto: u8,
        /// IPv4 TOS, IPv6 traffic class.
        pub ip_tos: u8,
        /// Zero.
        pub reserved: big_endian::U16,
        /// Source address; IPv4 in the first four bytes, the rest zero.
        pub ip_src: [u8; 16],
        /// Destination address; IPv4 in the first four bytes, the rest zero.
        pub ip_dst: [u8; 16],
        /// Source port.
        pub l4_src: big_endian::U16,
        /// Destination port.
        pub l4_dst: big_endian::U16,
    }
    reserved: reserved;

    /// A flow rule.
    pub struct Rule {
        /// The lowest that matches wins.
        pub location: U32,
        /// [`RuleType`](super::RuleType).
        pub rule_type: u8,
        /// [`RuleAction`](super::RuleAction).
        pub action: u8,
        /// The queue, or the offset to the context's queue.
        pub queue: U16,
        /// The RSS context.
        pub context: U16,
        /// Zero.
        pub reserved0: U16,
        /// Zero.
        pub reserved1: U32,
        /// Values of the bits that `mask` covers; no bits outside.
        pub value: Flow,
        /// The bits that are compared.
        pub mask: Flow,
    }
    reserved: reserved0, reserved1, value.reserved, mask.reserved;

    /// RULE_SET, without the rules that follow.
    pub struct RuleSet {
        /// The request header.
        pub request: Request,
        /// Rules that follow.
        pub count: U32,
        /// Zero.
        pub reserved: U32,
    }
    reserved: request.reserved, reserved;

    /// RULE_DEL, without the locations (`U32`) that follow.
    pub struct RuleDel {
        /// The request header.
        pub request: Request,
        /// Locations that follow.
        pub count: U32,
        /// Zero.
        pub reserved: U32,
    }
    reserved: request.reserved, reserved;

    /// An Ethernet address.
    pub struct Address {
        /// As in the frame.
        pub octets: [u8; 6],
    }

    /// RX_MODE, without the addresses that follow. Broadcast always passes.
    pub struct RxMode {
        /// The request header.
        pub request: Request,
        /// `RX_MODE_*`.
        pub flags: U16,
        /// Addresses that follow.
        pub count: U16,
        /// Zero.
        pub reserved: U32,
    }
    reserved: request.reserved, reserved;

    /// OFFLOADS.
    pub struct Offloads {
        /// The request header.
        pub request: Request,
        /// Of those negotiated, the ones switched on.
        pub features: [U64; FEATURE_WORDS],
    }
    reserved: request.reserved;

    /// COALESCE: interrupt moderation. An interrupt waits for this many microseconds at most (0: not
    /// at all), or until this many chains were used (0: any number).
    pub struct Coalesce {
        /// The request header.
        pub request: Request,
        /// Microseconds, of receive rings.
        pub rx_usecs: U16,
        /// Chains, of receive rings.
        pub rx_chains: U16,
        /// Microseconds, of transmit rings.
        pub tx_usecs: U16,
        /// Chains, of transmit rings.
        pub tx_chains: U16,
    }
    reserved: request.reserved;

    /// MTU: received frames with more bytes behind the Ethernet header and its tags are dropped.
    pub struct Mtu {
        /// The request header.
        pub request: Request,
        /// Bytes; 0: no limit.
        pub mtu: U32,
        /// Zero.
        pub reserved: U32,
    }
    reserved: request.reserved, reserved;

    /// STATS.
    pub struct Stats {
        /// The request header.
        pub request: Request,
        /// First queue pair.
        pub first: U16,
        /// Queue pairs.
        pub count: U16,
        /// Zero.
        pub reserved: U32,
    }
    reserved: request.reserved, reserved;

    /// Counters of one queue pair. Segments count each.
    pub struct QueueStats {
        /// Frames delivered.
        pub rx_frames: U64,
        /// Their bytes.
        pub rx_bytes: U64,
        /// Frames split into headers and payload.
        pub rx_split: U64,
        /// Frames not split: neither TCP nor UDP, or headers too long.
        pub rx_unsplit: U64,
        /// Those of them with headers too long.
        pub rx_long_headers: U64,
        /// Frames with an invalid L4 checksum.
        pub rx_csum_bad: U64,
        /// Dropped: not enough buffers posted.
        pub rx_no_buffer: U64,
        /// Dropped: the queue is not started.
        pub rx_stopped: U64,
        /// Dropped: more chains than a frame may take.
        pub rx_too_long: U64,
        /// Dropped: not split, and more bytes than header buffers hold.
        pub rx_unsplit_too_long: U64,
        /// Chains of the wrong shape, returned.
        pub rx_bad_chain: U64,
        /// Aggregates delivered.
        pub rx_gro_frames: U64,
        /// Their bytes.
        pub rx_gro_bytes: U64,
        /// Wire frames in them, counted in `rx_frames` too.
        pub rx_gro_wire_frames: U64,
        /// Their bytes.
        pub rx_gro_wire_bytes: U64,
        /// Frames sent.
        pub tx_frames: U64,
        /// Their bytes.
        pub tx_bytes: U64,
        /// Chains that could not be sent.
        pub tx_errors: U64,
    }

    /// Counters of the port.
    pub struct PortStats {
        /// Frames that were not for this port's addresses.
        pub rx_filtered: U64,
        /// Frames dropped by a flow rule.
        pub rx_rule_drop: U64,
        /// Frames dropped because they are longer than the MTU.
        pub rx_oversize: U64,
        /// Commands received.
        pub commands: U64,
        /// Commands not executed.
        pub commands_refused: U64,
    }

    /// The answer to STATS, without the [`QueueStats`] that follow.
    pub struct StatsResponse {
        /// The response header.
        pub response: Response,
        /// The port's counters.
        pub port: PortStats,
    }
    reserved: response.reserved;

    /// The answer to STATUS.
    pub struct StatusResponse {
        /// The response header.
        pub response: Response,
        /// `STATUS_*`.
        pub flags: U32,
        /// Of the last event.
        pub event_sequence: U32,
        /// Bit n: receive queue n is started.
        pub rx_running: [U64; 2],
        /// Bit n: transmit queue n is started.
        pub tx_running: [U64; 2],
    }
    reserved: response.reserved;

    /// CLOCK_ADJUST.
    pub struct ClockAdjust {
        /// The request header.
        pub request: Request,
        /// Nanoseconds that the port's clock is stepped by.
        pub step: I64,
        /// Deviation from the device's clock from now on, in 2^-16 parts per million.
        pub frequency: I64,
    }
    reserved: request.reserved;

    /// The answer to CLOCK and CLOCK_ADJUST.
    pub struct ClockResponse {
        /// The response header.
        pub response: Response,
        /// The port's clock, in nanoseconds.
        pub nanoseconds: U64,
        /// The device's clock, which is not adjusted, in nanoseconds.
        pub device_nanoseconds: U64,
    }
    reserved: response.reserved;
}
