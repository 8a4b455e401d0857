//! Target `transmit`: a transmit chain becomes a train, and its segments are placed in receive
//! buffers.

use zcnic_backend::fuzzing::Input;
use zcnic_device::{
    abi::{RX_LAST, RX_SPLIT, RX_VLAN, RxHeader, TX_CSUM, TxHeader},
    features::{Feature, FeatureSet},
    frame::{Headers, SNAPSHOT},
    limits::MAX_FRAME,
    receive::{Annotation, Layout, MAX_CHAINS, ReceiveQueue},
    train::{Train, finish_into},
    transmit::{MAX_SEGMENTS, Snapshot, TransmitFormat, parse},
};
use zerocopy::FromBytes;

use crate::{
    memory::{EMPTY, VecMover, VecRing},
    plainly,
};

/// The most segments that are placed, for the time that it takes.
const PLACED: usize = 40;

/// # Panics
///
/// A train is not the frames that its chain describes, a frame is placed with other bytes than it
/// has on the wire, a buffer has bytes of none, or headers and payload are parted elsewhere than at
/// the end of headers.
pub(crate) fn run(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let plain = input.byte() & 1 != 0;
    let format = if plain {
        TransmitFormat::VirtioNet
    } else {
        TransmitFormat::Zcnic
    };
    let features = match input.byte() {
        bits @ 0xf0.. => (0..4)
            .filter(|bit| bits & (1 << bit) != 0)
            .map(|bit| Feature::ALL[bit + 1])
            .collect(),
        _ => FeatureSet::ALL,
    };
    let shape = Shape::read(&mut input);
    let header = if plain {
        input.take(12)
    } else {
        input.take(size_of::<TxHeader>())
    };
    let repeated = usize::from(input.byte());
    let mut frame = input.rest().to_vec();
    if repeated > 0xc0 {
        // A long payload from few bytes.
        frame.resize(frame.len() + 512 * (repeated - 0xc0), 0x5a);
    }
    let source = shape.scatter(&[header, &frame].concat());
    let mut snapshot = Snapshot::default();
    let Ok(train) = parse(&VecMover, &source[..], format, features, &mut snapshot) else {
        return;
    };
    assert_eq!(
        train.header_bytes(),
        &frame[..train.header_bytes().len()],
        "the snapshot"
    );
    let expected = wire_frames(format, header, &frame, &train);
    assert_eq!(train.segments(), expected.len(), "segments");
    let lengths: Vec<usize> = expected.iter().map(Vec::len).collect();
    assert_eq!(
        train.wire_bytes(),
        lengths.iter().sum::<usize>(),
        "bytes on the wire"
    );
    let mut found = Vec::new();
    for (index, expected) in expected.iter().enumerate().take(PLACED) {
        assert_eq!(train.segment_length(index), expected.len());
        finish_into(&VecMover, &train, index, &mut found);
        assert_eq!(&found, expected, "segment {index}");
    }
    if expected.len() <= PLACED {
        place(&shape, &train, &frame, &expected);
    }
}

/// How a chain is scattered, and how receive buffers look.
struct Shape {
    pieces: [u16; 3],
    layout: Layout,
    offloads: FeatureSet,
    /// Fewer chains than the frames need.
    short: bool,
}

impl Shape {
    fn read(input: &mut Input<'_>) -> Self {
        let pieces = std::array::from_fn(|_| input.word());
        let kind = input.byte();
        let size = u32::from(input.word());
        let layout = match kind % 3 {
            0 => Layout::VirtioNet,
            1 => Layout::Linear {
                size: 192 + size % 9000,
            },
            _ => Layout::Split {
                header_size: 64 * (3 + size % 6),
                page_size: 256 + (size >> 3) % 5000,
                threshold: u32::from(kind >> 4) * 8,
                l4_only: kind & 8 != 0,
            },
        };
        let switched = [Feature::RxCsum, Feature::RxHash, Feature::Vlan];
        let on = input.byte();
        let offloads = (0..3)
            .filter(|bit| on & (1 << bit) != 0)
            .map(|bit| switched[bit]);
        let offloads = match layout {
            Layout::VirtioNet => FeatureSet::PLAIN,
            _ => offloads.collect(),
        };
        Self {
            pieces,
            layout,
            offloads,
            short: on & 0x80 != 0,
        }
    }

