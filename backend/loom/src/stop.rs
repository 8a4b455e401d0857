//! What a queue stop promises: afterwards nothing of the ring is used any more.

use loom::{
    sync::{Arc, Mutex},
    thread,
};

use crate::{
    ring::{Indices, SIZE, Shared},
    sync::{explore, lock},
};

/// What the lock of a queue protects.
struct Queue {
    indices: Indices,
    running: bool,
}

/// A worker serves a ring while control stops its queue and returns what is left.
///
/// # Panics
///
/// A chain is returned twice or not at all, or the used index advances after the stop.
pub fn a_stopped_ring_is_used_no_more() {
    explore(|| {
        let ring = Shared::new(true);
        let queue = Arc::new(Mutex::new(Queue {
            indices: Indices::default(),
            running: true,
        }));
        for index in 0..SIZE {
            ring.map.post(index, index, true);
        }
        let worker = {
            let (ring, queue) = (ring.clone(), Arc::clone(&queue));
            thread::spawn(move || {
                for _ in 0..SIZE {
                    let mut queue = lock(&queue);
                    if !queue.running {
                        return;
                    }
                    let mut view = ring.device(&mut queue.indices);
                    if view.available(1).expect("a well-behaved driver") > 0 {
                        let head = view.head(0).expect("a well-behaved driver");
                        view.complete(head, 7);
                        view.publish();
                    }
                    let _ = view.enable_kicks();
                }
            })
        };
        {
            let mut queue = lock(&queue);
            queue.running = false;
            let mut view = ring.device(&mut queue.indices);
            let left = view.available(SIZE).expect("a well-behaved driver");
            let mut heads = Vec::new();
            view.heads(left, &mut heads).expect("a well-behaved driver");
            view.complete_all(&heads, 0);
            view.publish();
        }
        assert_eq!(
            ring.map.used_index(),
            SIZE,
            "all chains are returned by the stop"
        );
        worker.join().expect("the worker");
        assert_eq!(ring.map.used_index(), SIZE, "none after it");
        for index in 0..SIZE {
            assert_eq!(ring.map.used(index).0, index, "used element {index}");
        }
    });
}
