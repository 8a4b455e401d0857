//! An agent in this process, on a socket pair.

use std::{collections::BTreeMap, io::Write, os::unix::net::UnixStream, thread};

use rustix::process::Pid;
use zcnic_guest_protocol::agent::{CHUNK, Exec, INPUT_WINDOW, OUTPUT_WINDOW};

use super::*;

/// The host's side of an agent that runs in this process.
struct Host {
    socket: UnixStream,
    replies: BufReader<UnixStream>,
}

impl Host {
    fn new() -> Self {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let input = BufReader::new(theirs.try_clone().unwrap());
        thread::spawn(move || serve(input, Box::new(theirs)));
        let mut host = Self {
            replies: BufReader::new(ours.try_clone().unwrap()),
            socket: ours,
        };
        assert!(matches!(host.reply(), Reply::Ready { ready: true, .. }));
        host
    }

    fn send(&mut self, request: &str) {
        writeln!(self.socket, "{request}").unwrap();
    }

    fn request(&mut self, id: u64, action: Action) {
        write(&mut self.socket, Request { id, action }).unwrap();
    }

    fn input(&mut self, id: u64, bytes: &[u8]) {
        self.request(id, Action::Input(Payload(bytes.to_vec())));
    }

    fn reply(&mut self) -> Reply {
        read(&mut self.replies).unwrap().unwrap()
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
        let (stdout, stderr, end) = self.bytes();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (text(stdout), text(stderr), end)
    }

    fn bytes(&mut self) -> (Vec<u8>, Vec<u8>, Reply) {
        let (mut all, mut errors) = (Vec::new(), Vec::new());
        loop {
            match self.reply() {
                Reply::Stdout { stdout, .. } => all.extend(stdout.0),
                Reply::Stderr { stderr, .. } => errors.extend(stderr.0),
                Reply::Credit { .. } => {}
                end => return (all, errors, end),
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
        stdin: true,
        cwd: Some("/usr".to_owned()),
        env: BTreeMap::from([("NAME".to_owned(), "value".to_owned())]),
        ..shell(script)
    };
    let mut host = Host::new();
    host.request(7, Action::Exec(command));
    host.input(7, "given ä\n".as_bytes());
    host.input(7, b"");
    let (stdout, stderr, end) = host.output();
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
    host.input(1, b"typed\n");
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
    assert!(host.error().contains("credit, exec"));
    host.send("ls");
    assert!(matches!(host.reply(), Reply::Error { id: None, .. }));
}

#[test]
fn bytes_come_back_unchanged() {
    let mut host = Host::new();
    let all: Vec<u8> = (0..=255).cycle().take(INPUT_WINDOW).collect();
    let cat = Exec {
        stdin: true,
        ..exec(&["cat"])
    };
    host.request(1, Action::Exec(cat));
    for chunk in all.chunks(CHUNK) {
        host.input(1, chunk);
    }
    host.input(1, b"");
    let (stdout, _, end) = host.bytes();
    assert!(stdout == all, "{} bytes", stdout.len());
    assert_eq!(end, Reply::Exit { exit: 0, id: 1 });
}

#[test]
fn output_waits_for_the_hosts_credit() {
    let mut host = Host::new();
    let more = 3 * CHUNK;
    let total = OUTPUT_WINDOW + more;
    host.request(
        1,
        Action::Exec(shell(&format!("head -c {total} /dev/zero"))),
    );
    let take = |wanted: usize, host: &mut Host| {
        let mut taken = 0;
        while taken < wanted {
            match host.reply() {
                Reply::Stdout { stdout, .. } => taken += stdout.0.len(),
                other => panic!("{other:?} after {taken}"),
            }
        }
        assert_eq!(taken, wanted);
    };
    take(OUTPUT_WINDOW, &mut host);
    // Another command is served although the first one waits: its output comes next.
    let (stdout, _, _) = host.run(2, exec(&["echo", "meanwhile"]));
    assert_eq!(stdout, "meanwhile\n");
    host.request(1, Action::Credit(CHUNK));
    take(CHUNK, &mut host);
    host.request(1, Action::Credit(more));
    take(more - CHUNK, &mut host);
    assert_eq!(host.reply(), Reply::Exit { exit: 0, id: 1 });
}

#[test]
fn input_is_credited_as_the_command_reads() {
    let mut host = Host::new();
    let command = Exec {
        stdin: true,
        ..shell("read line; exec <&-; echo closed; read never < /dev/tty; sleep 60")
    };
    host.request(1, Action::Exec(command));
    host.input(1, b"a line\n");
    assert_eq!(host.reply(), Reply::Credit { credit: 7, id: 1 });
    let Reply::Stdout { stdout, .. } = host.reply() else {
        panic!("no output");
    };
    assert_eq!(stdout.0, b"closed\n");
    // It has closed its input: there is no credit, and nothing waits for it.
    host.input(1, &[b'x'; CHUNK]);
    host.request(1, Action::Kill(9));
    let (.., end) = host.bytes();
    assert_eq!(end, Reply::Signal { id: 1, signal: 9 });
}

#[test]
fn the_size_of_a_terminal_can_change() {
    let mut host = Host::new();
    let command = Exec {
        tty: Some([10, 20]),
        ..shell("trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.1; done")
    };
    host.request(1, Action::Exec(command));
    assert!(matches!(host.reply(), Reply::Stdout { .. }));
    host.request(1, Action::Size([30, 40]));
    let (text, _, end) = host.output();
    assert!(text.contains("30 40"), "{text}");
    assert_eq!(end, Reply::Exit { exit: 4, id: 1 });
}

/// A port that the kernel reports as closed for a few reads.
struct Resumed {
    ends: u32,
    input: &'static [u8],
}

impl Read for Resumed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ends > 0 {
            self.ends -= 1;
            return Ok(0);
        }
        self.input.read(buffer)
    }
}

#[test]
fn a_port_that_was_closed_while_the_guest_slept_is_read_on() {
    let port = Resumed {
        ends: 3,
        input: b"a request\n",
    };
    let mut line = String::new();
    BufReader::new(AcrossSleep(port))
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "a request\n");
}
