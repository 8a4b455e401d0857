//! Whether a driver that waits for an interrupt gets one.

use loom::{
    sync::{Arc, Mutex, Notify},
    thread,
};

use crate::{
    ring::{Indices, Ring, SIZE, Shared},
    sync::{explore, lock},
};

/// The device's position in a ring whose chains were all made available, and about which the driver
/// was interrupted before.
fn started() -> Indices {
    Indices {
        signalled: Some(0),
        ..Indices::default()
    }
}

/// Makes all chains available.
fn post_all(ring: &Ring) {
    for index in 0..SIZE {
        ring.map.post(index, index, ring.event_idx);
    }
}

/// Takes all used chains, and waits for interrupts as NAPI does: by asking for one, and looking once
/// more.
fn take_all(ring: &Ring, interrupt: &Notify) {
    let mut seen = 0;
    loop {
        ring.map.disable_interrupts(ring.event_idx);
        while seen != ring.map.used_index() {
            let (head, length) = ring.map.used(seen);
            assert_eq!((head, length), (seen, 7), "used element {seen}");
            assert_eq!(
                ring.read(head),
                200 + u32::from(head),
                "the chain's content"
            );
            seen += 1;
        }
        if seen == SIZE {
            return;
        }
        if !ring.map.enable_interrupts(seen, ring.event_idx) {
            interrupt.wait();
        }
    }
}

/// Fills the next chain, and returns it; returns whether the driver wants an interrupt.
fn fill_one(ring: &Ring, indices: &mut Indices) -> bool {
    let mut view = ring.device(indices);
    assert!(view.available(1).expect("a well-behaved driver") > 0);
    let head = view.head(0).expect("a well-behaved driver");
    ring.write(head, 200 + u32::from(head));
    view.complete(head, 7);
    view.publish()
}

/// The device fills two chains one by one, and interrupts whenever `publish` says so.
///
/// # Panics
///
/// The driver waits for ever, or finds a used chain before its content is there.
pub fn no_interrupt_is_lost(event_idx: bool) {
    explore(move || {
        let ring = Shared::new(event_idx);
        let interrupt = Arc::new(Notify::new());
        post_all(&ring);
        let device = {
            let (ring, interrupt) = (ring.clone(), Arc::clone(&interrupt));
            thread::spawn(move || {
                let mut indices = started();
                for _ in 0..SIZE {
                    if fill_one(&ring, &mut indices) {
                        interrupt.notify();
                    }
                }
            })
        };
        take_all(&ring, &interrupt);
        device.join().expect("the device");
    });
}

/// The same with moderation: interrupts that are wanted are left to a timer, which looks again.
///
/// # Panics
///
/// As [`no_interrupt_is_lost`].
pub fn no_moderated_interrupt_is_lost() {
    /// What the lock of a queue protects.
    struct Queue {
        indices: Indices,
        /// The timer has a job.
        moderated: bool,
    }
    /// The timer's job.
    fn expire(ring: &Shared, queue: &Mutex<Queue>, interrupt: &Notify) {
        let mut queue = lock(queue);
        let due = std::mem::take(&mut queue.moderated);
        if due && ring.device(&mut queue.indices).take_moderated() {
            interrupt.notify();
        }
    }
    explore(|| {
        let ring = Shared::new(true);
        let interrupt = Arc::new(Notify::new());
        let queue = Arc::new(Mutex::new(Queue {
            indices: started(),
            moderated: false,
        }));
        post_all(&ring);
        let device = {
            let (ring, queue) = (ring.clone(), Arc::clone(&queue));
            let interrupt = Arc::clone(&interrupt);
            thread::spawn(move || {
                for _ in 0..SIZE {
                    let mut guard = lock(&queue);
                    if fill_one(&ring, &mut guard.indices) {
                        if ring.device(&mut guard.indices).moderate(0) {
                            guard.moderated = true;
                        } else {
                            interrupt.notify();
                        }
                    }
                }
                // Its last job is due some time after the last frame.
                expire(&ring, &queue, &interrupt);
            })
        };
        take_all(&ring, &interrupt);
        device.join().expect("the device");
    });
}
