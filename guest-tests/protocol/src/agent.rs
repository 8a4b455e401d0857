//! The agent's protocol: the host runs commands in the guest.
//!
//! Both directions carry messages, each a JSON object on a line. `input`, `stdout` and `stderr` have
//! the number of bytes that follow their line, at most [`CHUNK`], which are passed on unchanged. The
//! agent's first message is [`Reply::Ready`]. Requests carry an id of the host's choice, and any
//! number of commands may run at once:
//!
//! | request | effect |
//! |---|---|
//! | `{"exec":["ls","-l"],"id":1}` | runs a program; [`Exec`] has the optional keys |
//! | `{"id":1,"input":5}` and 5 bytes | writes to the standard input of command 1, or types on its terminal |
//! | `{"id":1,"input":0}` | ends the standard input of command 1 |
//! | `{"id":1,"size":[24,80]}` | sets rows and columns of the terminal of command 1 |
//! | `{"id":1,"kill":9}` | sends a signal to the process group of command 1 |
//! | `{"credit":4096,"id":1}` | the host has taken 4096 more bytes of the output of command 1 |
//! | `{"id":1,"poweroff":true}` | powers the guest off; there is no reply |
//!
//! Output is passed on as it comes (`{"id":1,"stdout":5}` and 5 bytes, or `stderr`). Each command
//! ends with exactly one `{"exit":0,"id":1}`, `{"id":1,"signal":9}` or `{"error":"…","id":1}`. A
//! command has ended when its process has: the agent does not wait for processes that the command
//! left running in the background.
//!
//! Neither side buffers without limit. The agent sends at most [`OUTPUT_WINDOW`] bytes of a command's
//! output more than the host has credited. The host sends at most [`INPUT_WINDOW`] bytes of input more
//! than the agent has credited (`{"credit":4096,"id":1}`): it does that as the command reads, and
//! never again once the command has closed its input.

use std::{
    collections::BTreeMap,
    io::{self, BufRead, Read, Write},
};

use serde::{Deserialize, Serialize, Serializer, de::DeserializeOwned};

/// Most bytes that follow a line.
pub const CHUNK: usize = 64 * 1024;
/// Bytes of a command's input that may be on the way. A socket to QEMU holds as many, so that a guest
/// that hangs does not block the host.
pub const INPUT_WINDOW: usize = 128 * 1024;
/// Bytes of a command's output that may be on the way, or with the host, which a command may fill
/// before it has to wait.
pub const OUTPUT_WINDOW: usize = 4 * 1024 * 1024;
/// Most bytes of a line: a command line of Linux is shorter.
const LINE: u64 = 4 * 1024 * 1024;

/// Bytes that follow the line of their message. The line has their number.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "usize")]
pub struct Payload(pub Vec<u8>);

/// A message has more than [`CHUNK`] bytes behind its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} bytes behind a line; {CHUNK} are allowed")]
pub struct TooLong(usize);

impl TryFrom<usize> for Payload {
    type Error = TooLong;

    fn try_from(length: usize) -> Result<Self, TooLong> {
        if length > CHUNK {
            return Err(TooLong(length));
        }
        Ok(Self(vec![0; length]))
    }
}

impl Serialize for Payload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.len() as u64)
    }
}

/// A message of either side.
pub trait Message: Serialize + DeserializeOwned {
    /// Returns the bytes that follow its line.
    fn payload(&mut self) -> Option<&mut Payload>;
}

/// A message that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The connection failed, or ended within a message.
    #[error(transparent)]
    Connection(#[from] io::Error),
    /// A line is not a message. The next line may be one.
    #[error("{reason}: {line}")]
    Malformed {
        /// What is wrong with it.
        reason: String,
        /// The line.
        line: String,
    },
}

/// Reads the next message; None at the end of the connection.
///
/// # Errors
///
/// If the connection fails or the line is not a message, see [`ReadError`].
pub fn read<M: Message>(input: &mut impl BufRead) -> Result<Option<M>, ReadError> {
    let mut line = Vec::new();
    input.take(LINE).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    if line.pop() != Some(b'\n') {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let mut message: M = serde_json::from_slice(&line).map_err(|error| ReadError::Malformed {
        reason: error.to_string(),
        line: String::from_utf8_lossy(&line).into_owned(),
    })?;
    if let Some(payload) = message.payload() {
        input.read_exact(&mut payload.0)?;
    }
    Ok(Some(message))
}

/// Writes a message.
///
/// # Errors
///
/// If the connection fails.
pub fn write<M: Message>(output: &mut impl Write, mut message: M) -> io::Result<()> {
    let mut bytes = serde_json::to_vec(&message)?;
    bytes.push(b'\n');
    if let Some(payload) = message.payload() {
        bytes.append(&mut payload.0);
    }
    output.write_all(&bytes)
}

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
    /// Input of the command with the request's id: bytes for its standard input or its terminal. None
    /// at all end its standard input.
    Input(Payload),
    /// Sets rows and columns of the terminal of the command with the request's id.
    Size([u16; 2]),
    /// The host has taken so many more bytes of the output of the command with the request's id.
    Credit(usize),
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
    /// Whether its standard input comes by [`Action::Input`]; otherwise it reads `/dev/null`.
    pub stdin: bool,
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
    credit: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cwd: Option<String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    env: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exec: Option<Vec<String>>,
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    input: Option<Payload>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kill: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    poweroff: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<[u16; 2]>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    stdin: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tty: Option<[u16; 2]>,
}