    /// The chain in up to four descriptors.
    fn scatter(&self, mut chain: &[u8]) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        for length in self.pieces {
            let (piece, rest) = chain.split_at(chain.len().min(usize::from(length % 600)));
            pieces.push(piece.to_vec());
            chain = rest;
        }
        pieces.push(chain.to_vec());
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    fn descriptors(&self) -> Vec<usize> {
        match self.layout {
            Layout::VirtioNet => vec![600, 1500],
            Layout::Linear { size } => vec![size as usize],
            Layout::Split {
                header_size,
                page_size,
                ..
            } => {
                vec![header_size as usize, page_size as usize]
            }
        }
    }
}

/// The frames that a valid chain describes.
fn wire_frames(
    format: TransmitFormat,
    header: &[u8],
    frame: &[u8],
    train: &Train<'_, [Vec<u8>]>,
) -> Vec<Vec<u8>> {
    let word = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (gso, size, partial) = match format {
        TransmitFormat::VirtioNet => {
            let partial = (header[0] & 1 != 0).then(|| (word(6), word(8)));
            (header[1] & 0x7f, word(4), partial)
        }
        TransmitFormat::Zcnic => {
            let header = TxHeader::read_from_bytes(header).expect("it was parsed");
            let wanted = header.flags.get() & TX_CSUM != 0;
            let partial = (
                header.csum_start.get().into(),
                header.csum_offset.get().into(),
            );
            (
                header.gso_type,
                header.gso_size.get().into(),
                wanted.then_some(partial),
            )
        }
    };
    let headers = Headers::parse(&frame[..frame.len().min(SNAPSHOT)], frame.len());
    assert_eq!(
        train.headers().l4,
        headers.l4,
        "the L4 header is that of the whole snapshot"
    );
    if gso != 0 {
        let segments = plainly::segments(frame, &headers, size);
        assert!(
            segments.len() <= MAX_SEGMENTS && segments[0].len() <= MAX_FRAME,
            "limits"
        );
        return segments;
    }
    assert!(frame.len() <= MAX_FRAME, "the longest frame");
    let mut frame = frame.to_vec();
    if let Some((start, offset)) = partial {
        let field = start + offset;
        let sum = plainly::internet_sum(&[&frame[start..]]);
        frame[field..field + 2].copy_from_slice(&plainly::checksum(sum).to_be_bytes());
    }
    vec![frame]
}

/// Receives the train, and checks every byte of the buffers.
fn place(shape: &Shape, train: &Train<'_, [Vec<u8>]>, sent: &[u8], expected: &[Vec<u8>]) {
    let descriptors = shape.descriptors();
    let room: usize = descriptors.iter().sum();
    let bytes: usize = expected.iter().map(|frame| frame.len() + 64).sum();
    let chains = expected.len() + bytes / (room / 2).max(1) + 8;
    let mut ring = VecRing::default();
    for _ in 0..if shape.short { chains / 4 } else { chains } {
        ring.post(&descriptors);
    }
    let mut queue = ReceiveQueue::default();
    queue.start(shape.layout, MAX_CHAINS);
    let note = Annotation {
        queue: 5,
        hash: None,
        offloads: shape.offloads,
        time: 0,
        vlan: None,
    };
    let delivered = queue.deliver(&VecMover, &mut ring, train, 0, &note);
    let counted = delivered.frames + delivered.dropped;
    let blocked = delivered.blocked_at.unwrap_or(expected.len());
    assert_eq!(
        counted as usize, blocked,
        "segments in front of the first without buffers"
    );
    let mut used = ring.used.iter();
    let mut placed = 0;
    for frame in expected.iter().take(blocked) {
        // A frame that takes more chains than one may is dropped; all segments are as long, but for
        // the last.
        if placed == delivered.frames {
            break;
        }
        let before = used.clone();
        let found = match shape.layout {
            Layout::VirtioNet => received_plain(&mut used),
            _ => received(shape.layout, &mut used, sent, frame.len()),
        };
        if found.as_ref() == Some(frame) {
            placed += 1;
        } else {
            assert!(
                delivered.dropped > 0,
                "a frame of {} bytes was placed as {found:x?}",
                frame.len()
            );
            used = before;
        }
    }
    assert_eq!(
        (placed, used.len()),
        (delivered.frames, 0),
        "frames, and chains of none"
    );
}

