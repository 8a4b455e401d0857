//! Events and the end of a session, which the in-process transport causes instead of a frontend.

use zcnic_device::abi::{EVENT_LINK, Status};
use zcnic_model::{Driver, Failure, Shape, frames, in_process::cabled};

#[test]
fn events_accumulate_until_there_is_a_buffer() {
    let [mut driver, _] = cabled(2);
    driver.hello();
    driver.transport().raise_event(EVENT_LINK);
    driver.transport().run();
    driver.transport().raise_event(EVENT_LINK);
    driver.post_events(2);
    let event = driver.event();
    assert_eq!(event.pending.get(), EVENT_LINK);
    assert_eq!(event.session.get(), driver.session());
    assert_eq!(driver.status().event_sequence, event.sequence);
    driver.transport().run();
    assert_eq!(driver.posted(1), 1, "two events became one");
    driver.transport().raise_event(EVENT_LINK);
    assert_eq!(driver.event().sequence.get(), event.sequence.get() + 1);
}

#[test]
fn a_device_reset_ends_the_session() {
    let [mut sender, mut receiver] = cabled(2);
    sender.bring_up(Shape::SPLIT, 4);
    receiver.bring_up(Shape::SPLIT, 4);
    receiver.transport().end_session();
    sender.send(0, frames::broadcast(&[1; 60]));
    assert!(
        receiver.receive_all().is_empty(),
        "the owner of the buffers is unknown"
    );
    assert_eq!(receiver.posted(0), 4);
    assert_eq!(
        receiver.stop_receive(0),
        Err(Failure::refused(Status::Stale, 0))
    );
    receiver.bring_up(Shape::SPLIT, 4);
    sender.send(0, frames::broadcast(&[2; 60]));
    receiver.receive(0);
}

/// Received frames and their placement depend only on the drivers' actions.
#[test]
fn the_same_steps_give_the_same_result() {
    let run = || {
        let [mut sender, mut receiver]: [Driver<_>; 2] = cabled(4);
        sender.bring_up(Shape::SPLIT, 4);
        receiver.bring_up(Shape::linear(256), 40);
        for number in 0..30u16 {
            let flow = frames::Flow::udp4().ports(number, 1);
            sender.enqueue(
                number % 3,
                flow.frame(&frames::pattern(usize::from(number) * 20)),
            );
        }
        (0..3).for_each(|queue| sender.flush(queue));
        receiver.receive_all()
    };
    assert!(run() == run());
}
