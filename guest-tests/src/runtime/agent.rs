//! The guest's agent: runs commands for the host, over the virtio-serial port `org.zcnic.agent`.
//!
//! [`zcnic_guest_protocol::agent`] describes the messages. One thread reads requests; each command
//! has a thread of its own that passes its output on.

use std::{
    collections::HashMap,
    fs,
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    path::PathBuf,
    process::{Child, ChildStdin, Command, ExitCode, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{fcntl_getfl, fcntl_setfl, inotify},
    io::Errno,
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
    pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt},
    system::{RebootCommand, reboot, uname},
    termios::{Winsize, tcsetwinsize},
};
use zcnic_guest_protocol::agent::{Action, Exec, Reply, Request, RequestId};

/// The agent's port is number 1 of the only virtio-serial device. Its name, org.zcnic.agent,
/// reaches sysfs only after the port can be opened.
const PORT: (&str, &str) = ("vport", "p1");
const CHUNK: usize = 64 * 1024;

/// Runs commands for the host (started by init)
#[derive(clap::Args, Debug)]
pub struct Args {}

/// Serves until the host closes the port.
///
/// # Errors
///
/// If the port can't be opened, read or written.
pub fn run(_args: &Args) -> Result<ExitCode> {
    let path = port()?;
    let port = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    let reader = BufReader::new(port.try_clone()?);
    serve(reader, Box::new(port))?;
    Ok(ExitCode::SUCCESS)
}

/// Finds the port, waiting for the device if it isn't there yet.
fn port() -> Result<PathBuf> {
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, "/dev", inotify::WatchFlags::CREATE)?;
    let mut buffer = [MaybeUninit::uninit(); 4096];
    let mut events = inotify::Reader::new(&watch, &mut buffer);
    loop {
        for item in fs::read_dir("/dev")? {
            let item = item?;
            let name = item.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(PORT.0) && name.ends_with(PORT.1) {
                return Ok(item.path());
            }
        }
        events.next()?;
    }
}

/// Handles of a running command.
struct Running {
    group: Pid,
    terminal: Option<File>,
}

/// Shared by the thread that reads requests and one thread per command.
struct Agent {
    out: Mutex<Box<dyn Write + Send>>,
    running: Mutex<HashMap<u64, Running>>,
}

/// Answers the requests of `input` on `output` until `input` ends.
fn serve(input: impl BufRead, output: Box<dyn Write + Send>) -> Result<()> {
    let agent = Arc::new(Agent {
        out: Mutex::new(output),
        running: Mutex::default(),
    });
    agent.send(&Reply::Ready {
        kernel: uname().release().to_string_lossy().into_owned(),
        ready: true,
    })?;
    for line in input.lines() {
        let line = line.context("read a request")?;
        match serde_json::from_str::<Request>(&line) {
            Ok(request) => agent.handle(request)?,
            Err(error) => agent.send(&Reply::Error {
                error: format!("not a request: {error}: {line}"),
                id: serde_json::from_str::<RequestId>(&line)
                    .ok()
                    .map(|request| request.id),
            })?,
        }
    }
    Ok(())
}

impl Agent {
    fn send(&self, reply: &Reply) -> Result<()> {
        let line = format!("{}\n", serde_json::to_string(reply)?);
        lock(&self.out)
            .write_all(line.as_bytes())
            .context("write a reply")
    }

    fn handle(self: &Arc<Self>, request: Request) -> Result<()> {
        let id = request.id;
        let result = match request.action {
            Action::Exec(exec) => self.start(id, exec),
            Action::Input(text) => self.type_in(id, &text),
            Action::Kill(number) => self.kill(id, number),
            Action::PowerOff => reboot(RebootCommand::PowerOff).context("power off"),
        };
        result.or_else(|error| self.send(&failure(id, &error)))
    }

    fn type_in(&self, id: u64, text: &str) -> Result<()> {
        let running = lock(&self.running);
        let terminal = running
            .get(&id)
            .and_then(|command| command.terminal.as_ref());
        let mut terminal = terminal.with_context(|| format!("{id} has no terminal"))?;
        Ok(terminal.write_all(text.as_bytes())?)
    }

    fn kill(&self, id: u64, number: i32) -> Result<()> {
        let signal =
            Signal::from_named_raw(number).with_context(|| format!("no signal {number}"))?;
        // A command that has just ended is no error: the host could not know yet.
        if let Some(command) = lock(&self.running).get(&id) {
            let _ = kill_process_group(command.group, signal);
        }
        Ok(())
    }

