//! A blocking client of the control socket.

use std::{
    collections::VecDeque,
    env,
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

pub use crate::stream::{PORT_NAME, find_port};
use crate::{
    protocol::{
        ErrorClass, Failure, Greeting, MAX_LINE, Outcome, Request, Response, command,
        event::{Event, Subscribe},
    },
    stream::{Stream, deadline},
};

/// The environment variable with the path of the control socket.
pub const ENVIRONMENT: &str = "ZCNIC_CONTROL";

/// The timeout for the first answer on a port, after which there is no backend at its other end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The timeout for the greeting, after which a socket is not a control socket.
const GREETING_TIMEOUT: Duration = Duration::from_secs(5);

/// What a client says first. A control socket skips an empty line; a port's socket sees that this is
/// no message of vhost-user and answers at once.
const FIRST_LINE: &[u8] = b" \n";

/// Characters of another program's greeting that an error shows.
const GREETING_SHOWN: usize = 60;

/// The interval between attempts to reach a backend that is being restarted.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// The reason why a command has no result.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The socket can't be reached.
    #[error("Can't connect to {0}")]
    Connect(PathBuf, #[source] io::Error),
    /// The socket belongs to something else.
    #[error("{} is not a control socket of zcnic: {reason}", .path.display())]
    NotControl {
        /// The socket.
        path: PathBuf,
        /// What its peer did instead of greeting.
        reason: String,
    },
    /// The backend does not serve this client.
    #[error("{}: {desc}", .path.display())]
    NotServed {
        /// The socket.
        path: PathBuf,
        /// The backend's reason: too many clients, or the socket is a port's.
        desc: String,
    },
    /// There is no default.
    #[error("The control socket is unknown: set {ENVIRONMENT} to its path")]
    Unknown,
    /// The connection failed.
    #[error("Connection failed")]
    Io(#[from] io::Error),
    /// The backend closed the connection.
    #[error("Backend closed the connection")]
    Closed,
    /// The peer does not speak the protocol.
    #[error("Unexpected line from the backend")]
    Unexpected(#[from] serde_json::Error),
    /// The backend sent an answer without a request.
    #[error("Backend sent an answer without a request")]
    Unsolicited,
    /// The answer lacks the number of an added rule.
    #[error("Backend's answer is incomplete")]
    Incomplete,
    /// The backend refused.
    #[error("{}", .0.desc)]
    Refused(Failure),
    /// A scenario was not loaded.
    #[error("Port {port}")]
    Scenario {
        /// The port whose rules were not added.
        port: String,
        /// The reason.
        #[source]
        source: Box<Self>,
    },
}

impl ClientError {
    /// The kind of refusal; `None`: the command did not get that far.
    #[must_use]
    pub fn class(&self) -> Option<ErrorClass> {
        match self {
            Self::Refused(failure) => Some(failure.class),
            Self::Scenario { source, .. } => source.class(),
            _ => None,
        }
    }

    /// Whether the awaited event did not happen in time: a hit, or an event of a subscription.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Refused(failure) => failure.class == ErrorClass::Timeout,
            Self::Io(error) => error.kind() == io::ErrorKind::WouldBlock,
            _ => false,
        }
    }
}

/// A connection to a backend's control socket.
///
/// ```no_run
/// use std::path::Path;
///
/// use zcnic_ctl::{Client, ClientError};
///
/// let mut client = Client::connect(Path::new("/tmp/ctl"))?;
/// for port in client.status()?.ports {
///     println!("port {}: {:?}, link {}", port.name, port.driver, port.link);
/// }
/// # Ok::<(), ClientError>(())
/// ```
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Stream>,
    greeting: Option<Greeting>,
    /// Events that arrived before an answer.
    events: VecDeque<Event>,
    /// The received part of an incomplete line.
    partial: Vec<u8>,
}

/// A line from the backend after its greeting.
#[derive(Deserialize)]
#[serde(untagged)]
enum Incoming {
    Event(Event),
    Response(Response),
}

impl Client {
    /// Connects to the socket that the environment variable `ZCNIC_CONTROL` names, or to the port
    /// of this guest that is wired to a backend.
    ///
    /// # Errors
    ///
    /// There is neither, or as for [`connect`](Self::connect).
    pub fn find() -> Result<Self, ClientError> {
        let named = env::var_os(ENVIRONMENT).map(PathBuf::from);
        let path = named.or_else(find_port).ok_or(ClientError::Unknown)?;
        Self::connect(&path)
    }

