//! Two model drivers exchange a frame in one process, without a virtual machine:
//! `cargo run -p zcnic-model --example exchange_a_frame`.

use zcnic_model::{Packet, Shape, frames::Flow, in_process::cabled};

fn main() {
    // Two ports on one cable, each with two data pairs and the command pair.
    let [mut sender, mut receiver] = cabled(3);

    // HELLO and the configuration. Each receive queue of the receiver gets four chains, of a header
    // fragment and a page.
    sender.bring_up(Shape::SPLIT, 0);
    receiver.bring_up(Shape::SPLIT, 4);

    // A TCP frame whose checksum the device inserts.
    let frame = Flow::tcp4().frame(b"a payload");
    sender.send(0, Packet::from(&frame).checksum());

    // The model driver checks the frame's chains and headers against the ABI.
    let received = receiver.receive(0);
    assert_eq!(received.frame, frame);
    assert_eq!(received.checksum(), Some(true));
    let split = received.split_at().expect("the payload is in a page");
    println!(
        "{} bytes of headers and {} of payload, in {} chain",
        split,
        frame.len() - split,
        received.chains
    );
}

#[test]
fn the_example_runs() {
    main();
}