type UsedChain = (usize, Vec<Vec<u8>>);

/// The next frame in buffers of a plain driver.
fn received_plain<'u>(used: &mut impl Iterator<Item = &'u UsedChain>) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    let (length, first) = used.next()?;
    bytes.extend(written(*length, first));
    let chains = u16::from_le_bytes([bytes[10], bytes[11]]);
    for _ in 1..chains {
        let (length, chain) = used.next().expect("all chains of a frame");
        bytes.extend(written(*length, chain));
    }
    Some(bytes.split_off(12))
}

/// The first `length` bytes of a chain, the others being empty.
fn written(length: usize, chain: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = chain.concat();
    let rest = bytes.split_off(length);
    assert!(
        rest.iter().all(|byte| *byte == EMPTY),
        "bytes behind the used length"
    );
    bytes
}

/// The next frame in buffers of a zcnic driver, its tag put back if it was stripped; `None` if it has
/// another length. `sent` has the bytes that the device decided by.
fn received<'u>(
    layout: Layout,
    used: &mut impl Iterator<Item = &'u UsedChain>,
    sent: &[u8],
    length: usize,
) -> Option<Vec<u8>> {
    let (mut frame, mut headers_end) = (Vec::new(), 0);
    for number in 0.. {
        let (used_length, chain) = used.next()?;
        let (header, _) = RxHeader::read_from_prefix(&chain[0]).expect("room for a header");
        let flags = header.flags.get();
        let parts = [header.header_length.get(), header.payload_length.get()].map(|n| n as usize);
        assert_eq!(
            usize::from(header.chain.get()),
            number,
            "the number of a chain"
        );
        assert_eq!(
            *used_length,
            size_of::<RxHeader>() + parts[0] + parts[1],
            "the used length"
        );
        for (buffer, (start, part)) in chain
            .iter()
            .zip([(size_of::<RxHeader>(), parts[0]), (0, parts[1])])
        {
            let (content, rest) = buffer[start..].split_at(part);
            frame.extend_from_slice(content);
            assert!(
                rest.iter().all(|byte| *byte == EMPTY),
                "bytes behind the part of a frame"
            );
        }
        if number == 0 && flags & RX_SPLIT != 0 {
            headers_end = parts[0];
        }
        if flags & RX_LAST == 0 {
            continue;
        }
        assert_eq!(
            header.frame_length.get() as usize,
            frame.len(),
            "the frame's length"
        );
        let stripped = flags & RX_VLAN != 0;
        let decided = if stripped {
            [&sent[..12], &sent[16..]].concat()
        } else {
            sent.to_vec()
        };
        check_split(layout, &decided, frame.len(), headers_end);
        if stripped {
            let tag = header.vlan_tci.get().to_be_bytes();
            frame.splice(12..12, [0x81, 0, tag[0], tag[1]]);
        }
        break;
    }
    (frame.len() == length).then_some(frame)
}

/// Checks that a frame of `length` bytes is split no later than the headers of `decided` end.
fn check_split(layout: Layout, decided: &[u8], length: usize, split: usize) {
    let Layout::Split { threshold, .. } = layout else {
        assert_eq!(split, 0, "a linear chain is not split");
        return;
    };
    let snapshot = &decided[..decided.len().min(SNAPSHOT)];
    let end = Headers::parse(snapshot, decided.len()).payload_offset();
    if length > threshold as usize {
        assert!(
            split <= end,
            "the split at {split} is behind the headers, which end at {end}"
        );
    }
}
