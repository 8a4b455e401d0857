//! Whether the timer's thread performs each job, and ends.

use loom::{
    sync::{Arc, Notify},
    thread,
};

use crate::{
    sync::explore,
    timer::{Job, Timer},
};

/// A job that is due comes while the timer waits for one that is not, and then the timer is
/// stopped. loom's clock stands still, so only notifications end a wait.
///
/// # Panics
///
/// The job is not performed, or the thread does not end.
pub fn an_earlier_job_ends_the_wait() {
    explore(|| {
        let timer = Arc::new(Timer::default());
        let performed = Arc::new(Notify::new());
        timer.schedule(u64::MAX, 1, Job::LinkUp);
        let thread = {
            let (timer, performed) = (Arc::clone(&timer), Arc::clone(&performed));
            thread::spawn(move || {
                timer.run(|port, job| {
                    assert_eq!((port, job), (2, Job::DeviceReset));
                    performed.notify();
                });
            })
        };
        timer.schedule(0, 2, Job::DeviceReset);
        performed.wait();
        timer.stop();
        thread.join().expect("the timer's thread");
    });
}

/// Two threads schedule a job each, and the timer performs both.
///
/// # Panics
///
/// A job is lost, or performed twice.
pub fn jobs_of_two_threads_are_performed() {
    explore(|| {
        let timer = Arc::new(Timer::default());
        let other = {
            let timer = Arc::clone(&timer);
            thread::spawn(move || timer.schedule(0, 1, Job::LinkUp))
        };
        let thread = {
            let timer = Arc::clone(&timer);
            thread::spawn(move || {
                let mut ports = 0;
                timer.run(|port, _| {
                    assert_eq!(ports & port, 0, "a job is performed twice");
                    ports |= port;
                    if ports == 3 {
                        timer.stop();
                    }
                });
                ports
            })
        };
        timer.schedule(0, 2, Job::LinkUp);
        other.join().expect("the other thread");
        assert_eq!(thread.join().expect("the timer's thread"), 3, "jobs");
    });
}