    /// Starts a command and the thread that follows it.
    fn start(self: &Arc<Self>, id: u64, exec: Exec) -> Result<()> {
        let (program, arguments) = exec.argv.split_first().context("no program is named")?;
        let timeout = exec.timeout.map(Duration::try_from_secs_f64).transpose()?;
        let terminal = exec.tty.map(open_terminal).transpose()?;
        let mut command = if terminal.is_some() {
            // Makes the terminal the controlling one, in a session of its own.
            let mut command = Command::new("setsid");
            command.args(["--ctty", "--wait", program]);
            command
        } else {
            let mut command = Command::new(program);
            command.process_group(0);
            command
        };
        command.args(arguments).envs(&exec.env);
        if let Some(directory) = &exec.cwd {
            command.current_dir(directory);
        }
        let mut streams = Vec::new();
        if let Some((_, inner)) = &terminal {
            command
                .stdin(inner.try_clone()?)
                .stdout(inner.try_clone()?)
                .stderr(inner.try_clone()?);
        } else {
            let input = if exec.stdin.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            };
            command
                .stdin(input)
                .stdout(Stdio::piped())
                .stderr(Stdio::piped());
        }
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot run {program}"))?;
        drop(command);
        let group = Pid::from_raw(child.id().cast_signed()).context("no process id")?;
        if let Some((outer, _)) = &terminal {
            streams.push(Output::new(
                |id, stdout| Reply::Stdout { id, stdout },
                outer.try_clone()?.into(),
            ));
        }
        if let Some(stdout) = child.stdout.take() {
            streams.push(Output::new(
                |id, stdout| Reply::Stdout { id, stdout },
                stdout.into(),
            ));
        }
        if let Some(stderr) = child.stderr.take() {
            streams.push(Output::new(
                |id, stderr| Reply::Stderr { id, stderr },
                stderr.into(),
            ));
        }
        if let (Some(text), Some(pipe)) = (exec.stdin, child.stdin.take()) {
            thread::spawn(move || feed(pipe, &text));
        }
        let terminal = terminal.map(|(outer, _)| outer);
        lock(&self.running).insert(id, Running { group, terminal });
        let agent = Arc::clone(self);
        thread::spawn(move || {
            let end = agent.follow(id, child, group, &mut streams, timeout);
            lock(&agent.running).remove(&id);
            let message = match end {
                Ok(status) => ended(id, status),
                Err(error) => failure(id, &error),
            };
            // If the host has gone, the reading thread notices too.
            let _ = agent.send(&message);
        });
        Ok(())
    }

    /// Passes the output of a command on until it ends, or until its time is up.
    fn follow(
        &self,
        id: u64,
        mut child: Child,
        group: Pid,
        streams: &mut Vec<Output>,
        timeout: Option<Duration>,
    ) -> Result<ExitStatus> {
        let ended = pidfd_open(group, PidfdFlags::empty()).context("pidfd_open")?;
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            let remaining = deadline.map(|at| at.saturating_duration_since(Instant::now()));
            if remaining.is_some_and(|remaining| remaining.is_zero()) {
                let _ = kill_process_group(group, Signal::KILL);
                child.wait()?;
                self.drain(id, streams)?;
                bail!(
                    "timed out after {} s",
                    timeout.unwrap_or_default().as_secs_f64()
                );
            }
            let ready = ready(streams, ended.as_fd(), remaining)?;
            if ready.last() == Some(&true) {
                self.drain(id, streams)?;
                return Ok(child.wait()?);
            }
            let mut ready = ready.into_iter();
            let mut failed = None;
            streams.retain_mut(|stream| {
                if ready.next() != Some(true) {
                    return true;
                }
                self.pass_on(id, stream).unwrap_or_else(|error| {
                    failed = Some(error);
                    false
                })
            });
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }

    /// Reads one chunk and sends it; returns whether there may be more.
    fn pass_on(&self, id: u64, stream: &mut Output) -> Result<bool> {
        let text = match stream.read() {
            Ok(Some(text)) => text,
            Ok(None) => return Ok(false),
            Err(error) => return Err(error).context("read output"),
        };
        if !text.is_empty() {
            self.send(&(stream.reply)(id, text))?;
        }
        Ok(true)
    }

    /// Sends the rest of the pipes of a command that has ended. Processes that it left behind may
    /// keep them open, so this doesn't wait for their end.
    fn drain(&self, id: u64, streams: &mut Vec<Output>) -> Result<()> {
        for mut stream in streams.drain(..) {
            let flags = fcntl_getfl(&stream.source)?;
            fcntl_setfl(&stream.source, flags | rustix::fs::OFlags::NONBLOCK)?;
            while self.pass_on(id, &mut stream)? {}
        }
        Ok(())
    }
}

