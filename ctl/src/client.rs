//! A blocking client of the control socket.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use thiserror::Error;

use crate::protocol::{Failure, Greeting, MAX_LINE, Outcome, Request, Response};

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
    /// The backend refused.
    #[error("{}", .0.desc)]
    Refused(Failure),
}

/// A connection to a backend's control socket.
#[derive(Debug)]
pub struct Client {
    stream: BufReader<UnixStream>,
    greeting: Greeting,
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
        let greeting = serde_json::from_slice(&line(&mut stream)?)?;
        Ok(Self { stream, greeting })
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
        let response: Response = serde_json::from_slice(&line(&mut self.stream)?)?;
        match response.outcome {
            Outcome::Return(value) => Ok(serde_json::from_value(value)?),
            Outcome::Error(failure) => Err(ClientError::Refused(failure)),
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

fn line(stream: &mut BufReader<UnixStream>) -> Result<Vec<u8>, ClientError> {
    // Answers may be longer than requests: statistics of all queues of all ports.
    let mut line = Vec::new();
    stream
        .take(64 * MAX_LINE as u64)
        .read_until(b'\n', &mut line)?;
    if line.is_empty() {
        Err(ClientError::Closed)
    } else {
        Ok(line)
    }
}
