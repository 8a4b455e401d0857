//! The examples of other crates that need a running backend.

mod common;

#[path = "../../ctl/examples/arm_a_fault.rs"]
#[allow(dead_code, reason = "the test replaces its main()")]
mod arm_a_fault;

use zcnic_model::{Shape, frames::Flow};

use common::World;

#[test]
fn a_client_arms_a_fault_and_waits_for_its_event() {
    let world = World::new();
    let [mut sender, mut receiver] = world.drivers(3);
    sender.bring_up(Shape::SPLIT, 0);
    receiver.bring_up(Shape::SPLIT, 4);

    let mut client = world.control();
    let rule = arm_a_fault::arm(&mut client, "1").expect("the rule is added");
    sender.send(0, Flow::udp4().frame(b"dropped"));
    let hit = arm_a_fault::wait_for_hit(&mut client, rule).expect("an event");
    assert_eq!((hit.port.as_str(), hit.count, hit.hit), ("1", 1, 1));

    let second = Flow::udp4().frame(b"delivered");
    sender.send(0, &second);
    assert_eq!(receiver.receive(0).frame, second);
}
