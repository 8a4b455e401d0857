//! The receive chains that are next, walked before their turn, so that what they lead to is on its way to the cache.
//!
//! Memory is sent for in three steps, one behind the other: descriptors, indirect tables, buffers. Each is a loop over
//! some chains, because little is left to do for each chain then.

use super::{
    RingError,
    chain::{Chain, ChainError, walk},
    prefetch::PrefetchHint,
    raw::Span,
    recycle,
    split::SplitRing,
};

/// How many chains are known at least beyond the one that is reserved: as many as a processor can wait for at once.
const AHEAD: usize = 8;

/// How many are looked up at once.
const STEP: u16 = 8;

/// So many returned chains are kept before they are forgotten.
const KEPT: usize = 256;

/// Bytes of a buffer that are sent for; most frames of a fast sender are small, and for long ones the processor
/// sees by itself where it goes.
const WRITE_AHEAD: usize = 128;

/// Chains in the order of the ring: those that were returned, those that are reserved, those that are next.
#[derive(Debug, Default)]
pub(crate) struct PrefetchWindow<'m> {
    chains: Vec<Posted>,
    spans: Vec<Span<'m>>,
    returned: usize,
    /// How many were returned or are reserved.
    reserved: usize,
}

/// A chain, and the descriptor where it starts.
#[derive(Clone, Copy, Debug)]
struct Posted {
    head: u16,
    /// Of no parts if it can't be used.
    chain: Chain,
}

impl<'m> PrefetchWindow<'m> {
    /// An empty one with the memory of another.
    pub(crate) fn recycled(used: PrefetchWindow<'_>) -> Self {
        Self {
            chains: recycle(used.chains),
            spans: recycle(used.spans),
            ..Self::default()
        }
    }

    /// Forgets what was not returned.
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

    /// Chains that were looked up and not returned.
    #[inline]
    fn ahead(&self) -> u16 {
        (self.chains.len() - self.returned) as u16
    }

    /// It is time to look more chains up.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.reserved + AHEAD >= self.chains.len()
    }

    /// Looks more chains up if there are any; the driver's index is looked at only if there is none otherwise. The first
    /// `parts` descriptors of each are sent for. Says what is wrong with one that can't be used.
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
                // A receive chain with a readable part is as unusable as a broken one.
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

    /// Makes room: a driver that goes on posting does not make the window grow.
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

    /// Reserves the next chain, if it is known, and says where it starts.
    #[inline]
    pub(crate) fn reserve(&mut self) -> Option<u16> {
        let posted = self.chains.get(self.reserved)?;
        self.reserved += 1;
        Some(posted.head)
    }

    /// Takes the first reserved chain out and says where it starts.
    #[inline]
    pub(crate) fn take(&mut self) -> Option<u16> {
        if self.returned == self.reserved {
            return None;
        }
        let posted = self.chains.get(self.returned)?;
        self.returned += 1;
        Some(posted.head)
    }

    /// Reserved chains are next again.
    #[inline]
    pub(crate) fn release(&mut self) {
        self.reserved = self.returned;
    }

    /// The writable parts of reserved chain `index`; none if there is no such chain.
    #[inline]
    pub(crate) fn targets(&self, index: usize) -> &[Span<'m>] {
        if self.returned + index < self.reserved {
            self.parts(index)
        } else {
            &[]
        }
    }

    /// Those of chain `index`, reserved or not.
    #[inline]
    fn parts(&self, index: usize) -> &[Span<'m>] {
        match self.chains.get(self.returned + index) {
            Some(posted) => posted.chain.writable(&self.spans),
            None => &[],
        }
    }

    /// Where the payload of chain `index` is put, reserved or not, if that is known.
    pub(crate) fn payload_hint(&self, index: usize) -> PrefetchHint {
        let payload = self.parts(index).last();
        payload.map(|span| span.hint(0)).unwrap_or_default()
    }
}
