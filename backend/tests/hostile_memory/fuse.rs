//! A FUSE file system of one file, whose server stops answering.

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{Mode, OFlags, open, openat},
    io::{read, write},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};

// Requests (linux/fuse.h).
const LOOKUP: u32 = 1;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const FLUSH: u32 = 25;
const INIT: u32 = 26;

/// The file system, and its server.
pub(crate) struct Fuse {
    root: OwnedFd,
    silent: Arc<AtomicBool>,
    done: Arc<AtomicBool>,
    server: Option<JoinHandle<()>>,
}

impl Fuse {
    /// Mounts one whose file has `size` bytes; `None`: this user may not.
    pub(crate) fn mount(size: u64) -> Option<Self> {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        let device = open("/dev/fuse", flags, Mode::empty()).ok()?;
        let system = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&device).to_string();
        for (key, value) in [
            ("fd", descriptor.as_str()),
            ("rootmode", "40000"),
            ("user_id", "0"),
            ("group_id", "0"),
        ] {
            fsconfig_set_string(&system, key, value).expect("an option of FUSE");
        }
        fsconfig_create(&system).expect("a file system");
        let (silent, done) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let server = thread::spawn({
            let (silent, done) = (Arc::clone(&silent), Arc::clone(&done));
            move || serve(&device, size, &silent, &done)
        });
        let flags = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
        Some(Self {
            root: fsmount(&system, flags.0, flags.1).expect("a mount"),
            silent,
            done,
            server: Some(server),
        })
    }

    /// Opens the file.
    pub(crate) fn open(&self) -> OwnedFd {
        let flags = OFlags::RDWR | OFlags::CLOEXEC;
        openat(&self.root, "memory", flags, Mode::empty()).expect("the file")
    }

    /// From now on the server answers nothing but that a file is closed.
    pub(crate) fn fall_silent(&self) {
        self.silent.store(true, Ordering::Relaxed);
    }

    /// Answers again.
    pub(crate) fn speak_again(&self) {
        self.silent.store(false, Ordering::Relaxed);
    }
}

impl Drop for Fuse {
    fn drop(&mut self) {
        // Whoever waits for an answer gets an error.
        self.done.store(true, Ordering::Relaxed);
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

fn serve(device: &OwnedFd, size: u64, silent: &AtomicBool, done: &AtomicBool) {
    let tick = Timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    let mut buffer = vec![0; 1 << 18];
    while !done.load(Ordering::Relaxed) {
        let mut ready = [PollFd::new(device, PollFlags::IN)];
        if poll(&mut ready, Some(&tick)) != Ok(1) {
            continue;
        }
        let Ok(length) = read(device, &mut buffer[..]) else {
            continue;
        };
        let (words, _) = buffer[..length].as_chunks::<4>();
        let opcode = u32::from_ne_bytes(words[1]);
        let unique = &buffer[8..16];
        if silent.load(Ordering::Relaxed) && opcode != FLUSH {
            continue;
        }
        let body = answer(opcode, size);
        let error = if body.is_some() { 0 } else { -libc::ENOSYS };
        let body = body.unwrap_or_default();
        let head = [(16 + body.len() as u32).to_ne_bytes(), error.to_ne_bytes()].concat();
        let _ = write(device, &[&head[..], unique, &body].concat());
    }
}

/// The body of an answer; `None`: the request is not served.
fn answer(opcode: u32, size: u64) -> Option<Vec<u8>> {
    let (node, directory) = (2u64, 1u64);
    let attributes = |node: u64, mode: u32| {
        let longs = [node, size, 0, 0, 0, 0].map(u64::to_ne_bytes).concat();
        let words = [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].map(u32::to_ne_bytes);
        [longs, words.concat()].concat()
    };
    let file = attributes(node, 0o100_600);
    Some(match opcode {
        // Version 7.31, the rest as small as may be.
        INIT => {
            let words = [7, 31, 0, 0, 0, 1 << 16, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            words.map(u32::to_ne_bytes).concat()
        }
        // Nothing may be cached.
        LOOKUP => [[node, 0, 0, 0, 0].map(u64::to_ne_bytes).concat(), file].concat(),
        GETATTR => [vec![0; 16], attributes(directory, 0o040_700)].concat(),
        OPEN => vec![0; 16],
        FLUSH => Vec::new(),
        _ => return None,
    })
}