/// The last message about a command that ran to its end.
fn ended(id: u64, status: ExitStatus) -> Reply {
    match (status.code(), status.signal()) {
        (Some(exit), _) => Reply::Exit { exit, id },
        (None, Some(signal)) => Reply::Signal { id, signal },
        (None, None) => Reply::Error {
            error: status.to_string(),
            id: Some(id),
        },
    }
}

/// The last message about a request that failed.
fn failure(id: u64, error: &anyhow::Error) -> Reply {
    Reply::Error {
        error: format!("{error:#}"),
        id: Some(id),
    }
}

/// One output of a command.
struct Output {
    /// Makes the message that passes a chunk of it on.
    reply: fn(u64, String) -> Reply,
    source: File,
    /// The beginning of a character that continues in the next chunk.
    partial: Vec<u8>,
}

impl Output {
    fn new(reply: fn(u64, String) -> Reply, source: OwnedFd) -> Self {
        Self {
            reply,
            source: source.into(),
            partial: Vec::new(),
        }
    }

    /// The next chunk; None at the end or, of a non-blocking source, when there is nothing now.
    fn read(&mut self) -> std::io::Result<Option<String>> {
        let mut chunk = vec![0; CHUNK];
        let length = match self.source.read(&mut chunk) {
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => 0,
            // The last user has closed the terminal.
            Err(error) if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => 0,
            Err(error) => return Err(error),
        };
        if length == 0 {
            return Ok((!self.partial.is_empty()).then(|| {
                let text = String::from_utf8_lossy(&self.partial).into_owned();
                self.partial.clear();
                text
            }));
        }
        self.partial.extend_from_slice(&chunk[..length]);
        Ok(Some(take_text(&mut self.partial)))
    }
}

/// Takes all whole characters off `bytes` and replaces bytes that can't be part of a character.
fn take_text(bytes: &mut Vec<u8>) -> String {
    let mut end = bytes.len();
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes[at] {
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf7 => 4,
            _ => continue,
        };
        if needs > back {
            end = at;
        }
        break;
    }
    let rest = bytes.split_off(end);
    let text = String::from_utf8_lossy(bytes).into_owned();
    *bytes = rest;
    text
}

/// Waits until one of the streams or, last, `ended` is ready, or the time is over.
fn ready(
    streams: &[Output],
    ended: BorrowedFd<'_>,
    timeout: Option<Duration>,
) -> Result<Vec<bool>> {
    let mut fds: Vec<PollFd<'_>> = streams
        .iter()
        .map(|stream| PollFd::new(&stream.source, PollFlags::IN))
        .collect();
    fds.push(PollFd::from_borrowed_fd(ended, PollFlags::IN));
    let timeout = timeout.map(Timespec::try_from).transpose()?;
    match poll(&mut fds, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error).context("poll"),
    }
    Ok(fds.iter().map(|fd| !fd.revents().is_empty()).collect())
}

/// Writes a command's standard input. The command may end without reading all of it.
fn feed(mut pipe: ChildStdin, text: &str) {
    let _ = pipe.write_all(text.as_bytes());
}

/// Opens a terminal of this size: the agent's end and the command's.
fn open_terminal([rows, columns]: [u16; 2]) -> Result<(File, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let outer = openpt(flags).context("open a terminal")?;
    grantpt(&outer)?;
    unlockpt(&outer)?;
    let inner = ioctl_tiocgptpeer(&outer, flags).context("open a terminal")?;
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    tcsetwinsize(&outer, size)?;
    Ok((outer.into(), inner))
}

