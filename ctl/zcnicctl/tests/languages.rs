//! Clients in other languages, and the examples of docs/testing-with-zcnic.md, against a backend.

#[path = "../../../backend/tests/common/mod.rs"]
mod common;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use common::World;
use serde_json::json;
use zcnic_model::{Driver, Shape, frames::Flow, vhost_user::Frontend};

const DOCUMENT: &str = include_str!("../../../docs/testing-with-zcnic.md");

/// A path in the workspace.
fn workspace(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

/// The example of the document that contains `mark`.
fn example(mark: &str) -> String {
    let mut blocks = vec![String::new()];
    for line in DOCUMENT.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(code), Some(block)) => *block += &format!("{code}\n"),
            (None, Some(block)) if line.is_empty() && !block.is_empty() => block.push('\n'),
            (None, Some(block)) if !block.is_empty() => blocks.push(String::new()),
            _ => {}
        }
    }
    let found = blocks.into_iter().find(|block| block.contains(mark));
    let block = found.unwrap_or_else(|| panic!("no example with {mark}"));
    format!("{}\n", block.trim_end())
}

/// Two ports, the first of which sends datagrams to the second while a client runs.
struct Traffic {
    world: World,
    sender: Driver<Frontend>,
    receiver: Driver<Frontend>,
}

impl Traffic {
    fn new() -> Self {
        let world = World::new();
        let [mut sender, mut receiver] = world.drivers(3);
        sender.bring_up(Shape::SPLIT, 0);
        receiver.bring_up(Shape::SPLIT, 64);
        Self {
            world,
            sender,
            receiver,
        }
    }

