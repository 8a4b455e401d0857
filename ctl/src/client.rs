//! A blocking client of the control socket.

use std::{
    collections::VecDeque,
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use crate::protocol::{Failure, Greeting, MAX_LINE, Outcome, Request, Response, event::Event};

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
    stream: BufReader<UnixStream>,
    greeting: Greeting,
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
    /// Connects and reads the greeting.
    ///
    /// # Errors
    ///
    /// Nobody listens at `path`, or it is not a zcnic backend.
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let stream = UnixStream::connect(path)
            .map_err(|error| ClientError::Connect(path.to_owned(), error))?;
        let mut stream = BufReader::new(stream);
        let mut partial = Vec::new();
        let greeting = serde_json::from_slice(&line(&mut stream, &mut partial)?)?;
        Ok(Self {
            stream,
            greeting,
            events: VecDeque::new(),
            partial: Vec::new(),
        })
    }

    /// Who answers.
    #[must_use]
    pub fn greeting(&self) -> &Greeting {
        &self.greeting
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
        let mut bytes = serde_json::to_vec(&request)?;
        bytes.push(b'\n');
        self.stream.get_mut().write_all(&bytes)?;
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
        let line = line(&mut self.stream, &mut self.partial)?;
        Ok(serde_json::from_slice(&line)?)
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
        self.stream.get_ref().set_read_timeout(patience)?;
        let line = self.line();
        self.stream.get_ref().set_read_timeout(None)?;
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
}

fn line(stream: &mut BufReader<UnixStream>, partial: &mut Vec<u8>) -> Result<Vec<u8>, ClientError> {
    // Answers may be longer than requests: statistics of all queues of all ports.
    stream
        .take(64 * MAX_LINE as u64)
        .read_until(b'\n', partial)?;
    if partial.is_empty() {
        Err(ClientError::Closed)
    } else {
        Ok(std::mem::take(partial))
    }
}
