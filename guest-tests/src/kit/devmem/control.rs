//! Control messages of devmem TCP (`include/uapi/linux/uio.h`), as bytes.

use crate::kit::socket::{ControlMessage, HEADER, word};

/// `SO_DEVMEM_LINEAR` and `SO_DEVMEM_DMABUF`.
const LINEAR: u32 = 78;
pub(super) const DMABUF: u32 = 79;
const SOL_SOCKET: u32 = 1;

/// A piece of the payload in a dmabuf.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// Byte offset in the dmabuf.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
    /// Token to return it with.
    pub token: u32,
    /// Id of the dmabuf's binding ([`Binding::id`](super::Binding::id)).
    pub dmabuf: u32,
}

/// A piece of the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadPiece {
    /// In a dmabuf.
    Dmabuf(Fragment),
    /// Linear bytes, in the program's buffer.
    Linear(u32),
}

/// The control message that names the dmabuf to send from.
pub(super) fn from_dmabuf(id: u32) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&(HEADER as u64 + 4).to_ne_bytes());
    bytes[8..12].copy_from_slice(&SOL_SOCKET.to_ne_bytes());
    bytes[12..16].copy_from_slice(&DMABUF.to_ne_bytes());
    bytes[16..20].copy_from_slice(&id.to_ne_bytes());
    bytes
}

/// Decodes `struct dmabuf_cmsg`.
pub(super) fn piece((level, kind, value): ControlMessage<'_>) -> Option<PayloadPiece> {
    let len = word(value, 8)?;
    match (level, kind) {
        (SOL_SOCKET, LINEAR) => Some(PayloadPiece::Linear(len)),
        (SOL_SOCKET, DMABUF) => Some(PayloadPiece::Dmabuf(Fragment {
            offset: u64::from_ne_bytes(*value.first_chunk()?),
            len,
            token: word(value, 12)?,
            dmabuf: word(value, 16)?,
        })),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kit::socket::messages;

    fn message(kind: u32, words: [u32; 6]) -> Vec<u8> {
        let mut bytes = Vec::from((HEADER as u64 + 24).to_ne_bytes());
        for word in [SOL_SOCKET, kind].iter().chain(&words) {
            bytes.extend(word.to_ne_bytes());
        }
        bytes
    }

    #[test]
    fn pieces_come_in_their_order() {
        let linear = message(LINEAR, [0, 0, 100, 0, 0, 0]);
        let dmabuf = message(DMABUF, [0x2000, 1, 1448, 7, 3, 0]);
        let bytes = [linear, dmabuf].concat();
        let pieces: Vec<_> = messages(&bytes).filter_map(piece).collect();
        let fragment = Fragment {
            offset: 0x1_0000_2000,
            len: 1448,
            token: 7,
            dmabuf: 3,
        };
        assert_eq!(
            pieces,
            [PayloadPiece::Linear(100), PayloadPiece::Dmabuf(fragment)]
        );
    }

    #[test]
    fn sent_attributes_make_a_message() {
        let bytes = from_dmabuf(9);
        let found: Vec<_> = messages(&bytes).collect();
        assert_eq!(found, [(SOL_SOCKET, DMABUF, 9u32.to_ne_bytes().as_slice())]);
    }

    #[test]
    fn malformed_messages_end_the_list() {
        let mut bytes = message(DMABUF, [0; 6]);
        bytes.truncate(30);
        assert_eq!(messages(&bytes).count(), 0);
        assert_eq!(messages(&[0; 64]).count(), 0);
        assert_eq!(messages(&[]).count(), 0);
    }
}
