//! A server of the control protocol with scripted answers.

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixListener, UnixStream},
    path::PathBuf,
    thread::{self, JoinHandle},
};

use serde_json::Value;
use tempfile::TempDir;

/// What the server greets with.
pub(crate) const GREETING: &str = r#"{"zcnic":{"version":"9.9.9"}}"#;

/// Greets one client and answers each request with the next line, or with several; returns the
/// requests.
pub(crate) fn serve(answers: Vec<Value>) -> (TempDir, PathBuf, JoinHandle<Vec<Value>>) {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("control");
    let listener = UnixListener::bind(&path).expect("listen");
    let server = thread::spawn(move || {
        let (stream, _) = listener.accept().expect("accept");
        let mut writer: &UnixStream = &stream;
        writeln!(writer, "{GREETING}").expect("greeting");
        let lines = BufReader::new(&stream).lines();
        // Clients begin with one.
        let is_empty =
            |line: &Result<String, _>| matches!(line, Ok(line) if line.trim().is_empty());
        let mut lines = lines.filter(|line| !is_empty(line));
        let mut requests = Vec::new();
        for answer in answers {
            let Some(line) = lines.next() else { break };
            let request = serde_json::from_str(&line.expect("a line")).expect("JSON");
            requests.push(request);
            let lines = match answer {
                Value::Array(lines) => lines,
                line => vec![line],
            };
            for line in lines {
                writeln!(writer, "{line}").expect("answer");
            }
        }
        requests
    });
    (directory, path, server)
}