/// A request has none of the keys that name an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request needs one of credit, exec, input, kill, poweroff, size")]
pub struct NoAction;

impl TryFrom<RequestKeys> for Request {
    type Error = NoAction;

    fn try_from(keys: RequestKeys) -> Result<Self, NoAction> {
        let action = if keys.poweroff == Some(true) {
            Action::PowerOff
        } else if let Some(bytes) = keys.input {
            Action::Input(bytes)
        } else if let Some(size) = keys.size {
            Action::Size(size)
        } else if let Some(bytes) = keys.credit {
            Action::Credit(bytes)
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
            Action::Input(bytes) => keys.input = Some(bytes),
            Action::Size(size) => keys.size = Some(size),
            Action::Credit(bytes) => keys.credit = Some(bytes),
            Action::Kill(signal) => keys.kill = Some(signal),
            Action::PowerOff => keys.poweroff = Some(true),
        }
        keys
    }
}

impl Message for Request {
    fn payload(&mut self) -> Option<&mut Payload> {
        match &mut self.action {
            Action::Input(bytes) => Some(bytes),
            _ => None,
        }
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
        /// The bytes.
        stdout: Payload,
    },
    /// A command wrote to its standard error.
    Stderr {
        /// The command.
        id: u64,
        /// The bytes.
        stderr: Payload,
    },
    /// A command took so many bytes of its input.
    Credit {
        /// Number of bytes.
        credit: usize,
        /// The command.
        id: u64,
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
            | Self::Credit { id, .. }
            | Self::Exit { id, .. }
            | Self::Signal { id, .. } => Some(*id),
            Self::Error { id, .. } => *id,
        }
    }

    /// Puts another id into the message, unless it has none.
    pub fn set_id(&mut self, new: u64) {
        match self {
            Self::Ready { .. } | Self::Error { id: None, .. } => {}
            Self::Stdout { id, .. }
            | Self::Stderr { id, .. }
            | Self::Credit { id, .. }
            | Self::Exit { id, .. }
            | Self::Signal { id, .. }
            | Self::Error { id: Some(id), .. } => *id = new,
        }
    }

    /// Returns whether it is the last message about a command.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(
            self,
            Self::Exit { .. } | Self::Signal { .. } | Self::Error { .. }
        )
    }
}

impl Message for Reply {
    fn payload(&mut self) -> Option<&mut Payload> {
        match self {
            Self::Stdout { stdout, .. } => Some(stdout),
            Self::Stderr { stderr, .. } => Some(stderr),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_keep_their_bytes() {
        let odd: Vec<u8> = (0..=255).chain(*b"\n{\"id\":1}\n").collect();
        let mut wire = Vec::new();
        let input = |bytes: &[u8]| Request {
            id: 7,
            action: Action::Input(Payload(bytes.to_vec())),
        };
        for request in [input(&odd), input(b""), input(b"end")] {
            write(&mut wire, request).unwrap();
        }
        let mut wire = &wire[..];
        for request in [input(&odd), input(b""), input(b"end")] {
            assert_eq!(read::<Request>(&mut wire).unwrap(), Some(request));
        }
        assert_eq!(read::<Request>(&mut wire).unwrap(), None);
    }

    #[test]
    fn a_malformed_line_does_not_hide_the_next() {
        let mut wire = &b"hello\n{\"id\":1,\"stdout\":65537}\n{\"exit\":0,\"id\":1}\n"[..];
        let mut next = || read::<Reply>(&mut wire);
        assert!(matches!(next(), Err(ReadError::Malformed { .. })));
        assert!(matches!(next(), Err(ReadError::Malformed { .. })));
        assert_eq!(next().unwrap(), Some(Reply::Exit { exit: 0, id: 1 }));
    }

    #[test]
    fn a_cut_off_message_is_an_error() {
        for mut wire in [&b"{\"exit\":0"[..], b"{\"id\":1,\"stdout\":9}\nshort"] {
            let error = read::<Reply>(&mut wire).unwrap_err();
            assert!(matches!(error, ReadError::Connection(_)), "{error}");
        }
    }
}
