//! A command, its output and its end.

use std::{fmt, time::Duration};

use zcnic_guest_protocol::agent as protocol;

/// Time limit of a command that sets none.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(60);

/// A command to run in the guest.
#[derive(Clone, Debug)]
pub struct Exec {
    pub(super) program: protocol::Exec,
    pub(super) timeout: Option<Duration>,
}

impl Exec {
    /// The program and its arguments, with a time limit of one minute.
    pub fn new<S: AsRef<str>>(argv: impl IntoIterator<Item = S>) -> Self {
        let argv = argv.into_iter().map(|word| word.as_ref().to_owned());
        Self {
            program: protocol::Exec {
                argv: argv.collect(),
                ..protocol::Exec::default()
            },
            timeout: Some(DEFAULT_TIMEOUT),
        }
    }

    /// A command line for the guest's bash, which stops at the first command that fails.
    pub fn shell(script: &str) -> Self {
        Self::new(["bash", "-euo", "pipefail", "-c", script])
    }

    /// Lets the caller write its standard input, which is empty otherwise: see
    /// [`Process::input`](super::Process::input).
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.program.stdin = true;
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        let env = &mut self.program.env;
        env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Runs it on a terminal of this size; its standard error then comes as standard output.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.program.tty = Some([rows, columns]);
        self
    }

    /// Sets the time after which the agent kills it; None: it has no limit.
    #[must_use]
    pub fn timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.timeout = timeout.into();
        self
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.program.argv)
    }
}

/// How a command in the guest ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It exited with this status.
    Exit(i32),
    /// This signal ended it.
    Signal(i32),
}

impl Status {
    /// Whether it exited with status 0.
    pub fn success(self) -> bool {
        self == Self::Exit(0)
    }

    /// The exit status that a shell reports: 128 plus the number of a signal.
    pub fn code(self) -> u8 {
        let code = match self {
            Self::Exit(code) => code,
            Self::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(u8::MAX)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit status {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

/// A command that has ended. Bytes that are no UTF-8 are replaced by U+FFFD in its output; callers
/// that want them read [`Output`].
#[derive(Clone, Debug)]
pub struct Finished {
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    /// How it ended.
    pub status: Status,
}

/// A piece of a running command's output, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes on standard output.
    Stdout(Vec<u8>),
    /// Bytes on standard error.
    Stderr(Vec<u8>),
    /// The end; nothing comes after it.
    Ended(Status),
}

/// Splits a stream of bytes into lines of text.
#[derive(Debug, Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// Adds bytes that came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// Takes the bytes that are no whole line yet.
    pub fn take_rest(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// Takes whole lines, with their line feeds.
impl Iterator for Lines {
    type Item = String;

    fn next(&mut self) -> Option<String> {
        let end = self.0.iter().position(|&byte| byte == b'\n')?;
        let line: Vec<u8> = self.0.drain(..=end).collect();
        Some(String::from_utf8_lossy(&line).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_may_come_in_pieces_of_characters() {
        let mut lines = Lines::default();
        let text = "a ä\nb\nc".as_bytes();
        lines.push(&text[..3]);
        assert_eq!(lines.next(), None);
        lines.push(&text[3..]);
        assert_eq!(lines.by_ref().collect::<Vec<_>>(), ["a ä\n", "b\n"]);
        assert_eq!(lines.take_rest(), b"c");
    }
}
