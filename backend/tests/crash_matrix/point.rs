//! The points of the matrix: who is hit, while doing what, and how.

use std::{fmt, str::FromStr};

/// The process that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    Backend,
    Frontend,
    Client,
}

/// The work that is interrupted: of the frontends, or of the control client if that is hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    Idle,
    /// Frames in both directions; a client that does not read the frames it captures.
    Traffic,
    /// Commands one after the other.
    Command,
    /// A receive queue that gets other buffers, as when a provider is bound; a client that starts
    /// and stops captures.
    Bind,
    /// Queues that stop and start; a client whose fault rules stall a queue.
    Stop,
    /// All rings stop and resume, as when the machine does; a client that waits for a fault.
    Suspend,
    /// Connections that come and go.
    Teardown,
}

/// The signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    /// SIGKILL.
    Kill,
    /// SIGSTOP, and SIGCONT after longer than every time-out of the backend.
    Pause,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) victim: Victim,
    pub(crate) moment: Moment,
    pub(crate) blow: Blow,
}

const VICTIMS: [(Victim, &str); 3] = [
    (Victim::Backend, "backend"),
    (Victim::Frontend, "frontend"),
    (Victim::Client, "client"),
];

const MOMENTS: [(Moment, &str); 7] = [
    (Moment::Idle, "idle"),
    (Moment::Traffic, "traffic"),
    (Moment::Command, "command"),
    (Moment::Bind, "bind"),
    (Moment::Stop, "queue-stop"),
    (Moment::Suspend, "suspend"),
    (Moment::Teardown, "teardown"),
];

const BLOWS: [(Blow, &str); 2] = [(Blow::Kill, "kill"), (Blow::Pause, "pause")];

impl Point {
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        BLOWS.into_iter().flat_map(|(blow, _)| {
            VICTIMS.into_iter().flat_map(move |(victim, _)| {
                MOMENTS.into_iter().map(move |(moment, _)| Self {
                    victim,
                    moment,
                    blow,
                })
            })
        })
    }

    /// Whether every run of the tests has it: a pause takes seconds, so one per victim has to do.
    pub(crate) fn is_short(self) -> bool {
        self.blow == Blow::Kill || self.moment == Moment::Traffic
    }
}

fn name_of<T: Copy + PartialEq>(table: &[(T, &'static str)], value: T) -> &'static str {
    let found = table.iter().find(|(known, _)| *known == value);
    found.map_or("", |(_, name)| name)
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(name_of(&MOMENTS, *self))
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = MOMENTS.iter().find(|(_, name)| *name == text);
        let found = found.ok_or_else(|| format!("no moment is called {text}"))?;
        Ok(found.0)
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (victim, blow) = (name_of(&VICTIMS, self.victim), name_of(&BLOWS, self.blow));
        write!(f, "{victim}/{}/{blow}", self.moment)
    }
}
