//! The words of a split ring that driver and device share, with the orderings of the backend's
//! `ring/raw.rs`.

use loom::sync::atomic::{AtomicU16, AtomicU32, Ordering};

use crate::sync::fence;

/// The parts of a ring.
pub(crate) struct Mapping {
    size: u16,
    available_flags: AtomicU16,
    available_index: AtomicU16,
    entries: Vec<AtomicU16>,
    used_event: AtomicU16,
    used_flags: AtomicU16,
    used_index: AtomicU16,
    elements: Vec<[AtomicU32; 2]>,
    available_event: AtomicU16,
}

impl Mapping {
    pub(crate) fn new(size: u16) -> Self {
        Self {
            size,
            available_flags: AtomicU16::new(0),
            available_index: AtomicU16::new(0),
            entries: (0..size).map(|_| AtomicU16::new(0)).collect(),
            used_event: AtomicU16::new(0),
            used_flags: AtomicU16::new(0),
            used_index: AtomicU16::new(0),
            elements: (0..size)
                .map(|_| [AtomicU32::new(0), AtomicU32::new(0)])
                .collect(),
            available_event: AtomicU16::new(0),
        }
    }

    fn entry(&self, index: u16) -> usize {
        usize::from(index & (self.size - 1))
    }
}

/// The device's side.
impl Mapping {
    pub(crate) fn size(&self) -> u16 {
        self.size
    }

    pub(crate) fn available_flags(&self) -> u16 {
        self.available_flags.load(Ordering::Relaxed)
    }

    pub(crate) fn available_index(&self) -> u16 {
        self.available_index.load(Ordering::Acquire)
    }

    pub(crate) fn available_entry(&self, index: u16) -> u16 {
        self.entries[self.entry(index)].load(Ordering::Relaxed)
    }

    pub(crate) fn used_event(&self) -> u16 {
        self.used_event.load(Ordering::Relaxed)
    }

    pub(crate) fn prefetch_descriptor(&self, _: u16) {}

    pub(crate) fn set_used(&self, index: u16, id: u32, length: u32) {
        let [chain, written] = &self.elements[self.entry(index)];
        chain.store(id, Ordering::Relaxed);
        written.store(length, Ordering::Relaxed);
    }

    pub(crate) fn set_used_flags(&self, flags: u16) {
        self.used_flags.store(flags, Ordering::Relaxed);
    }

    pub(crate) fn set_used_index(&self, index: u16) {
        self.used_index.store(index, Ordering::Release);
    }

    pub(crate) fn set_available_event(&self, index: u16) {
        self.available_event.store(index, Ordering::Relaxed);
    }
}

/// The driver's side, as `drivers/virtio/virtio_ring.c` has it.
impl Mapping {
    /// Makes a chain available as number `index`, and returns whether to kick
    /// (`virtqueue_add_split()` and `virtqueue_kick_prepare_split()`).
    pub(crate) fn post(&self, index: u16, head: u16, event_idx: bool) -> bool {
        const NO_NOTIFY: u16 = 1;
        self.entries[self.entry(index)].store(head, Ordering::Relaxed);
        let new = index.wrapping_add(1);
        self.available_index.store(new, Ordering::Release);
        fence(Ordering::SeqCst);
        if !event_idx {
            return self.used_flags.load(Ordering::Relaxed) & NO_NOTIFY == 0;
        }
        let event = self.available_event.load(Ordering::Relaxed);
        // vring_need_event()
        new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(index)
    }

    /// The used index (`more_used_split()`).
    pub(crate) fn used_index(&self) -> u16 {
        self.used_index.load(Ordering::Acquire)
    }

    /// The head of used element `index`, and its length.
    pub(crate) fn used(&self, index: u16) -> (u16, u32) {
        let [chain, written] = &self.elements[self.entry(index)];
        (
            chain.load(Ordering::Relaxed) as u16,
            written.load(Ordering::Relaxed),
        )
    }

    /// Asks for an interrupt at the next used chain behind `seen`; returns whether there is one
    /// already (`virtqueue_enable_cb_prepare_split()` and `virtqueue_poll_split()`).
    pub(crate) fn enable_interrupts(&self, seen: u16, event_idx: bool) -> bool {
        if event_idx {
            self.used_event.store(seen, Ordering::Relaxed);
        } else {
            self.available_flags.store(0, Ordering::Relaxed);
        }
        fence(Ordering::SeqCst);
        self.used_index() != seen
    }

    /// Asks for no interrupts, as far as that is possible (`virtqueue_disable_cb_split()`).
    pub(crate) fn disable_interrupts(&self, event_idx: bool) {
        if !event_idx {
            self.available_flags.store(1, Ordering::Relaxed);
        }
    }
}