    /// Runs a client, and sends datagrams while it has a rule in force.
    fn run(&mut self, client: &mut Command) -> (Output, String) {
        let zcnicctl = Path::new(env!("CARGO_BIN_EXE_zcnicctl"));
        let mut path = zcnicctl
            .parent()
            .expect("a directory")
            .as_os_str()
            .to_owned();
        path.push(":");
        path.push(env::var_os("PATH").unwrap_or_default());
        client
            .env("ZCNIC_CONTROL", self.world.control_path())
            .env("PATH", path)
            .env("PYTHONPATH", workspace("ctl/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let running = client
            .spawn()
            .unwrap_or_else(|error| panic!("{client:?}: {error}"));
        let mut control = self.world.control();
        let (ended, end) = mpsc::channel();
        let waiting = thread::spawn(move || {
            let output = running.wait_with_output();
            let _ = ended.send(());
            output
        });
        while let Err(RecvTimeoutError::Timeout) = end.recv_timeout(Duration::from_millis(5)) {
            let rules = control.fault_list().expect("rules");
            if !rules.is_empty() {
                self.sender.send(0, Flow::udp4().frame(b"datagram"));
                self.receiver.receive_all();
            }
        }
        let output = waiting.join().expect("a thread").expect("the client ran");
        let text = [&output.stdout[..], &output.stderr].concat();
        (output, String::from_utf8_lossy(&text).into_owned())
    }

    /// Runs a client that is to succeed and to leave no rule; returns its output.
    fn succeed(&mut self, client: &mut Command) -> String {
        let (output, text) = self.run(client);
        assert!(output.status.success(), "{client:?}:\n{text}");
        let rules = self.world.control().fault_list().expect("rules");
        assert!(rules.is_empty(), "{client:?} left {rules:?}");
        text
    }
}

fn python(script: &str) -> Command {
    let mut command = Command::new("python3");
    command.args(["-W", "error", "-c", script]);
    command
}

#[test]
fn the_documented_python_program_arms_a_fault_and_waits_for_it() {
    let mut traffic = Traffic::new();
    traffic.succeed(&mut python(&example("port.fault(\"rx\", \"drop\", nth=3)")));
    // A rule that can't hit: the wait times out, and the rule is removed nevertheless.
    let never = example("port.fault(\"rx\", \"drop\", nth=3)")
        .replace("nth=3", "nth=3, destination_port=9")
        .replace("timeout=5", "timeout=0.1");
    let (output, text) = traffic.run(&mut python(&never));
    assert_eq!(output.status.code(), Some(1));
    assert!(
        text.contains("zcnic.Timeout: Rule 2 hit 0 of 1 times in time"),
        "{text}"
    );
    assert!(
        traffic
            .world
            .control()
            .fault_list()
            .expect("rules")
            .is_empty()
    );
}

#[test]
fn python_has_methods_for_the_commands() {
    let script = r#"
import zcnic
with zcnic.connect() as client:
    port = client.port(1)
    assert port.status()["connected"], port.status()
    counts = port.count_flow(protocol="udp")
    port.set_ledger("full", overdue=60)
    client.subscribe("fault-hit")
    with port.fault("rx", {"delay": {"nanoseconds": 1000}}, every=2, protocol="udp") as fault:
        assert [rule["id"] for rule in client.faults()] == [fault.id]
        assert fault.wait(2, timeout=5)["hits"] >= 2
        assert fault.hits() >= 2
    hit = client.event(timeout=5)
    assert hit["event"] == "fault-hit" and hit["data"]["count"] == 2, hit
    assert sum(queue["delivered"] for queue in counts().values()) > 0, counts()
    assert port.ledger()[0]["posted"] > 0
    assert port.stats()["queues"][0]["rx-frames"] > 0
    assert "split" in port.features()["negotiated"]
    assert port.queues()[0]["rx"]["running"]
    assert "promisc" in port.steering()
    port.fault("tx", "drop")
    port.remove_faults()
    port.set_link(False)
    assert not port.status()["link"]
    port.set_link(True)
    for wrong, kind, words in [
        (lambda: client.port("2").fault("rx", "drop"), "NotFound", "2"),
        (lambda: port.fault("rx", "explode"), "GenericError", "explode"),
        (lambda: client.execute("make-tea"), "CommandNotFound", "make-tea"),
        (lambda: client.port("2").status(), "NotFound", "2"),
    ]:
        try:
            wrong()
        except zcnic.Error as error:
            assert error.error_class == kind and words in str(error), error
        else:
            raise AssertionError(words)
    # The client gives up before the backend: the next command need not wait.
    try:
        client.execute("fault-wait", 0.1, id=port.fault("tx", "drop").id, timeout=int(60e9))
    except zcnic.Timeout as error:
        assert "did not answer" in str(error), error
    port.remove_faults()
    port.reset()
    port.disconnect()
"#;
    Traffic::new().succeed(&mut python(script));
}

#[test]
fn clients_name_a_socket_that_is_not_a_control_socket_and_leave_it() {
    let world = World::new();
    let directory = tempfile::tempdir().expect("directory");
    let connect = python("import zcnic; zcnic.connect()");
    let mut status = Command::new(env!("CARGO_BIN_EXE_zcnicctl"));
    status.arg("status");
    let c = Command::new(compile(directory.path()));
    for (mut client, code) in [(connect, 1), (status, 3), (c, 1)] {
        client
            .env("PYTHONPATH", workspace("ctl/python"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("ZCNIC_CONTROL", world.path(0));
        let output = client.output().expect("it runs");
        let text = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(
            text.contains("This is the vhost-user socket of port 0, for QEMU"),
            "{text}"
        );
        // The port is free again.
        drop(world.driver(0, 3));
    }
}

/// Compiles the documented C program without warnings; returns its path below `directory`.
fn compile(directory: &Path) -> PathBuf {
    let source = directory.join("test.c");
    let program = directory.join("test");
    fs::write(&source, example("#include \"zcnic_ctl.h\"")).expect("a file");
    for standard in ["-std=gnu99", "-std=c99"] {
        let mut cc = Command::new("cc");
        cc.args([standard, "-D_GNU_SOURCE", "-O2"])
            .args(["-Wall", "-Wextra", "-Werror", "-Wpedantic"])
            .arg("-I")
            .arg(workspace("ctl/c"))
            .arg("-o")
            .args([&program, &source]);
        let output = cc.output().expect("a C compiler");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{cc:?}:\n{text}");
    }
    program
}

/// Runs a client on a terminal that is wired to the control socket: for the client a character
/// device, as a virtio-serial port of a guest is. A program before left rule 1 and `BEFORE`.
const WIRED: &str = r#"
import os, pty, select, socket, subprocess, sys, tty
ours, port = pty.openpty()
tty.setraw(port)
backend = socket.socket(socket.AF_UNIX)
backend.connect(os.environ["ZCNIC_CONTROL"])
backend.sendall(b"""{"execute":"fault-add","arguments":{"port":"1","rules":[{"direction":"tx","action":"drop"}]}}
""" + os.environ["BEFORE"].encode())
os.environ["ZCNIC_CONTROL"] = os.ttyname(port)
client = subprocess.Popen(sys.argv[1:])
while client.poll() is None:
    for ready in select.select([ours, backend], [], [], 0.05)[0]:
        data = os.read(ready if ready == ours else backend.fileno(), 4096)
        if ready == ours:
            backend.sendall(data)
        else:
            os.write(ours, data)
sys.exit(client.returncode)
"#;

#[test]
fn clients_take_over_the_port_of_a_guest() {
    let directory = tempfile::tempdir().expect("directory");
    let c = compile(directory.path());
    let c = c.to_str().expect("UTF-8");
    let script = example("port.fault(\"rx\", \"drop\", nth=3)");
    let clients: [&[&str]; 3] = [
        &["python3", "-W", "error", "-c", &script],
        &[c],
        &["zcnicctl", "fault", "wait", "1", "--hits", "0"],
    ];
    let wait =
        json!({"execute": "fault-wait", "arguments": {"id": 1, "timeout": 600_000_000_000_u64}});
    for before in [&format!("{wait}\n"), r#"{"execute":"query-"#] {
        for client in clients {
            let mut command = python(WIRED);
            command.env("BEFORE", before).args(client);
            let (output, text) = Traffic::new().run(&mut command);
            assert!(output.status.success(), "{before}, {client:?}:\n{text}");
        }
    }
}

#[test]
fn the_documented_c_program_compiles_without_warnings_and_runs() {
    let directory = tempfile::tempdir().expect("directory");
    let program = compile(directory.path());
    let mut traffic = Traffic::new();
    let text = traffic.succeed(&mut Command::new(&program));
    assert_eq!(text, "rule 1 hit 1 time\n");

    let mut lost = Command::new(&program);
    let lost = lost.env("ZCNIC_CONTROL", traffic.world.path(1).with_extension("x"));
    let output = lost.output().expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(1) && text.contains("No such file"),
        "{text}"
    );
}

#[test]
fn the_documented_shell_script_arms_a_fault_and_removes_it() {
    let mut command = Command::new("sh");
    command.args(["-c", &example("fault wait \"$rule\"")]);
    let text = Traffic::new().succeed(&mut command);
    assert!(text.lines().count() == 2 && text.contains("drop"), "{text}");
}

#[test]
fn the_documented_rust_program_is_the_example() {
    let file = fs::read_to_string(workspace("ctl/examples/arm_a_fault.rs")).expect("a file");
    assert_eq!(example("use zcnic_ctl::"), file);
}