    /// Connects to a socket and reads the greeting, or takes over a port of this guest.
    ///
    /// # Errors
    ///
    /// Nothing listens at `path`, it is a port's socket, which is for QEMU, the backend has too many
    /// clients, or the peer does not greet within 5 seconds as a zcnic backend does.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let is_port = fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device());
        let open = if is_port {
            Stream::port
        } else {
            Stream::socket
        };
        let stream = open(path).map_err(|error| ClientError::Connect(path.to_owned(), error))?;
        if is_port {
            return Self::take_over(stream);
        }
        let mut client = Self::new(stream);
        client.greeting = Some(client.await_greeting(path)?);
        Ok(client)
    }

    fn await_greeting(&mut self, path: &Path) -> Result<Greeting, ClientError> {
        let not_control = |reason| ClientError::NotControl {
            path: path.to_owned(),
            reason,
        };
        self.stream.get_mut().deadline = deadline(GREETING_TIMEOUT);
        // A backend that refuses may have answered and closed the connection already.
        let _ = self.stream.get_mut().write_all(FIRST_LINE);
        let line = self.bytes();
        self.stream.get_mut().deadline = None;
        match line {
            Ok(line) => serde_json::from_slice(&line).map_err(|_| {
                let refusal = serde_json::from_slice(&line).map(|Response { outcome, .. }| outcome);
                if let Ok(Outcome::Error(Failure { desc, .. })) = refusal {
                    let path = path.to_owned();
                    return ClientError::NotServed { path, desc };
                }
                let line = String::from_utf8_lossy(&line);
                let start: String = line.trim_end().chars().take(GREETING_SHOWN).collect();
                not_control(format!("it greets with {start:?}"))
            }),
            Err(error) if error.is_timeout() => {
                let seconds = GREETING_TIMEOUT.as_secs();
                Err(not_control(format!(
                    "no greeting within {seconds} s; ports' sockets are for QEMU"
                )))
            }
            Err(error) => Err(error),
        }
    }

    /// Takes over a connection that other programs used before: a virtio-serial port, whose other
    /// end is not notified when one program closes it and another one opens it. State of the
    /// previous programs is discarded: an incomplete request, pending waits, answers, events, and
    /// subscriptions.
    ///
    /// # Errors
    ///
    /// No backend answers, or the connection failed.
    pub fn over(port: File) -> Result<Self, ClientError> {
        Self::take_over(Stream::over(port))
    }

    fn new(stream: Stream) -> Self {
        Self {
            stream: BufReader::new(stream),
            greeting: None,
            events: VecDeque::new(),
            partial: Vec::new(),
        }
    }

    fn take_over(stream: Stream) -> Result<Self, ClientError> {
        let mut client = Self::new(stream);
        let until = deadline(ANSWER_TIMEOUT);
        client.stream.get_mut().deadline = until;
        while let Err(error) = client.resynchronise() {
            if until.is_none_or(|until| Instant::now() >= until) {
                return Err(error);
            }
            // The backend is being restarted, and there is no notification of the next one.
            client.partial.clear();
            thread::sleep(RETRY_INTERVAL);
        }
        client.stream.get_mut().deadline = None;
        Ok(client)
    }

    /// Ends an incomplete request, pending waits and all subscriptions of previous programs. Lines
    /// before the answer to that belong to them.
    fn resynchronise(&mut self) -> Result<(), ClientError> {
        let mut asked = self.request_resynchronisation()?;
        loop {
            let line = self.bytes()?;
            match serde_json::from_slice(&line) {
                Ok(Response { id: Some(id), .. }) if id == asked => return Ok(()),
                _ => {}
            }
            if let Ok(greeting) = serde_json::from_slice(&line) {
                // A restarted backend may not have received the request.
                self.greeting = Some(greeting);
                asked = self.request_resynchronisation()?;
            }
        }
    }

    /// Returns the `id` of the expected answer.
    fn request_resynchronisation(&mut self) -> Result<Value, ClientError> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = time.unwrap_or_default().as_nanos();
        let id = Value::from(format!("{}-{time}", std::process::id()));
        let nothing = Subscribe { events: Vec::new() };
        self.stream.get_mut().write_all(b"\n")?;
        self.send(&Request {
            execute: command::SUBSCRIBE.to_owned(),
            arguments: Some(serde_json::to_value(nothing)?),
            id: Some(id.clone()),
        })?;
        Ok(id)
    }

    /// The backend's greeting; `None` if a previous program received it ([`over`](Self::over)).
    #[must_use]
    pub fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        Ok(self.stream.get_mut().write_all(&bytes)?)
    }

    /// Executes a command and returns its result.
    ///
    /// # Errors
    ///
    /// The backend refused, or the connection failed.
    pub fn execute<T: DeserializeOwned>(
        &mut self,
        command: &str,
        arguments: Option<&impl Serialize>,
    ) -> Result<T, ClientError> {
        let arguments = arguments.map(serde_json::to_value).transpose()?;
        let request = Request {
            execute: command.to_owned(),
            arguments,
            id: None,
        };
        self.send(&request)?;
        let response = loop {
            match self.line()? {
                Incoming::Event(event) => self.events.push_back(event),
                Incoming::Response(response) => break response,
            }
        };
        match response.outcome {
            Outcome::Return(value) => Ok(serde_json::from_value(value)?),
            Outcome::Error(failure) => Err(ClientError::Refused(failure)),
        }
    }

    fn line(&mut self) -> Result<Incoming, ClientError> {
        Ok(serde_json::from_slice(&self.bytes()?)?)
    }

    /// Waits for the next event of those subscribed to.
    ///
    /// # Errors
    ///
    /// No event arrives within `timeout` ([`io::ErrorKind::WouldBlock`]), or the connection failed.
    /// `None`: no timeout.
    pub fn event(&mut self, timeout: Option<Duration>) -> Result<Event, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        self.stream.get_mut().deadline = timeout.and_then(deadline);
        let line = self.line();
        self.stream.get_mut().deadline = None;
        match line? {
            Incoming::Event(event) => Ok(event),
            // There was no request.
            Incoming::Response(_) => Err(ClientError::Unsolicited),
        }
    }

    /// Executes a command that takes no arguments.
    ///
    /// # Errors
    ///
    /// Like [`execute`](Self::execute).
    pub fn query<T: DeserializeOwned>(&mut self, command: &str) -> Result<T, ClientError> {
        self.execute(command, None::<&Value>)
    }

    /// The next line.
    fn bytes(&mut self) -> Result<Vec<u8>, ClientError> {
        // Answers may be longer than requests, such as statistics of all queues of all ports.
        (&mut self.stream)
            .take(64 * MAX_LINE as u64)
            .read_until(b'\n', &mut self.partial)?;
        if self.partial.is_empty() {
            Err(ClientError::Closed)
        } else {
            Ok(std::mem::take(&mut self.partial))
        }
    }
}
