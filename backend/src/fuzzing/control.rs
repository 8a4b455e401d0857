//! Target `control`: lines of a control client.

use std::{
    fs,
    sync::{Arc, LazyLock, Mutex},
};

use zcnic_ctl::protocol::Response;

use crate::{
    config::{FlowControl, PortMode, SocketMode},
    entry::Entry,
    memory::MemoryRules,
    port::Port,
    server::{
        fuzzing::Conversation,
        state::{LinkState, ServerState},
    },
    services::Services,
    socket::Socket,
    sync::lock,
};

/// Requests that undo what others did, so that no input depends on those before.
const CLEAN_UP: [&str; 6] = [
    r#"{"execute":"fault-remove","arguments":{"port":"1"}}"#,
    r#"{"execute":"fault-remove","arguments":{"port":"2"}}"#,
    r#"{"execute":"ledger-set","arguments":{"port":"1","mode":"off"}}"#,
    r#"{"execute":"ledger-set","arguments":{"port":"2","mode":"off"}}"#,
    r#"{"execute":"link-set","arguments":{"port":"1","up":true}}"#,
    r#"{"execute":"link-set","arguments":{"port":"2","up":true}}"#,
];

/// The server of two cabled ports without frontends.
static STATE: LazyLock<Mutex<ServerState>> = LazyLock::new(|| {
    let services = Arc::new(Services::new(MemoryRules::default()).expect("Linux AIO"));
    let ports: Vec<Arc<Entry>> = (0..2usize)
        .map(|number| Arc::new(entry(number, &services)))
        .collect();
    for (port, peer) in [(0, 1), (1, 0)] {
        ports[port].port.plug(&ports[peer].port, FlowControl::Drop);
    }
    let links = LinkState {
        cables: Vec::new(),
        wires: Vec::new(),
        switches: Vec::new(),
        lines: Vec::new(),
    };
    Mutex::new(ServerState::new(ports, links, services))
});

fn entry(number: usize, services: &Arc<Services>) -> Entry {
    let name = (number + 1).to_string();
    let path = std::env::temp_dir().join(format!("zcnic-fuzz-{}.{name}", std::process::id()));
    let socket = Socket::listen(&path, SocketMode::default()).expect("a socket");
    // No frontend connects.
    fs::remove_file(path).expect("the socket");
    let port = Port::new(name, PortMode::Auto, 1, (number, services)).expect("descriptors");
    Entry::new(Arc::new(port), socket).expect("descriptors")
}

/// Answers the lines of a client.
///
/// # Panics
///
/// An answer is not a line of the protocol.
pub fn control(bytes: &[u8]) {
    let state = lock(&STATE);
    let client = Conversation::default();
    for line in bytes.split(|byte| *byte == b'\n').take(32) {
        if line.trim_ascii().is_empty() {
            continue;
        }
        let answer = client.answer(&state, line);
        let text = serde_json::to_string(&answer).expect("an answer can be written");
        assert!(!text.contains('\n'), "an answer is one line");
        let read: Response = serde_json::from_str(&text).expect("an answer can be read");
        let again = serde_json::to_string(&read).expect("an answer can be written");
        assert_eq!(again, text, "an answer changes when it is read and written");
    }
    for line in CLEAN_UP {
        client.answer(&state, line.as_bytes());
    }
    client.end(&state);
}
