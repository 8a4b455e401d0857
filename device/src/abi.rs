//! The interface between the zcnic driver and the zcnic device: the mirror of
//! `images/driver/zcnic_abi.h`, explained in docs/abi.md. Names are those of the header without
//! `zcnic_`.
//!
//! Every struct can be read from and written to any address: fields are little endian unless their
//! type is big endian, and no struct has padding. `tests/abi_layout.rs` compiles the header and
//! compares every size, offset and constant.

mod command;
mod data;
mod layout;
mod read;
mod values;

pub use command::*;
pub use data::*;
pub use layout::{AbiStruct, FieldLayout, StructLayout, reserved_bits};
pub use read::{Invalid, read_array, read_request};
pub(crate) use values::wire_enum;
pub use values::*;

/// The layouts of all structs.
pub const STRUCTS: [&[StructLayout]; 2] = [data::STRUCTS, command::STRUCTS];

/// Declares the constants of the ABI and the list of them.
macro_rules! constants {
    ($($(#[$meta:meta])* pub const $name:ident: $type:ty = $value:literal;)+) => {
        $($(#[$meta])* pub const $name: $type = $value;)+

        /// Names and values of all constants.
        pub const CONSTANTS: &[(&str, u64)] = &[$((stringify!($name), $name as u64)),+];
    };
}

constants! {
    /// The version of the ABI that this crate speaks.
    pub const ABI_VERSION: u16 = 2;
    /// "ZCNC" in memory order: the first field of every request, response and event.
    pub const MAGIC: u32 = 0x434e_435a;
    /// The most bytes that one request may have, header included.
    pub const MAX_REQUEST: usize = 65536;

    /// Feature words that each side sends in HELLO.
    pub const FEATURE_WORDS: usize = 2;

    /// The largest frequency of CLOCK_ADJUST, in parts per billion: far beyond what a servo asks
    /// for, and small enough that no clock stands still.
    pub const CLOCK_MAX_PPB: i64 = 100_000_000;

    /// Receive header flag: first chain of a frame.
    pub const RX_FIRST: u16 = 0x0001;
    /// Receive header flag: last chain of a frame.
    pub const RX_LAST: u16 = 0x0002;
    /// Receive header flag: the frame's headers and payload are in separate descriptors.
    pub const RX_SPLIT: u16 = 0x0004;
    /// Receive header flag: the L4 checksum was verified and is valid.
    pub const RX_CSUM_GOOD: u16 = 0x0008;
    /// Receive header flag: the L4 checksum was verified and is invalid.
    pub const RX_CSUM_BAD: u16 = 0x0010;
    /// Receive header flag: `vlan_tci` holds the tag that was stripped.
    pub const RX_VLAN: u16 = 0x0020;
    /// Receive header flag: an aggregate of `seg_count` wire frames; the `seg_*`, `gso_type` and
    /// offset fields are valid.
    pub const RX_AGGREGATED: u16 = 0x0040;
    /// Receive header flag: `timestamp_ns` is valid.
    pub const RX_TIMESTAMP: u16 = 0x0080;
    /// Receive header flag of an aggregate: all its frames had the same IPv4 identification.
    pub const RX_FIXED_ID: u16 = 0x0100;
    /// Receive header flag: the same, of the IPv4 header in a tunnel.
    pub const RX_FIXED_ID_INNER: u16 = 0x0200;

    /// Transmit header flag: insert the checksum at `csum_start` + `csum_offset`.
    pub const TX_CSUM: u16 = 0x0001;
    /// Transmit header flag: write a [`TxTime`] to the chain's last descriptor.
    pub const TX_TIMESTAMP: u16 = 0x0002;

    /// Entries of [`RssSet::fields`], with room for two more flow types.
    pub const FLOW_TYPES: usize = 8;
    /// Hash input: IP source address.
    pub const FIELD_IP_SRC: u16 = 0x0001;
    /// Hash input: IP destination address.
    pub const FIELD_IP_DST: u16 = 0x0002;
    /// Hash input: TCP or UDP source port.
    pub const FIELD_L4_SRC: u16 = 0x0004;
    /// Hash input: TCP or UDP destination port.
    pub const FIELD_L4_DST: u16 = 0x0008;
    /// Hash input: IPv6 flow label.
    pub const FIELD_FLOW_LABEL: u16 = 0x0010;
    /// Bytes of a Toeplitz key.
    pub const RSS_KEY_SIZE: usize = 52;

    /// Receive mode flag: accept every frame.
    pub const RX_MODE_PROMISC: u16 = 0x0001;
    /// Receive mode flag: accept every multicast frame.
    pub const RX_MODE_ALLMULTI: u16 = 0x0002;

    /// Status flag: the link is up.
    pub const STATUS_LINK_UP: u32 = 0x0001;

    /// Event bit: the link went up or down, ask STATUS.
    pub const EVENT_LINK: u32 = 0x0001;
    /// Event bit: the device was reset, the event's session is over.
    pub const EVENT_RESET: u32 = 0x0002;
}
