//! Target `frontend`: a whole connection of a frontend that sends any messages with any files.

use std::{
    fs::File,
    io::IoSlice,
    mem::MaybeUninit,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, LazyLock, mpsc},
    thread,
    time::Duration,
};

use rustix::{
    event::{EventfdFlags, eventfd},
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    pipe::{PipeFlags, pipe_with},
};

use crate::{
    config::{FlowControl, PortMode},
    descriptors::Share,
    index::RingIndex,
    input::Input,
    memory::MemoryRules,
    port::Port,
    services::Services,
    vhost::connection,
};

/// A frontend that is not served to its end for so long hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Messages of one connection.
const MESSAGES: usize = 64;

/// Bytes of a file of guest memory.
const FILE: u64 = 0x2_0000;

const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const GET_VRING_BASE: u32 = 11;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
const SET_VRING_ENABLE: u32 = 18;

static PORTS: LazyLock<[Arc<Port>; 2]> = LazyLock::new(|| {
    let services = Arc::new(Services::new(MemoryRules::default()).expect("Linux AIO"));
    let ports = ["1", "2"].map(|name| {
        let port = Port::new(name.to_owned(), PortMode::Auto, 1, (0, &services));
        Arc::new(port.expect("descriptors"))
    });
    for (port, peer) in [(0, 1), (1, 0)] {
        ports[port].plug(&ports[peer], FlowControl::Drop);
    }
    ports
});

/// Serves a frontend that sends messages made of `bytes` and leaves.
///
/// # Panics
///
/// A thread of the connection panics or never ends, or the port still uses a ring afterwards.
pub fn frontend(bytes: &[u8]) {
    let (ours, theirs) = UnixStream::pair().expect("a socket pair");
    ours.set_write_timeout(Some(PATIENCE)).expect("a socket");
    let port = Arc::clone(&PORTS[0]);
    let (ended, end) = mpsc::channel();
    let serving = thread::spawn(move || {
        let result = connection::serve(&port, &theirs, Share::FULL);
        let _ = ended.send(());
        result
    });
    let mut input = Input::new(bytes);
    for _ in 0..MESSAGES {
        // Answers fit the socket's buffer. A frontend that violated the protocol is cut off.
        if input.is_empty() || send(&ours, &mut input).is_err() {
            break;
        }
    }
    let _ = ours.shutdown(Shutdown::Write);
    let in_time = end.recv_timeout(PATIENCE);
    assert!(
        in_time != Err(mpsc::RecvTimeoutError::Timeout),
        "the connection hangs"
    );
    let result = serving
        .join()
        .expect("the connection's thread does not panic");
    if let Err(error) = result {
        let text = error.to_string();
        assert!(
            !text.contains("failed to wait for daemon"),
            "the daemon panicked: {text}"
        );
    }
    let port = &PORTS[0];
    assert!(!port.is_connected(), "the frontend left");
    for ring in RingIndex::all() {
        let runs = port
            .queues
            .with_transport(ring, |transport| transport.is_ready());
        assert!(!runs, "ring {ring} runs without a frontend");
    }
}

/// Sends one message: any request, with a body that fits it or any other.
fn send(to: &UnixStream, input: &mut Input<'_>) -> rustix::io::Result<()> {
    let request = u32::from(input.byte()) % 48;
    let shape = input.byte();
    let ring = u32::from(input.byte());
    let longs =
        |longs: &[u32]| -> Vec<u8> { longs.iter().flat_map(|it| it.to_ne_bytes()).collect() };
    let mut files = Vec::new();
    let body = match (request, shape & 1 == 0) {
        (SET_MEM_TABLE, true) => memory_table(input, &mut files),
        (SET_VRING_NUM | SET_VRING_BASE | GET_VRING_BASE, true) => {
            longs(&[ring, input.word().into()])
        }
        (SET_VRING_ENABLE, true) => longs(&[ring, u32::from(input.byte() & 1)]),
        (SET_VRING_ADDR, true) => {
            let address = |input: &mut Input<'_>| u64::from(input.word()) << 2;
            let parts: [u64; 3] = std::array::from_fn(|_| address(input));
            let parts = parts.iter().flat_map(|part| part.to_ne_bytes());
            longs(&[ring, 0])
                .into_iter()
                .chain(parts)
                .chain([0; 8])
                .collect()
        }
        (SET_VRING_KICK..=SET_VRING_CALL, true) => {
            files.push(file(input));
            [ring.to_ne_bytes(), [0; 4]].concat()
        }
        _ => input.counted(300).to_vec(),
    };
    if shape & 2 != 0 {
        files.extend((0..input.below(3)).map(|_| file(input)));
    }
    // Version 1, and most often no wish for a reply.
    let flags = if shape & 4 == 0 {
        1
    } else {
        1 | u32::from(shape & 8)
    };
    let length = if shape & 0xf0 == 0xf0 {
        u32::from(input.word())
    } else {
        body.len() as u32
    };
    let bytes = [longs(&[request, flags, length]), body].concat();
    let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(16))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() {
        control.push(SendAncillaryMessage::ScmRights(&borrowed));
    }
    sendmsg(
        to,
        &[IoSlice::new(&bytes)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The body of SET_MEM_TABLE with up to three regions, each with a file.
fn memory_table(input: &mut Input<'_>, files: &mut Vec<OwnedFd>) -> Vec<u8> {
    let regions = input.below(4) as u32;
    let mut body = [regions.to_ne_bytes(), [0; 4]].concat();
    for region in 0..u64::from(regions) {
        let shape = input.byte();
        let start = (region * u64::from(input.word())) << 6;
        let size = if shape & 1 == 0 {
            FILE
        } else {
            u64::from(input.word()) << (shape >> 3)
        };
        let offset = if shape & 2 == 0 {
            0
        } else {
            u64::from(input.word()) << 4
        };
        for word in [start, size, start, offset] {
            body.extend(word.to_ne_bytes());
        }
        files.push(if shape & 4 == 0 {
            memory(true)
        } else {
            file(input)
        });
    }
    body
}

/// A file that a frontend might send, though it may be none that makes sense.
fn file(input: &mut Input<'_>) -> OwnedFd {
    match input.byte() % 8 {
        0 => memory(false),
        1 => memory(true),
        2 => pipe_with(PipeFlags::CLOEXEC).expect("a pipe").0,
        3 => pipe_with(PipeFlags::CLOEXEC).expect("a pipe").1,
        4 => File::open("/dev/null").expect("/dev/null").into(),
        _ => eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an eventfd"),
    }
}

fn memory(sealed: bool) -> OwnedFd {
    let file = memfd_create("guest", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING);
    let file = file.expect("a memfd");
    ftruncate(&file, FILE).expect("a memfd");
    if sealed {
        fcntl_add_seals(&file, SealFlags::SHRINK).expect("a fresh memfd");
    }
    file
}
