//! Whether a device that waits for a kick gets one.

use loom::{
    sync::{Arc, Notify},
    thread,
};

use crate::{
    ring::{Indices, SIZE, Shared},
    sync::explore,
};

/// A driver posts two chains one by one, while the device serves them and waits whenever
/// `enable_kicks` says that it may.
///
/// # Panics
///
/// The device waits for ever, or reads a chain before its content is there.
pub fn no_kick_is_lost(event_idx: bool) {
    explore(move || {
        let ring = Shared::new(event_idx);
        let kick = Arc::new(Notify::new());
        let device = {
            let (ring, kick) = (ring.clone(), Arc::clone(&kick));
            thread::spawn(move || {
                let mut indices = Indices::default();
                while indices.next_used < SIZE {
                    let mut view = ring.device(&mut indices);
                    view.disable_kicks();
                    let available = view.available(SIZE).expect("a well-behaved driver");
                    for _ in 0..available {
                        let head = view.head(0).expect("a well-behaved driver");
                        assert_eq!(
                            ring.read(head),
                            100 + u32::from(head),
                            "the chain's content"
                        );
                        view.complete(head, 0);
                    }
                    view.publish();
                    let more = view.enable_kicks().expect("a well-behaved driver");
                    if !more && indices.next_used < SIZE {
                        kick.wait();
                    }
                }
            })
        };
        for index in 0..SIZE {
            ring.write(index, 100 + u32::from(index));
            if ring.map.post(index, index, event_idx) {
                kick.notify();
            }
        }
        device.join().expect("the device");
    });
}
