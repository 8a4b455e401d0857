//! The agent's protocol: the host runs commands in the guest.
//!
//! Both directions carry one JSON object per line. The agent's first line is [`Reply::Ready`].
//! Requests carry an id of the host's choice, and any number of commands may run at once:
//!
//! | request | effect |
//! |---|---|
//! | `{"exec":["ls","-l"],"id":1}` | runs a program; [`Exec`] has the optional keys |
//! | `{"id":1,"input":"…"}` | types text on the terminal of command 1 |
//! | `{"id":1,"kill":9}` | sends a signal to the process group of command 1 |
//! | `{"id":1,"poweroff":true}` | powers the guest off; there is no reply |
//!
//! Output is passed on as it comes (`{"id":1,"stdout":"…"}`, `{"id":1,"stderr":"…"}`). Each command
//! ends with exactly one `{"exit":0,"id":1}`, `{"id":1,"signal":9}` or `{"error":"…","id":1}`. A
//! command has ended when its process has: the agent does not wait for processes that the command
//! left running in the background.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A request to the agent.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "RequestKeys", into = "RequestKeys")]
pub struct Request {
    /// Chosen by the host; replies repeat it.
    pub id: u64,
    /// The requested action.
    pub action: Action,
}

/// An action of the agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Runs a program under the request's id.
    Exec(Exec),
    /// Types text on the terminal of the command with the request's id.
    Input(String),
    /// Sends this signal to the process group of the command with the request's id. A command that
    /// has ended already is no error.
    Kill(i32),
    /// Powers the guest off.
    PowerOff,
}

/// A program to run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Exec {
    /// The program and its arguments.
    pub argv: Vec<String>,
    /// Its standard input; without one it reads `/dev/null`.
    pub stdin: Option<String>,
    /// Its working directory; without one the agent's.
    pub cwd: Option<String>,
    /// Variables added to the agent's environment.
    pub env: BTreeMap<String, String>,
    /// Seconds after which the agent kills it; without a limit it may run for ever.
    pub timeout: Option<f64>,
    /// Rows and columns of a terminal that it runs on; its standard error then comes as standard
    /// output.
    pub tty: Option<[u16; 2]>,
}

/// A request as it is on the wire.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RequestKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<Vec<String>>,
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kill: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    poweroff: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stdin: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<[u16; 2]>,
}

/// A request has none of the keys that name an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request needs one of exec, input, kill, poweroff")]
pub struct NoAction;

impl TryFrom<RequestKeys> for Request {
    type Error = NoAction;

    fn try_from(keys: RequestKeys) -> Result<Self, NoAction> {
        let action = if keys.poweroff == Some(true) {
            Action::PowerOff
        } else if let Some(text) = keys.input {
            Action::Input(text)
        } else if let Some(signal) = keys.kill {
            Action::Kill(signal)
        } else {
            Action::Exec(Exec {
                argv: keys.exec.filter(|argv| !argv.is_empty()).ok_or(NoAction)?,
                stdin: keys.stdin,
                cwd: keys.cwd,
                env: keys.env,
                timeout: keys.timeout,
                tty: keys.tty,
            })
        };
        Ok(Self {
            id: keys.id,
            action,
        })
    }
}

impl From<Request> for RequestKeys {
    fn from(request: Request) -> Self {
        let mut keys = Self {
            id: request.id,
            ..Self::default()
        };
        match request.action {
            Action::Exec(exec) => {
                keys.exec = Some(exec.argv);
                keys.stdin = exec.stdin;
                keys.cwd = exec.cwd;
                keys.env = exec.env;
                keys.timeout = exec.timeout;
                keys.tty = exec.tty;
            }
            Action::Input(text) => keys.input = Some(text),
            Action::Kill(signal) => keys.kill = Some(signal),
            Action::PowerOff => keys.poweroff = Some(true),
        }
        keys
    }
}

/// The id of a request that may be wrong otherwise, so that the agent can reply to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct RequestId {
    /// See [`Request::id`].
    pub id: u64,
}

/// A message of the agent.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Reply {
    /// The agent's first message: it takes requests from now on.
    Ready {
        /// The guest's kernel release, as `uname -r` prints it.
        kernel: String,
        /// Always true.
        ready: bool,
    },
    /// A command wrote to its standard output, or to its terminal.
    Stdout {
        /// The command.
        id: u64,
        /// Whole characters; bytes that are no UTF-8 are replaced by U+FFFD.
        stdout: String,
    },
    /// A command wrote to its standard error.
    Stderr {
        /// The command.
        id: u64,
        /// As for [`Self::Stdout`].
        stderr: String,
    },
    /// A command exited.
    Exit {
        /// Exit status.
        exit: i32,
        /// The command.
        id: u64,
    },
    /// A signal ended a command.
    Signal {
        /// The command.
        id: u64,
        /// The signal's number.
        signal: i32,
    },
    /// A request could not be carried out, or a command ran out of time and was killed.
    Error {
        /// The reason, for people.
        error: String,
        /// The request; none if the line had no id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<u64>,
    },
}

impl Reply {
    /// The command or request that this message is about; None for [`Self::Ready`].
    #[must_use]
    pub fn id(&self) -> Option<u64> {
        match self {
            Self::Ready { .. } => None,
            Self::Stdout { id, .. }
            | Self::Stderr { id, .. }
            | Self::Exit { id, .. }
            | Self::Signal { id, .. } => Some(*id),
            Self::Error { id, .. } => *id,
        }
    }
}
