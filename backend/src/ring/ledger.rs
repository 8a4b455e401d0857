//! The ledger of a receive ring: who tells it, and of what.

use std::marker::PhantomData;

use zcnic_device::ledger::{
    Ledger, Mode, Report, Settings, Span as GuestSpan, Violation,
    sanitize::{Inspect, intact, poison},
};

use crate::ring::raw::{Memory, Span};

/// What is kept of one receive ring.
#[derive(Debug, Default)]
pub(crate) struct LedgerState {
    pub(crate) ledger: Ledger,
    /// Entry of the available ring up to which the ledger was told; `None`: of nothing yet.
    seen: Option<u16>,
    /// What it said when the queue last stopped.
    pub(crate) last_stop: Option<Report>,
}

impl LedgerState {
    /// Begins anew.
    pub(crate) fn configure(&mut self, settings: Settings) {
        *self = Self::default();
        self.ledger.configure(settings);
    }

    /// The ring is gone, or is about to start anew.
    pub(crate) fn lost(&mut self) {
        self.configure(self.ledger.settings());
    }

    /// Who watches the ring from now on, if anybody wants to know.
    pub(crate) fn recorder(&mut self, now: impl FnOnce() -> u64) -> Option<LedgerRecorder<'_>> {
        let mode = self.ledger.settings().mode;
        let now = match mode {
            Mode::Off => return None,
            // It keeps no times.
            Mode::Counting => 0,
            Mode::Full => now(),
        };
        let inside = mode == Mode::Full;
        Some(LedgerRecorder {
            ledger_state: self,
            now,
            inside,
            counted: Counted::default(),
        })
    }

    /// The queue stopped and everything is returned.
    pub(crate) fn stop(&mut self, now: u64) -> Option<Report> {
        if self.ledger.settings().mode == Mode::Off {
            return None;
        }
        self.last_stop = Some(self.ledger.stop(now));
        self.last_stop
    }

    /// What was found since the last time.
    pub(crate) fn violations(&mut self) -> Vec<Violation> {
        self.ledger.take_violations()
    }
}

/// Tells the ledger of what happens to a ring while that is locked.
pub(crate) struct LedgerRecorder<'r> {
    ledger_state: &'r mut LedgerState,
    now: u64,
    /// Whether it matters which chains they are, and what they consist of.
    inside: bool,
    counted: Counted,
}

/// Chains returned that the ledger was not told of.
#[derive(Default)]
struct Counted {
    filled: u32,
    unused: u32,
    last: u16,
}

impl LedgerRecorder<'_> {
    /// The entry of the available ring from which on the ledger was not told; the next one to take is `next`.
    pub(crate) fn seen(&self, next: u16) -> u16 {
        self.ledger_state.seen.unwrap_or(next)
    }

    /// Whether it matters which chains are posted, and what they consist of.
    #[inline]
    pub(crate) fn looks_inside(&self) -> bool {
        self.inside
    }

    /// All chains before `entry` were posted, as far as that was not told before; it does not matter which they are.
    /// The next one to take is `next`.
    pub(crate) fn count_posted(&mut self, next: u16, entry: u16) {
        // A ring that was not looked at yet knows of less than was told. Both are less than a ring's size apart.
        let chains = entry.wrapping_sub(self.seen(next)).cast_signed();
        if let Ok(chains @ 1..) = u16::try_from(chains) {
            self.ledger_state.seen = Some(entry);
            self.count(chains);
        } else {
            self.ledger_state.seen.get_or_insert(next);
        }
    }

    fn count(&mut self, posted: u16) {
        let Counted {
            filled,
            unused,
            last,
        } = std::mem::take(&mut self.counted);
        if posted > 0 || filled > 0 || unused > 0 {
            self.ledger_state.ledger.count(posted, filled, unused, last);
        }
    }

    /// The chain in the next entry was posted; `None`: it can't be used.
    pub(crate) fn posted(
        &mut self,
        entry: u16,
        head: u16,
        memory: &Memory,
        targets: Option<&[Span<'_>]>,
    ) {
        self.ledger_state.seen = Some(entry.wrapping_add(1));
        let spans: Option<Vec<GuestSpan>> =
            targets.map(|targets| targets.iter().map(|target| span(memory, target)).collect());
        self.ledger_state
            .ledger
            .posted(head, spans.as_deref(), self.now);
        if self.ledger_state.ledger.settings().sanitize {
            for (target, span) in targets
                .unwrap_or_default()
                .iter()
                .zip(spans.unwrap_or_default())
            {
                poison(&Slices(PhantomData), target, span.address);
            }
        }
    }

    /// The device is about to use a chain.
    pub(crate) fn used(&mut self, head: u16, memory: &Memory, targets: &[Span<'_>]) {
        if !self.ledger_state.ledger.settings().sanitize || !self.ledger_state.ledger.has(head) {
            return;
        }
        for target in targets {
            let span = span(memory, target);
            if let Some(offset) = intact(&Slices(PhantomData), target, span.address) {
                self.ledger_state.ledger.written(span, head, offset);
                // Told of once, should the chain not be used after all.
                poison(&Slices(PhantomData), target, span.address);
            }
        }
    }

    /// The device returned a chain.
    #[inline]
    pub(crate) fn returned(&mut self, head: u16, length: u32) {
        if self.inside {
            self.ledger_state.ledger.returned(head, length, self.now);
        } else {
            self.counted.filled += u32::from(length > 0);
            self.counted.unused += u32::from(length == 0);
            self.counted.last = head;
        }
    }
}

impl Drop for LedgerRecorder<'_> {
    fn drop(&mut self) {
        self.count(0);
    }
}

/// Where a span is to the guest.
fn span(memory: &Memory, span: &Span<'_>) -> GuestSpan {
    GuestSpan {
        address: memory.guest_address(span).unwrap_or(u64::MAX),
        length: span.len() as u32,
    }
}

/// Reads and writes buffers that the lock of their ring protects.
struct Slices<'m>(PhantomData<Span<'m>>);

impl<'m> Inspect for Slices<'m> {
    type Target = Span<'m>;

    fn length(&self, target: &Self::Target) -> usize {
        target.len()
    }

    fn peek(&self, target: &Self::Target, offset: usize, into: &mut [u8]) {
        target.read(offset, into);
    }

    fn poke(&self, target: &Self::Target, offset: usize, bytes: &[u8]) {
        target.write(offset, bytes);
    }
}
