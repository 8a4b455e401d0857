//! Guests that rewrite their memory while the device reads it.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use vm_memory::{Bytes, GuestAddress};
use zcnic_model::{Packet, frames::Flow, in_process::RING_SIZE};

use crate::attacked::attack;

/// Received bytes match their checksum verdict, whenever the sender rewrites its frames.
#[test]
fn a_sender_that_rewrites_its_frames_does_not_deceive_the_receiver() {
    const FRAMES: usize = 300;
    attack(|target| {
        let mut receiver = target.guest(0, 400);
        let mut sender = target.guest(1, 0);
        let frame = Flow::tcp4().frame(&[0; 1200]);
        sender.stop_transmit(0).expect("stop");
        for _ in 0..FRAMES {
            sender.enqueue(
                0,
                Packet::from(&frame).checksum().scattered(&[32 + 54, 1200]),
            );
        }
        // Every second descriptor is a frame's payload.
        let memory = sender.parts().0.memory();
        let descriptors = sender.transport().ring(1).descriptors;
        let payloads: Vec<GuestAddress> = (0..RING_SIZE)
            .filter_map(|index| {
                let at = GuestAddress(descriptors.0 + 16 * u64::from(index));
                let address: u64 = memory.read_obj(at).expect("in memory");
                let length: u32 = memory.read_obj(GuestAddress(at.0 + 8)).expect("in memory");
                (length == 1200).then_some(GuestAddress(address))
            })
            .collect();
        assert!(payloads.len() >= FRAMES);
        let done = Arc::new(AtomicBool::new(false));
        let rewriting = Arc::new(Barrier::new(2));
        let scribbler = {
            let (done, rewriting) = (Arc::clone(&done), Arc::clone(&rewriting));
            let (memory, payloads) = (Arc::clone(&memory), payloads.clone());
            thread::spawn(move || {
                let mut value = 1;
                let mut pass = || {
                    for at in &payloads {
                        for offset in (0..1200).step_by(8) {
                            let at = GuestAddress(at.0 + offset);
                            memory.write_obj::<u64>(value, at).expect("in memory");
                        }
                        value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                    }
                };
                pass();
                rewriting.wait();
                while !done.load(Ordering::Relaxed) {
                    pass();
                }
            })
        };
        rewriting.wait();
        sender.start_transmit(0).expect("start");
        for _ in 0..FRAMES {
            // The model driver compares the verdict, which is "good", with the bytes.
            let received = receiver.receive(0);
            assert_eq!(received.checksum(), Some(true));
            assert_ne!(received.frame, frame);
        }
        done.store(true, Ordering::Relaxed);
        scribbler.join().expect("scribbler");
        for at in payloads {
            memory.write_slice(&[0; 1200], at).expect("in memory");
        }
        sender.flush(0);
    });
}
