//! The device's [`ReceiveRing`] over a split ring.

use zcnic_device::{
    fault::{RawRing, UsedElement},
    memory::ReceiveRing,
};

use super::ledger::LedgerRecorder;
use super::{
    RingError,
    chain::{ChainError, walk},
    mover::NextCopy,
    raw::Span,
    split::SplitRing,
    window::PrefetchWindow,
};

/// Receive chains of one ring while its lock is held. Everything committed becomes visible to the
/// driver with [`publish`](Self::publish), so that a batch costs one store of the used index.
pub(crate) struct ReceiveChains<'m> {
    /// `None`: the ring is not running. It behaves like a ring without buffers.
    ring: Option<SplitRing<'m>>,
    /// Chains that may be reserved at once.
    max_chains: usize,
    window: PrefetchWindow<'m>,
    /// Gets the place of the next payload.
    next_copy: Option<&'m NextCopy>,
    /// Records operations on chains in the ledger.
    recorder: Option<LedgerRecorder<'m>>,
    /// The error that broke the ring.
    error: Option<RingError>,
    /// The error of the last invalid chain.
    chain_error: Option<ChainError>,
}

impl<'m> ReceiveChains<'m> {
    /// The chains of `ring`, of which a frame takes at most `max_chains`. `window` lends its
    /// allocations.
    pub(crate) fn new(
        ring: Option<SplitRing<'m>>,
        max_chains: usize,
        window: PrefetchWindow<'static>,
    ) -> Self {
        Self {
            ring,
            max_chains,
            window: PrefetchWindow::recycled(window),
            next_copy: None,
            recorder: None,
            error: None,
            chain_error: None,
        }
    }

    /// Announces in `next_copy` where the payload behind the current one is placed.
    pub(crate) fn announce(mut self, next_copy: &'m NextCopy) -> Self {
        self.next_copy = Some(next_copy);
        self
    }

    /// Records all chains that are posted and returned in `recorder`, from those posted now on.
    pub(crate) fn recorded_by(mut self, recorder: Option<LedgerRecorder<'m>>) -> Self {
        self.recorder = recorder;
        self.observe();
        self
    }

    /// Records chains that were posted since the last call. A recorder that only counts gets those
    /// whose index was read already: reading it again would take the line from the driver's cache.
    fn observe(&mut self) {
        match &self.recorder {
            Some(recorder) if recorder.looks_inside() => self.record_posted(),
            Some(_) => self.record_known(0),
            None => {}
        }
    }

    /// Records all chains that were posted.
    pub(crate) fn record_posted(&mut self) {
        self.record_known(self.ring.as_ref().map_or(0, SplitRing::size));
    }

    /// Records the chains that are known to be posted, reading the driver's index if there are
    /// fewer than `enough`.
    fn record_known(&mut self, enough: u16) {
        let Some(mut recorder) = self.recorder.take() else {
            return;
        };
        if let Some(available) = self.attempt(|ring| ring.available(enough)) {
            self.record(&mut recorder, available);
        }
        self.recorder = Some(recorder);
    }

    fn record(&mut self, recorder: &mut LedgerRecorder<'m>, available: u16) {
        let Some(next) = self.ring.as_ref().map(SplitRing::next_available) else {
            return;
        };
        if !recorder.looks_inside() {
            recorder.count_posted(next, next.wrapping_add(available));
            return;
        }
        let mut targets = Vec::new();
        let mut ahead = recorder.recorded_until(next).wrapping_sub(next);
        while ahead < available {
            let Some(head) = self.attempt(|ring| ring.head(ahead)) else {
                return;
            };
            let Some(ring) = &self.ring else {
                return;
            };
            targets.clear();
            let chain = walk(ring.map(), head, &mut targets).ok();
            let targets = chain
                .filter(|chain| !chain.has_readable())
                .map(|chain| chain.writable(&targets));
            let memory = ring.map().memory();
            recorder.posted(next.wrapping_add(ahead), head, memory, targets);
            ahead += 1;
        }
    }

    /// Passes reserved chain `index`, which is about to be used, to the recorder.
    #[cold]
    fn check(&mut self, index: usize, head: u16) {
        let next = self.ring.as_ref().map_or(0, SplitRing::next_available);
        let seen = self
            .recorder
            .as_ref()
            .map_or(0, |recorder| recorder.recorded_until(next));
        // It was posted since the last record.
        if usize::from(seen.wrapping_sub(next)) <= index {
            self.observe();
        }
        if let (Some(ring), Some(recorder)) = (&self.ring, &mut self.recorder) {
            recorder.used(head, ring.map().memory(), self.window.targets(index));
        }
    }

    fn returned(&mut self, head: u16, length: u32) {
        if let Some(recorder) = &mut self.recorder {
            recorder.returned(head, length);
        }
    }

