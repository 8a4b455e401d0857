//! The models, each in every order of its threads' steps.

use zcnic_loom::{interrupts, jobs, kicks, stop};

#[test]
fn no_kick_is_lost_with_event_indices() {
    kicks::no_kick_is_lost(true);
}

#[test]
fn no_kick_is_lost_with_flags() {
    kicks::no_kick_is_lost(false);
}

#[test]
fn no_interrupt_is_lost_with_event_indices() {
    interrupts::no_interrupt_is_lost(true);
}

#[test]
fn no_interrupt_is_lost_with_flags() {
    interrupts::no_interrupt_is_lost(false);
}

#[test]
fn no_moderated_interrupt_is_lost() {
    interrupts::no_moderated_interrupt_is_lost();
}

#[test]
fn a_stopped_ring_is_used_no_more() {
    stop::a_stopped_ring_is_used_no_more();
}

#[test]
fn an_earlier_job_ends_the_timer_s_wait() {
    jobs::an_earlier_job_ends_the_wait();
}

#[test]
fn jobs_of_two_threads_are_performed() {
    jobs::jobs_of_two_threads_are_performed();
}
