//! The test plays the guest.

use std::{
    io::{ErrorKind, Write},
    os::unix::net::UnixListener,
};

use zcnic_guest_protocol::agent::{CHUNK, Payload};

use super::*;

/// A guest's end of the connection.
struct Guest {
    socket: UnixStream,
    requests: BufReader<UnixStream>,
}

impl Guest {
    fn new() -> (Self, Agent) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let mut guest = Self {
            requests: BufReader::new(theirs.try_clone().unwrap()),
            socket: theirs,
        };
        guest.reply(Reply::Ready {
            kernel: "7.3".to_owned(),
            ready: true,
        });
        let (agent, kernel) = Agent::connect(ours, Duration::from_secs(10)).unwrap();
        assert_eq!(kernel, "7.3");
        (guest, agent)
    }

    fn reply(&mut self, reply: Reply) {
        write(&mut self.socket, reply).unwrap();
    }

    fn stdout(&mut self, id: u64, bytes: &[u8]) {
        let stdout = Payload(bytes.to_vec());
        self.reply(Reply::Stdout { id, stdout });
    }

    fn request(&mut self) -> Request {
        read(&mut self.requests).unwrap().unwrap()
    }

    /// Reads a request to run a command; returns the command's id.
    fn exec(&mut self) -> u64 {
        let request = self.request();
        assert!(matches!(request.action, Action::Exec(_)), "{request:?}");
        request.id
    }
}

fn cat() -> Exec {
    Exec::new(["cat"]).stdin().timeout(None)
}

#[test]
fn input_waits_for_the_guests_credit() {
    let (mut guest, agent) = Guest::new();
    let process = agent.spawn(&cat()).unwrap();
    let id = guest.exec();
    let mut input = process.input();
    let writer = thread::spawn(move || {
        input.write_all(&vec![7; INPUT_WINDOW + CHUNK]).unwrap();
        input.end().unwrap();
    });
    let mut taken = 0;
    while taken < INPUT_WINDOW {
        let Action::Input(Payload(bytes)) = guest.request().action else {
            panic!("no input");
        };
        taken += bytes.len();
    }
    assert_eq!(taken, INPUT_WINDOW, "no more than the window");
    guest.reply(Reply::Credit { credit: CHUNK, id });
    let Action::Input(Payload(bytes)) = guest.request().action else {
        panic!("no input");
    };
    assert_eq!(bytes, [7; CHUNK]);
    assert_eq!(guest.request().action, Action::Input(Payload::default()));
    writer.join().unwrap();
}

#[test]
fn a_writer_does_not_wait_for_a_command_that_has_ended() {
    let (mut guest, agent) = Guest::new();
    let mut process = agent.spawn(&cat()).unwrap();
    let id = guest.exec();
    let mut input = process.input();
    let writer = thread::spawn(move || input.write_all(&vec![0; 2 * INPUT_WINDOW]));
    guest.reply(Reply::Exit { exit: 3, id });
    let error = writer.join().unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let end = process.next_output().unwrap();
    assert_eq!(end, Output::Ended(Status::Exit(3)));
}

#[test]
fn a_guest_that_ignores_its_credit_is_cut_off() {
    let (mut guest, agent) = Guest::new();
    let mut process = agent.spawn(&cat()).unwrap();
    let id = guest.exec();
    for _ in 0..OUTPUT_WINDOW / CHUNK {
        guest.stdout(id, &[0; CHUNK]);
    }
    guest.stdout(id, b"one too many");
    assert_eq!(read::<Request>(&mut guest.requests).unwrap(), None);
    let error = loop {
        match process.next_output() {
            Ok(Output::Stdout(bytes)) => assert_eq!(bytes.len(), CHUNK),
            other => break other.unwrap_err(),
        }
    };
    assert!(format!("{error:#}").contains("the guest has ended"));
    assert!(agent.spawn(&cat()).is_err());
}

#[test]
fn other_processes_run_commands_through_a_socket() {
    let (mut guest, agent) = Guest::new();
    let mut own = agent.spawn(&cat()).unwrap();
    let own_id = guest.exec();

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("attach.sock");
    serve(&agent, "7.3", UnixListener::bind(&path).unwrap());
    let connect = || UnixStream::connect(&path).unwrap();
    let (other, kernel) = Agent::connect(connect(), Duration::from_secs(10)).unwrap();
    assert_eq!(kernel, "7.3");

    let mut process = other.spawn(&cat()).unwrap();
    let id = guest.exec();
    assert_ne!(id, own_id);
    process.input().write_all(b"in").unwrap();
    let input = Action::Input(Payload(b"in".to_vec()));
    assert_eq!(guest.request(), Request { id, action: input });
    guest.stdout(id, b"out\xff");
    guest.stdout(own_id, b"own");
    let out = process.next_output().unwrap();
    assert_eq!(out, Output::Stdout(b"out\xff".to_vec()));
    let out = own.next_output().unwrap();
    assert_eq!(out, Output::Stdout(b"own".to_vec()));
    guest.reply(Reply::Exit { exit: 5, id });
    let end = process.next_output().unwrap();
    assert_eq!(end, Output::Ended(Status::Exit(5)));

    // A process that goes away takes its commands with it.
    let mut raw = connect();
    let action = Action::Exec(cat().program);
    write(&mut raw, Request { id: 1, action }).unwrap();
    let id = guest.exec();
    drop(raw);
    let action = Action::Kill(9);
    assert_eq!(guest.request(), Request { id, action });
}
