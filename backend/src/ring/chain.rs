//! Walks a descriptor chain: from its head to the memory that its descriptors name.

use thiserror::Error;

use super::raw::{Descriptor, Mapping, Span};

/// The most descriptors of one chain, indirect ones included. QEMU's own devices accept no more
/// (`VIRTQUEUE_MAX_SIZE`), and Linux makes no longer chains.
const MAX_DESCRIPTORS: usize = 1024;

/// The most bytes of one chain. The largest valid one is a command of 64 KiB with its response.
const MAX_BYTES: usize = 1 << 20;

/// Why a chain is invalid and can only be returned unused.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum ChainError {
    #[error("Chain loops or has more than {MAX_DESCRIPTORS} descriptors")]
    TooManyDescriptors,
    #[error("Chain of more than {MAX_BYTES} bytes")]
    TooLong,
    #[error("Chain continues at descriptor {0}, which is not in its table")]
    Next(u16),
    #[error("Descriptor of length 0")]
    Empty,
    #[error("Descriptor of {length} bytes at {address:#x} is not in guest memory")]
    Outside { address: u64, length: u32 },
    #[error("Device-readable descriptor after a device-writable one")]
    Order,
    #[error("Invalid indirect descriptor: length {0}, nested, or not the last of its chain")]
    Indirect(u32),
}

/// One chain, as ranges of the spans that [`walk`] appended: small enough to stay in registers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Chain {
    start: u32,
    /// Where the device-writable part starts.
    middle: u32,
    end: u32,
}

impl Chain {
    #[inline]
    fn new(start: usize, middle: usize, end: usize) -> Self {
        let [start, middle, end] = [start, middle, end].map(|at| at as u32);
        Self { start, middle, end }
    }

    /// Device-readable parts; a descriptor that spans regions of guest memory has several.
    #[inline]
    pub(crate) fn readable<'s, 'm>(self, spans: &'s [Span<'m>]) -> &'s [Span<'m>] {
        &spans[self.start as usize..self.middle as usize]
    }

    /// Device-writable parts, one per descriptor.
    #[inline]
    pub(crate) fn writable<'s, 'm>(self, spans: &'s [Span<'m>]) -> &'s [Span<'m>] {
        &spans[self.middle as usize..self.end as usize]
    }

    /// A chain without parts, at the end of `spans`.
    #[inline]
    pub(crate) fn empty(spans: &[Span<'_>]) -> Self {
        Self::new(spans.len(), spans.len(), spans.len())
    }

    /// The index of its first span.
    #[inline]
    pub(crate) fn start(self) -> usize {
        self.start as usize
    }

    /// The same chain after the first `count` spans, none of which is its own, were removed.
    pub(crate) fn without(self, count: usize) -> Self {
        let [start, middle, end] =
            [self.start, self.middle, self.end].map(|at| at as usize - count);
        Self::new(start, middle, end)
    }

    #[inline]
    pub(crate) fn has_readable(self) -> bool {
        self.start < self.middle
    }

    #[inline]
    pub(crate) fn has_writable(self) -> bool {
        self.middle < self.end
    }
}

/// Walks the chain that starts at `head`, which is below the ring's size, and appends its memory to
/// `spans`. On an error `spans` is unchanged.
#[inline(always)]
pub(crate) fn walk<'m>(
    map: &'m Mapping,
    head: u16,
    spans: &mut Vec<Span<'m>>,
) -> Result<Chain, ChainError> {
    let start = spans.len();
    let descriptor = map.descriptor(head);
    // The fast path: one descriptor, as polling drivers post and send.
    if descriptor.flags & !Descriptor::WRITE == 0
        && (1..=MAX_BYTES as u32).contains(&descriptor.length)
        && let Some(span) = map
            .memory()
            .span(descriptor.address, descriptor.length as usize)
    {
        spans.push(span);
        let middle = start + usize::from(descriptor.flags & Descriptor::WRITE == 0);
        return Ok(Chain::new(start, middle, start + 1));
    }
    if descriptor.flags == Descriptor::INDIRECT
        && let Some(chain) = walk_pair(map, descriptor, spans)
    {
        return Ok(chain);
    }
    walk_all(map, descriptor, spans)
}

#[inline(never)]
fn walk_all<'m>(
    map: &'m Mapping,
    first: Descriptor,
    spans: &mut Vec<Span<'m>>,
) -> Result<Chain, ChainError> {
    let start = spans.len();
    let mut walk = Walk {
        map,
        spans,
        writable: None,
        descriptors: 0,
        bytes: 0,
    };
    match walk.direct(first) {
        Ok(()) => {
            let end = walk.spans.len();
            Ok(Chain::new(start, walk.writable.unwrap_or(end), end))
        }
        Err(error) => {
            spans.truncate(start);
            Err(error)
        }
    }
}

