//! The next receive chains of a ring, walked and prefetched before their turn.
//!
//! Memory is prefetched in three stages, one behind the other: descriptors, indirect tables,
//! buffers. Each stage is a loop over some chains, which leaves little work per chain.

use super::{
    RingError,
    chain::{Chain, ChainError, walk},
    prefetch::PrefetchHint,
    raw::Span,
    recycle,
    split::SplitRing,
};

/// Chains that are walked at least beyond the reserved one: as many as a processor can have cache
/// misses in flight.
const AHEAD: usize = 8;

/// Chains that are walked at once.
const STEP: u16 = 8;

/// Returned chains that are kept before they are dropped.
const KEPT: usize = 256;

/// Bytes of a buffer that are prefetched. Most frames of a fast sender are small, and for long ones
/// the hardware prefetcher takes over.
const WRITE_AHEAD: usize = 128;

/// Chains in the order of the ring: returned ones, reserved ones, walked ones.
#[derive(Debug, Default)]
pub(crate) struct PrefetchWindow<'m> {
    chains: Vec<Posted>,
    spans: Vec<Span<'m>>,
    returned: usize,
    /// Chains that were returned or are reserved.
    reserved: usize,
}

/// A chain and its head.
#[derive(Clone, Copy, Debug)]
struct Posted {
    head: u16,
    /// Without parts if it is invalid.
    chain: Chain,
}

impl<'m> PrefetchWindow<'m> {
    /// An empty window that reuses the allocations of another.
    pub(crate) fn recycled(used: PrefetchWindow<'_>) -> Self {
        Self {
            chains: recycle(used.chains),
            spans: recycle(used.spans),
            ..Self::default()
        }
    }

    /// Drops all chains.
    pub(crate) fn clear(&mut self) {
        self.chains.clear();
        self.spans.clear();
        (self.returned, self.reserved) = (0, 0);
    }

    /// Chains that are reserved.
    #[inline]
    pub(crate) fn reserved(&self) -> usize {
        self.reserved - self.returned
    }

    /// Chains that were walked and not returned.
    #[inline]
    fn ahead(&self) -> u16 {
        (self.chains.len() - self.returned) as u16
    }

    /// Whether more chains should be walked.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.reserved + AHEAD >= self.chains.len()
    }

    /// Walks more chains if there are any, and prefetches the first `parts` descriptors of each.
    /// The driver's index is read only if no walked chain is left. Returns the error of an invalid
    /// chain.
    pub(crate) fn extend(
        &mut self,
        ring: &mut SplitRing<'m>,
        parts: usize,
    ) -> Result<Option<ChainError>, RingError> {
        if self.returned >= KEPT {
            self.forget_returned();
        }
        let ahead = self.ahead();
        let known = if self.reserved == self.chains.len() {
            ring.available(ahead + 1)?
        } else {
            ring.known()
        };
        let (map, start) = (ring.map(), ring.next_available().wrapping_add(ahead));
        let left = known.saturating_sub(ahead);
        let head = |at: u16| map.available_entry(start.wrapping_add(at));
        for at in 2 * STEP..left.min(3 * STEP) {
            map.prefetch_descriptor(head(at));
        }
        for at in STEP..left.min(2 * STEP) {
            map.prefetch_table(head(at));
        }
        let mut wrong = None;
        for at in 0..left.min(STEP) {
            let head = head(at);
            if head >= ring.size() {
                let size = ring.size();
                return Err(RingError::Head { head, size });
            }
            let chain = match walk(map, head, &mut self.spans) {
                Ok(chain) if !chain.has_readable() => chain,
                // A receive chain with a readable part is invalid, too.
                Ok(_) => Chain::empty(&self.spans),
                Err(error) => {
                    wrong = Some(error);
                    Chain::empty(&self.spans)
                }
            };
            for span in chain.writable(&self.spans).iter().take(parts) {
                span.prefetch_write(WRITE_AHEAD);
            }
            self.chains.push(Posted { head, chain });
        }
        Ok(wrong)
    }

    /// Drops returned chains, so that the window does not grow while the driver keeps posting.
    fn forget_returned(&mut self) {
        self.chains.drain(..self.returned);
        self.reserved -= self.returned;
        self.returned = 0;
        let first = self.chains.first();
        let gone = first.map_or(self.spans.len(), |posted| posted.chain.start());
        self.spans.drain(..gone);
        for posted in &mut self.chains {
            posted.chain = posted.chain.without(gone);
        }
    }

    /// Reserves the next chain, if it was walked; returns its head.
    #[inline]
    pub(crate) fn reserve(&mut self) -> Option<u16> {
        let posted = self.chains.get(self.reserved)?;
        self.reserved += 1;
        Some(posted.head)
    }

    /// Takes the first reserved chain as returned; returns its head.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u16> {
        if self.returned == self.reserved {
            return None;
        }
        let posted = self.chains.get(self.returned)?;
        self.returned += 1;
        Some(posted.head)
    }

    /// Ends all reservations.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.reserved = self.returned;
    }

    /// The writable parts of reserved chain `index`; empty if there is no such chain.
    #[inline]
    pub(crate) fn targets(&self, index: usize) -> &[Span<'m>] {
        if self.returned + index < self.reserved {
            self.parts(index)
        } else {
            &[]
        }
    }

    /// The writable parts of chain `index`, reserved or not.
    #[inline]
    fn parts(&self, index: usize) -> &[Span<'m>] {
        match self.chains.get(self.returned + index) {
            Some(posted) => posted.chain.writable(&self.spans),
            None => &[],
        }
    }

    /// Where the payload of chain `index`, reserved or not, will be placed, if that is known.
    pub(crate) fn payload_hint(&self, index: usize) -> PrefetchHint {
        let payload = self.parts(index).last();
        payload.map(|span| span.hint(0)).unwrap_or_default()
    }
}