    /// Returns the window's allocations.
    pub(crate) fn into_window(self) -> PrefetchWindow<'static> {
        PrefetchWindow::recycled(self.window)
    }

    /// Publishes committed chains. Returns whether the driver wants an interrupt.
    pub(crate) fn publish(&mut self) -> bool {
        self.observe();
        self.attempt(|ring| Ok(ring.publish())).unwrap_or(false)
    }

    /// Moderates an interrupt that the driver wants, unless `enough` chains wait for it. Returns
    /// whether it did.
    pub(crate) fn moderate(&mut self, enough: u16) -> bool {
        self.ring.as_mut().is_some_and(|ring| ring.moderate(enough))
    }

    /// Returns every available chain with length 0. Returns how many there were.
    pub(crate) fn drain(&mut self) -> u32 {
        let mut drained = 0;
        self.window.clear();
        // The driver may keep posting meanwhile, but at most a ring's size counts.
        let limit = self.ring.as_ref().map_or(0, SplitRing::size);
        while drained < u32::from(limit) {
            self.observe();
            let next = self.attempt(|ring| match ring.available(1)? {
                0 => Ok(None),
                _ => {
                    let head = ring.head(0)?;
                    ring.complete(head, 0);
                    Ok(Some(head))
                }
            });
            let Some(Some(head)) = next else {
                break;
            };
            self.returned(head, 0);
            drained += 1;
        }
        drained
    }

    /// Asks the driver not to kick when it posts more: each frame polls the ring.
    pub(crate) fn disable_kicks(&mut self) {
        if let Some(ring) = &mut self.ring {
            ring.disable_kicks();
        }
    }

    /// Asks for a kick when the driver posts more. Returns whether it did already.
    pub(crate) fn enable_kicks(&mut self) -> bool {
        self.attempt(SplitRing::enable_kicks).unwrap_or(false)
    }

    /// The error that broke the ring, if one did.
    pub(crate) fn error(&self) -> Option<RingError> {
        self.error
    }

    /// The error of an invalid chain, if there was one.
    pub(crate) fn chain_error(&self) -> Option<ChainError> {
        self.chain_error
    }

    /// Walks more chains, if there are any.
    #[inline(never)]
    fn look_up(&mut self) {
        // Pages for long payload are prefetched later, during the copy before: translating a page's
        // address takes as long as writing to it, and would delay everything else here.
        let is_worth = self.next_copy.is_some_and(NextCopy::is_worth);
        let parts = if is_worth { 1 } else { 2 };
        if let (None, Some(ring)) = (self.error, &mut self.ring) {
            match self.window.extend(ring, parts) {
                Ok(None) => {}
                Ok(wrong) => self.chain_error = wrong,
                Err(error) => self.error = Some(error),
            }
        }
    }

    #[inline]
    fn attempt<T>(
        &mut self,
        action: impl FnOnce(&mut SplitRing<'m>) -> Result<T, RingError>,
    ) -> Option<T> {
        if self.error.is_some() {
            return None;
        }
        match action(self.ring.as_mut()?) {
            Ok(value) => Some(value),
            Err(error) => {
                self.error = Some(error);
                None
            }
        }
    }
}

impl<'m> ReceiveRing for ReceiveChains<'m> {
    type Target = Span<'m>;

    #[inline]
    fn reserve(&mut self) -> bool {
        let index = self.window.reserved();
        if index >= self.max_chains {
            return false;
        }
        if self.window.is_short() {
            self.look_up();
        }
        let Some(head) = self.window.reserve() else {
            return false;
        };
        if self
            .recorder
            .as_ref()
            .is_some_and(LedgerRecorder::looks_inside)
        {
            self.check(index, head);
        }
        true
    }

    #[inline]
    fn chain(&self, index: usize) -> &[Span<'m>] {
        self.window.targets(index)
    }

    #[inline]
    fn copying_to(&self, index: usize) {
        if let Some(next_copy) = self.next_copy.filter(|next_copy| next_copy.is_worth()) {
            next_copy.target.set(self.window.payload_hint(index + 1));
        }
    }

    #[inline]
    fn commit(&mut self, written: &[u32]) {
        if let Some(ring) = &mut self.ring {
            for &length in written {
                let Some(head) = self.window.take() else {
                    break;
                };
                ring.complete(head, length);
                if let Some(recorder) = &mut self.recorder {
                    recorder.returned(head, length);
                }
            }
        }
        self.window.release();
    }
}

impl RawRing for ReceiveChains<'_> {
    fn size(&self) -> u32 {
        self.ring.as_ref().map_or(0, |ring| ring.size().into())
    }

    fn hold(&mut self, written: &[u32], held: &mut Vec<UsedElement>) {
        if let Some(ring) = &mut self.ring {
            for &length in written {
                let Some(head) = self.window.take() else {
                    break;
                };
                let id = head.into();
                held.push(UsedElement { id, length });
                ring.skip();
            }
        }
        self.window.release();
    }

    fn put_used(&mut self, UsedElement { id, length }: UsedElement) {
        if let Some(ring) = &mut self.ring {
            ring.put(id, length);
        }
        self.returned(id as u16, length);
    }
}