/// Nothing here leaves shared state half changed, so a panic elsewhere doesn't spoil it.
fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Lines, os::unix::net::UnixStream};

    use super::*;

    /// The host's side of an agent that runs in this process.
    struct Host {
        socket: UnixStream,
        replies: Lines<BufReader<UnixStream>>,
    }

    impl Host {
        fn new() -> Self {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let input = BufReader::new(theirs.try_clone().unwrap());
            thread::spawn(move || serve(input, Box::new(theirs)));
            let mut host = Self {
                replies: BufReader::new(ours.try_clone().unwrap()).lines(),
                socket: ours,
            };
            assert!(matches!(host.reply(), Reply::Ready { ready: true, .. }));
            host
        }

        fn send(&mut self, request: &str) {
            writeln!(self.socket, "{request}").unwrap();
        }

        fn request(&mut self, id: u64, action: Action) {
            let request = serde_json::to_string(&Request { id, action }).unwrap();
            self.send(&request);
        }

        fn reply(&mut self) -> Reply {
            serde_json::from_str(&self.replies.next().unwrap().unwrap()).unwrap()
        }

        /// The reason why the next reply is an error to request 1.
        fn error(&mut self) -> String {
            match self.reply() {
                Reply::Error { error, id: Some(1) } => error,
                other => panic!("{other:?}"),
            }
        }

        /// Collects output until a command ends: (stdout, stderr, last reply).
        fn run(&mut self, id: u64, exec: Exec) -> (String, String, Reply) {
            self.request(id, Action::Exec(exec));
            self.output()
        }

        fn output(&mut self) -> (String, String, Reply) {
            let (mut stdout, mut stderr) = (String::new(), String::new());
            loop {
                match self.reply() {
                    Reply::Stdout { stdout: text, .. } => stdout.push_str(&text),
                    Reply::Stderr { stderr: text, .. } => stderr.push_str(&text),
                    end => return (stdout, stderr, end),
                }
            }
        }
    }

    fn exec(argv: &[&str]) -> Exec {
        Exec {
            argv: argv.iter().map(|&word| word.to_owned()).collect(),
            ..Exec::default()
        }
    }

    fn shell(script: &str) -> Exec {
        exec(&["sh", "-c", script])
    }

    #[test]
    fn output_and_exit_status_come_back() {
        let script = "cat; pwd; echo $NAME; echo no >&2; exit 3";
        let command = Exec {
            stdin: Some("given ä\n".to_owned()),
            cwd: Some("/usr".to_owned()),
            env: BTreeMap::from([("NAME".to_owned(), "value".to_owned())]),
            ..shell(script)
        };
        let (stdout, stderr, end) = Host::new().run(7, command);
        assert_eq!(stdout, "given ä\n/usr\nvalue\n");
        assert_eq!(stderr, "no\n");
        assert_eq!(end, Reply::Exit { exit: 3, id: 7 });
    }

    #[test]
    fn a_missing_program_is_an_error() {
        let mut host = Host::new();
        host.request(1, Action::Exec(exec(&["/nonexistent"])));
        let error = host.error();
        assert!(error.starts_with("cannot run /nonexistent"), "{error}");
    }

    #[test]
    fn a_command_out_of_time_is_killed_with_its_children() {
        let command = Exec {
            timeout: Some(0.2),
            ..shell("echo a; sleep 60 & wait")
        };
        let (stdout, _, end) = Host::new().run(1, command);
        assert_eq!(stdout, "a\n");
        let error = "timed out after 0.2 s".to_owned();
        assert_eq!(end, Reply::Error { error, id: Some(1) });
    }

    #[test]
    fn commands_run_at_once_and_can_be_killed() {
        let mut host = Host::new();
        host.request(1, Action::Exec(exec(&["sleep", "60"])));
        let (stdout, _, end) = host.run(2, exec(&["echo", "quick"]));
        assert_eq!((stdout.as_str(), end.id()), ("quick\n", Some(2)));
        host.request(1, Action::Kill(15));
        assert_eq!(host.reply(), Reply::Signal { id: 1, signal: 15 });
    }

    #[test]
    fn background_processes_are_not_waited_for() {
        let (stdout, _, end) = Host::new().run(1, shell("sleep 60 & echo $!"));
        assert_eq!(end, Reply::Exit { exit: 0, id: 1 });
        let pid = Pid::from_raw(stdout.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[test]
    fn a_command_can_have_a_terminal() {
        let mut host = Host::new();
        let command = Exec {
            tty: Some([10, 20]),
            ..shell("tty; stty size; read line; echo got $line")
        };
        host.request(1, Action::Exec(command));
        host.request(1, Action::Input("typed\n".to_owned()));
        let (text, _, end) = host.output();
        assert_eq!(end, Reply::Exit { exit: 0, id: 1 }, "{text}");
        assert!(
            text.contains("/dev/pts/") && text.contains("10 20"),
            "{text}"
        );
        assert!(text.contains("got typed"), "{text}");
    }

    #[test]
    fn wrong_requests_are_answered() {
        let mut host = Host::new();
        host.send(r#"{"id":1,"execute":["ls"]}"#);
        assert!(host.error().contains("execute"));
        host.send(r#"{"id":1}"#);
        assert!(host.error().contains("exec, input"));
        host.send("ls");
        assert!(matches!(host.reply(), Reply::Error { id: None, .. }));
    }

    #[test]
    fn characters_are_not_split() {
        let mut bytes = "aä".as_bytes()[..2].to_vec();
        assert_eq!(take_text(&mut bytes), "a");
        bytes.push(0xa4);
        assert_eq!(take_text(&mut bytes), "ä");
        assert!(bytes.is_empty());
        bytes.extend([b'x', 0xff, b'y']);
        assert_eq!(take_text(&mut bytes), "x\u{fffd}y");
    }
}
