//! A blocking client of the control socket.

use std::{
    collections::VecDeque,
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

pub use crate::line::{PORT_NAME, find_port};
use crate::{
    line::{Line as Wire, deadline},
    protocol::{
        Failure, Greeting, MAX_LINE, Outcome, Request, Response, command,
        event::{Event, Subscribe},
    },
};

/// How long whoever is at the other end of a port may take to answer what is only meant to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks whether somebody is there again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why a command has no result.
#[derive(Debug, Error)]
pub enum ClientError {
    /// The socket can't be reached.
    #[error("Can't connect to {0}")]
    Connect(PathBuf, #[source] io::Error),
    /// The connection failed.
    #[error("Connection failed")]
    Io(#[from] io::Error),
    /// The other side closed the connection.
    #[error("Backend closed the connection")]
    Closed,
    /// The other side does not speak the protocol.
    #[error("Unexpected line from the backend")]
    Unexpected(#[from] serde_json::Error),
    /// The other side answers although nothing was asked.
    #[error("Backend answered although nothing was asked")]
    Unasked,
    /// The backend refused.
    #[error("{}", .0.desc)]
    Refused(Failure),
}

/// A connection to a backend's control socket.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<Wire>,
    greeting: Option<Greeting>,
    /// Events that came while an answer was waited for.
    events: VecDeque<Event>,
    /// The start of a line of which the rest had not come.
    partial: Vec<u8>,
}

/// A line from the backend after its greeting.
#[derive(Deserialize)]
#[serde(untagged)]
enum Line {
    Event(Event),
    Response(Response),
}

impl Client {
    /// Connects to a socket and reads the greeting, or takes over a port of this guest.
    ///
    /// # Errors
    ///
    /// Nobody listens at `path`, or it is not a zcnic backend.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let is_port = fs::metadata(path).is_ok_and(|found| found.file_type().is_char_device());
        let open = if is_port { Wire::port } else { Wire::socket };
        let wire = open(path).map_err(|error| ClientError::Connect(path.to_owned(), error))?;
        if is_port {
            return Self::take_over(wire);
        }
        let mut client = Self::new(wire);
        client.greeting = Some(serde_json::from_slice(&client.bytes()?)?);
        Ok(client)
    }

    /// Talks over a connection that others talked over before: a virtio-serial port, whose other end does not
    /// learn that one program closed it and another opened it. What they left behind is forgotten: half a
    /// request, what they waited for, answers, events, and their subscriptions.
    ///
    /// # Errors
    ///
    /// Nobody answers, or the connection failed.
    pub fn over(port: File) -> Result<Self, ClientError> {
        Self::take_over(Wire::over(port))
    }

    fn new(wire: Wire) -> Self {
        Self {
            stream: BufReader::new(wire),
            greeting: None,
            events: VecDeque::new(),
            partial: Vec::new(),
        }
    }

    fn take_over(wire: Wire) -> Result<Self, ClientError> {
        let mut client = Self::new(wire);
        let until = deadline(PATIENCE);
        client.stream.get_mut().deadline = until;
        while let Err(error) = client.silence() {
            if until.is_none_or(|until| Instant::now() >= until) {
                return Err(error);
            }
            // The backend is being exchanged: nothing tells when the next one is there.
            client.partial.clear();
            thread::sleep(PAUSE);
        }
        client.stream.get_mut().deadline = None;
        Ok(client)
    }

    /// Ends the line that somebody began, what somebody waits for, and all subscriptions. What comes before the
    /// answer to that is not for us.
    fn silence(&mut self) -> Result<(), ClientError> {
        let mut asked = self.ask_for_silence()?;
        loop {
            let line = self.bytes()?;
            match serde_json::from_slice(&line) {
                Ok(Response { id: Some(id), .. }) if id == asked => return Ok(()),
                _ => {}
            }
            if let Ok(greeting) = serde_json::from_slice(&line) {
                // Somebody new is at the other end, who may not have got what we asked.
                self.greeting = Some(greeting);
                asked = self.ask_for_silence()?;
            }
        }
    }

    /// Returns what the answer's `id` will be.
    fn ask_for_silence(&mut self) -> Result<Value, ClientError> {
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

    /// Who answers; `None` if that was said to somebody before us ([`over`](Self::over)).
    #[must_use]
    pub fn greeting(&self) -> Option<&Greeting> {
        self.greeting.as_ref()
    }

    fn send(&mut self, request: &Request) -> Result<(), ClientError> {
        let mut bytes = serde_json::to_vec(request)?;
        bytes.push(b'\n');
        Ok(self.stream.get_mut().write_all(&bytes)?)
    }

    /// Executes a command and returns what it returns.
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
                Line::Event(event) => self.events.push_back(event),
                Line::Response(response) => break response,
            }
        };
        match response.outcome {
            Outcome::Return(value) => Ok(serde_json::from_value(value)?),
            Outcome::Error(failure) => Err(ClientError::Refused(failure)),
        }
    }

    fn line(&mut self) -> Result<Line, ClientError> {
        Ok(serde_json::from_slice(&self.bytes()?)?)
    }

    /// The next event of those that were subscribed to.
    ///
    /// # Errors
    ///
    /// None comes within `patience` ([`io::ErrorKind::WouldBlock`]), or the connection failed.
    pub fn event(&mut self, patience: Option<Duration>) -> Result<Event, ClientError> {
        if let Some(event) = self.events.pop_front() {
            return Ok(event);
        }
        self.stream.get_mut().deadline = patience.and_then(deadline);
        let line = self.line();
        self.stream.get_mut().deadline = None;
        match line? {
            Line::Event(event) => Ok(event),
            // Nothing was asked.
            Line::Response(_) => Err(ClientError::Unasked),
        }
    }

    /// Executes a command that takes no arguments.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute).
    pub fn query<T: DeserializeOwned>(&mut self, command: &str) -> Result<T, ClientError> {
        self.execute(command, None::<&Value>)
    }

    /// The next line.
    fn bytes(&mut self) -> Result<Vec<u8>, ClientError> {
        // Answers may be longer than requests: statistics of all queues of all ports.
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
