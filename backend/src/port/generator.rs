//! The frames of a `generate` wire. Which ones depends on the seed only.

use zcnic_device::checksum::Checksum;

use crate::{config::Generate, port::queues::Backpressure};

/// Bytes of a frame before its payload: plain virtio-net header, Ethernet, IPv4 and UDP.
pub(crate) const HEADERS: usize = VIRTIO_NET + FRAME_HEADERS;

const VIRTIO_NET: usize = 12;

const FRAME_HEADERS: usize = 14 + 20 + 8;

/// The frames of one wire, and the position in them.
#[derive(Debug)]
pub(crate) struct Generator {
    /// [`HEADERS`] bytes per flow.
    pub(crate) headers: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    /// The flow of the next frame.
    pub(crate) next: usize,
    /// How far the next frame got before buffers ran out.
    pub(crate) backpressure: Option<Backpressure>,
}

impl Generator {
    /// A generator at its first frame.
    pub(crate) fn new(config: &Generate) -> Self {
        let mut random = config.seed;
        let length = usize::from(config.size).saturating_sub(FRAME_HEADERS);
        let mut payload: Vec<u8> =
            std::iter::repeat_with(|| next_random(&mut random).to_le_bytes())
                .take(length.div_ceil(8))
                .flatten()
                .collect();
        payload.truncate(length);
        let source = next_random(&mut random);
        let headers = (0..config.flows).flat_map(|flow| headers(source, flow, &payload));
        Self {
            headers: headers.collect(),
            payload,
            next: 0,
            backpressure: None,
        }
    }
}

/// The next number of a sequence (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number
/// Generators", 2014).
pub(super) fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut value = *state;
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// The bytes before the payload: Ethernet to the broadcast address, IPv4 from 10.x.y.z to 10.0.0.1,
/// UDP from the flow's port to port 9 (discard).
fn headers(source: u64, flow: u16, payload: &[u8]) -> [u8; HEADERS] {
    const UDP: u8 = 17;
    let [a, b, c, ..] = source.to_le_bytes();
    let mut bytes = [0; HEADERS];
    let frame = &mut bytes[VIRTIO_NET..];
    frame[..6].fill(0xff);
    frame[6..14].copy_from_slice(&[2, 0, a, b, c, 2, 0x08, 0x00]);
    let (ip, udp) = frame[14..].split_at_mut(20);
    let length = (8 + payload.len()) as u16;
    ip[0] = 0x45;
    ip[2..4].copy_from_slice(&(20 + length).to_be_bytes());
    ip[8..10].copy_from_slice(&[64, UDP]);
    ip[12..].copy_from_slice(&[10, a, b, c | 2, 10, 0, 0, 1]);
    let mut sum = Checksum::new();
    sum.add(ip);
    ip[10..12].copy_from_slice(&sum.finish().to_be_bytes());
    udp[..2].copy_from_slice(&(flow + 1024).to_be_bytes());
    udp[2..4].copy_from_slice(&9u16.to_be_bytes());
    udp[4..6].copy_from_slice(&length.to_be_bytes());
    let mut sum = Checksum::new();
    sum.add(&ip[12..]);
    sum.add_u16(UDP.into());
    sum.add_u16(length);
    sum.add(udp);
    sum.add(payload);
    // 0 means "no checksum" (RFC 768).
    let sum = match sum.finish() {
        0 => 0xffff,
        sum => sum,
    };
    udp[6..].copy_from_slice(&sum.to_be_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use zcnic_device::frame::Headers;

    use super::*;

    #[test]
    fn frames_are_those_of_the_seed() {
        let config = Generate {
            size: 200,
            flows: 3,
            seed: 7,
        };
        let (one, same) = (Generator::new(&config), Generator::new(&config));
        let other = Generator::new(&Generate { seed: 8, ..config });
        assert_eq!((&one.headers, &one.payload), (&same.headers, &same.payload));
        assert_ne!(one.payload, other.payload);
        for (flow, headers) in one.headers.chunks(HEADERS).enumerate() {
            let frame = [&headers[VIRTIO_NET..], &one.payload].concat();
            assert_eq!(frame.len(), 200);
            let l4 = Headers::parse(&frame, frame.len()).l4.expect("UDP");
            assert_eq!(usize::from(l4.source_port), 1024 + flow);
            assert_eq!(l4.payload_end, 200);
        }
    }
}
