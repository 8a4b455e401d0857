//! The limits of one port, which HELLO reports to the driver.

/// Bytes of the largest frame: MTU 9216, Ethernet header and one VLAN tag.
pub const MAX_FRAME: usize = 9216 + 14 + 4;
/// Rule locations are below this.
pub const MAX_RULES: u32 = 16384;
/// RSS contexts, context 0 included.
pub const MAX_RSS_CONTEXTS: u16 = 128;
/// Entries of an indirection table: four for each of 128 pairs.
pub const MAX_RSS_TABLE: u16 = 512;
/// Queue pairs, the command pair included: SET_VRING_KICK names a ring by one byte (vhost-user).
pub const MAX_QUEUE_PAIRS: u16 = 128;
