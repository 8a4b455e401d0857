//! The points of the matrix on the level of guests: who is hit, while doing what, and how.

use std::fmt;

/// The process that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    Backend,
    Qemu,
    Program,
    Client,
}

/// The work of the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// A program is bound to a queue, and nothing arrives.
    Idle,
    /// A zero-copy stream.
    Traffic,
    /// Commands one after the other.
    Command,
    /// A queue is bound by one program after the other.
    Bind,
    /// Queues stop and start.
    QueueStop,
    /// The machine is stopped.
    Suspend,
    /// The interface goes down and up.
    Teardown,
}

/// The signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and later SIGCONT.
    Pause,
}

/// A point of the matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Point {
    pub(super) victim: Victim,
    pub(super) work: Work,
    pub(super) blow: Blow,
}

const VICTIMS: [(Victim, &str); 4] = [
    (Victim::Backend, "backend"),
    (Victim::Program, "program"),
    (Victim::Client, "client"),
    (Victim::Qemu, "qemu"),
];

const WORKS: [(Work, &str); 7] = [
    (Work::Idle, "idle"),
    (Work::Traffic, "traffic"),
    (Work::Command, "command"),
    (Work::Bind, "bind"),
    (Work::QueueStop, "queue-stop"),
    (Work::Suspend, "suspend"),
    (Work::Teardown, "teardown"),
];

const BLOWS: [(Blow, &str); 2] = [(Blow::Kill, "kill"), (Blow::Pause, "pause")];

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let victim = VICTIMS.iter().find(|(it, _)| *it == self.victim);
        let work = WORKS.iter().find(|(it, _)| *it == self.work);
        let blow = BLOWS.iter().find(|(it, _)| *it == self.blow);
        let name = |found: Option<&'static str>| found.unwrap_or_default();
        let victim = name(victim.map(|(_, name)| *name));
        let (work, blow) = (name(work.map(|(_, it)| *it)), name(blow.map(|(_, it)| *it)));
        write!(f, "guest/{victim}/{work}/{blow}")
    }
}

/// The points whose names contain `filter`.
pub(super) fn points(filter: &str) -> Vec<Point> {
    let mut points = Vec::new();
    for (blow, _) in BLOWS {
        for (victim, _) in VICTIMS {
            points.extend(WORKS.map(|(work, _)| Point { victim, work, blow }));
        }
    }
    points.retain(|point| point.to_string().contains(filter));
    points
}

impl Point {
    /// Whether the guest is another one afterwards.
    pub(super) fn ends_guest(self) -> bool {
        self.victim == Victim::Qemu && self.blow == Blow::Kill
    }
}
