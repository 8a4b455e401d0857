//! The examples of other crates that need a running backend.

mod common;

#[path = "../../ctl/examples/arm_a_fault.rs"]
#[allow(dead_code, reason = "the test replaces its main()")]
mod arm_a_fault;

use zcnic_model::{Shape, frames::Flow};

use common::World;

#[test]
fn a_client_arms_a_fault_waits_for_it_and_removes_it() {
    let world = World::new();
    let [mut sender, mut receiver] = world.drivers(3);
    sender.bring_up(Shape::SPLIT, 0);
    receiver.bring_up(Shape::SPLIT, 4);

    let mut client = world.control();
    let lost = arm_a_fault::lose_a_datagram(&mut client, "1", || {
        sender.send(0, Flow::udp4().frame(b"dropped"));
    });
    assert_eq!(lost.expect("a loss"), 1);
    assert!(client.fault_list().expect("rules").is_empty());

    let second = Flow::udp4().frame(b"delivered");
    sender.send(0, &second);
    assert_eq!(receiver.receive(0).frame, second);
}
