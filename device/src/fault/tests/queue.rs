use super::*;

action_tests! {
    "stall" => fn stall_drops_until_its_end() {
        let stall = |nanoseconds| Action::Queue(QueueFault::Stall { nanoseconds });
        let mut bench = struck(stall(Some(500)));
        assert_eq!(bench.seen(), clean(SPLIT)[..2]);
        assert_eq!(bench.lane.dropped(), 3);
        let armed = bench.engine.armed(Direction::Receive);
        assert_eq!(bench.lane.next_deadline(armed.as_ref()), Some(bench.now + 500));
        bench.now += 500;
        bench.send(&frames()[0]);
        assert_eq!(bench.seen().len(), 3);

        // Without a duration the stall lasts until the rule is removed or the queue stopped.
        let mut bench = struck(stall(None));
        bench.now += 1 << 40;
        bench.send(&frames()[0]);
        assert_eq!(bench.seen().len(), 2);
        bench.engine.clear();
        bench.send(&frames()[0]);
        assert_eq!(bench.seen().len(), 3);
        let mut bench = struck(stall(None));
        bench.lane.stop(&mut bench.ring);
        bench.send(&frames()[0]);
        assert_eq!(bench.seen().len(), 3);
    }

    "lost-interrupt" => fn lost_interrupt_changes_no_frame() {
        let bench = struck(Action::Queue(QueueFault::Interrupt(InterruptFault::Lost)));
        assert_eq!(bench.seen(), clean(SPLIT));
        let fault = bench.effects.interrupt;
        assert!(!InterruptFault::apply(fault, true) && !InterruptFault::apply(fault, false));
    }

    "spurious-interrupt" => fn spurious_interrupt_changes_no_frame() {
        let bench = struck(Action::Queue(QueueFault::Interrupt(InterruptFault::Spurious)));
        assert_eq!(bench.seen(), clean(SPLIT));
        let fault = bench.effects.interrupt;
        assert!(InterruptFault::apply(fault, true) && InterruptFault::apply(fault, false));
    }

    "link-flap" => fn link_flap_is_for_the_port_to_do() {
        let fault = PortFault::LinkFlap { nanoseconds: 5_000_000 };
        port_fault(fault);
    }

    "device-reset" => fn device_reset_is_for_the_port_to_do() {
        port_fault(PortFault::DeviceReset);
    }

    "disconnect" => fn disconnect_is_for_the_port_to_do() {
        port_fault(PortFault::Disconnect);
    }
}

fn port_fault(fault: PortFault) {
    let bench = struck(Action::Port(fault));
    assert_eq!(bench.seen(), clean(SPLIT));
    assert_eq!(bench.effects.port, [fault]);
}

#[test]
fn without_a_fault_interrupts_are_as_wanted() {
    assert!(InterruptFault::apply(None, true) && !InterruptFault::apply(None, false));
}