/// Walks an indirect table of two descriptors, which is how Linux posts or sends a buffer whose
/// payload is apart from its headers. `None`: it is another kind of table, or an invalid one.
#[inline(always)]
fn walk_pair<'m>(map: &'m Mapping, table: Descriptor, spans: &mut Vec<Span<'m>>) -> Option<Chain> {
    const BOTH: u16 = Descriptor::NEXT | Descriptor::INDIRECT;
    let memory = map.memory();
    if table.length as usize != 2 * Descriptor::SIZE {
        return None;
    }
    let table = memory.span(table.address, 2 * Descriptor::SIZE)?;
    let [first, second] = [0, 1].map(|index| Descriptor::read(&table, index));
    let follows = first.flags & BOTH == Descriptor::NEXT && first.next == 1;
    let ends = second.flags & BOTH == 0;
    let writes = [first, second].map(|part| usize::from(part.flags & Descriptor::WRITE != 0));
    let lengths = [first, second].map(|part| part.length as usize);
    let is_pair = follows && ends && writes[0] <= writes[1];
    if !is_pair || lengths.contains(&0) || lengths[0] + lengths[1] > MAX_BYTES {
        return None;
    }
    let start = spans.len();
    let pair = [
        memory.span(first.address, lengths[0])?,
        memory.span(second.address, lengths[1])?,
    ];
    for span in pair {
        spans.push(span);
    }
    let middle = start + 2 - (writes[0] + writes[1]);
    Some(Chain::new(start, middle, start + 2))
}

struct Walk<'w, 'm> {
    map: &'m Mapping,
    spans: &'w mut Vec<Span<'m>>,
    /// Where in `spans` the device-writable part starts.
    writable: Option<usize>,
    descriptors: usize,
    bytes: usize,
}

impl<'m> Walk<'_, 'm> {
    /// Walks the ring's own descriptor table.
    fn direct(&mut self, mut descriptor: Descriptor) -> Result<(), ChainError> {
        loop {
            self.count()?;
            let more = descriptor.flags & Descriptor::NEXT != 0;
            if descriptor.flags & Descriptor::INDIRECT != 0 {
                return if more {
                    Err(ChainError::Indirect(descriptor.length))
                } else {
                    self.indirect(descriptor)
                };
            }
            self.push(descriptor)?;
            if !more {
                return Ok(());
            }
            if descriptor.next >= self.map.size() {
                return Err(ChainError::Next(descriptor.next));
            }
            descriptor = self.map.descriptor(descriptor.next);
        }
    }

    fn indirect(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        let Descriptor {
            address, length, ..
        } = descriptor;
        let entries = length / 16;
        if !length.is_multiple_of(16) || entries == 0 || entries as usize > MAX_DESCRIPTORS {
            return Err(ChainError::Indirect(length));
        }
        let table = self
            .map
            .memory()
            .span(address, length as usize)
            .ok_or(ChainError::Outside { address, length })?;
        let mut index = 0;
        loop {
            if u32::from(index) >= entries {
                return Err(ChainError::Next(index));
            }
            self.count()?;
            let descriptor = Descriptor::read(&table, index);
            if descriptor.flags & Descriptor::INDIRECT != 0 {
                return Err(ChainError::Indirect(descriptor.length));
            }
            self.push(descriptor)?;
            if descriptor.flags & Descriptor::NEXT == 0 {
                return Ok(());
            }
            index = descriptor.next;
        }
    }

    /// Counts a descriptor. A loop exceeds the limit, because it visits some descriptor again.
    fn count(&mut self) -> Result<(), ChainError> {
        self.descriptors += 1;
        if self.descriptors > MAX_DESCRIPTORS {
            return Err(ChainError::TooManyDescriptors);
        }
        Ok(())
    }

    fn push(&mut self, descriptor: Descriptor) -> Result<(), ChainError> {
        let Descriptor {
            mut address,
            length,
            flags,
            ..
        } = descriptor;
        let outside = ChainError::Outside { address, length };
        if length == 0 {
            return Err(ChainError::Empty);
        }
        let mut left = length as usize;
        self.bytes += left;
        if self.bytes > MAX_BYTES {
            return Err(ChainError::TooLong);
        }
        let memory = self.map.memory();
        if flags & Descriptor::WRITE != 0 {
            self.writable.get_or_insert(self.spans.len());
            // To the device one descriptor is one target, because the layout depends on it. Drivers
            // allocate no buffer that lies across two regions of guest memory.
            self.spans.push(memory.span(address, left).ok_or(outside)?);
            return Ok(());
        }
        if self.writable.is_some() {
            return Err(ChainError::Order);
        }
        while left > 0 {
            let span = memory.longest_span(address, left).ok_or(outside)?;
            left -= span.len();
            address = address.wrapping_add(span.len() as u64);
            self.spans.push(span);
        }
        Ok(())
    }
}
