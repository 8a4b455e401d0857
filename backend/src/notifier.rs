//! Signals the eventfds that frontends hand over, without ever waiting for a frontend.
//!
//! A frontend shares the open file of each descriptor that it hands over. It can clear O_NONBLOCK
//! and fill the counter at any time, and write(2) then sleeps until the frontend reads. An eventfd
//! has no other write: RWF_NOWAIT is refused, and io_uring asks for O_NONBLOCK as write(2) does. A
//! request of Linux AIO, however, signals an eventfd when it completes (IOCB_FLAG_RESFD). The
//! kernel adds 1 then, or nothing at the limit, without sleeping. So a signal is a read of nothing,
//! which completes inside io_submit(2). The same flag refuses everything that is not an eventfd.

#![expect(
    unsafe_code,
    reason = "system calls of Linux AIO, which no crate in use wraps"
)]

use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    sync::Arc,
    thread,
};

use libc::{SYS_io_destroy, SYS_io_getevents, SYS_io_setup, SYS_io_submit, c_long, c_ulong};
use rustix::fs::{MemfdFlags, memfd_create};

/// Completed requests that the kernel keeps until they are taken.
const REQUESTS: usize = 128;

/// How often a signal is tried again while other threads hold all requests.
const ATTEMPTS: usize = 1000;

/// `IOCB_CMD_PREAD`.
const PREAD: u16 = 0;

/// `IOCB_FLAG_RESFD`.
const SIGNAL: u32 = 1;

/// `struct iocb` of linux/aio_abi.h; the order of two members depends on the byte order.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    data: u64,
    key_and_flags: [u32; 2],
    opcode: u16,
    priority: i16,
    file: u32,
    buffer: u64,
    bytes: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    eventfd: u32,
}

/// `struct io_event` of linux/aio_abi.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Completion {
    data: u64,
    request: u64,
    results: [i64; 2],
}

const _: () = assert!(size_of::<Request>() == 64 && size_of::<Completion>() == 32);

/// Signals eventfds. One serves all threads.
#[derive(Debug)]
pub(crate) struct Notifier {
    context: c_ulong,
    /// An empty file to read nothing from.
    empty: OwnedFd,
}

/// An eventfd whose open file a frontend shares.
#[derive(Debug)]
pub(crate) struct SharedEventfd {
    fd: OwnedFd,
    notifier: Arc<Notifier>,
}

impl Notifier {
    /// # Errors
    ///
    /// The kernel has no AIO, or other processes use all of `/proc/sys/fs/aio-max-nr`.
    pub(crate) fn new() -> io::Result<Self> {
        let empty = memfd_create("empty", MemfdFlags::CLOEXEC)?;
        let mut context: c_ulong = 0;
        // SAFETY: The kernel writes one word to `context`, which lives during the call.
        let made = unsafe { libc::syscall(SYS_io_setup, REQUESTS as c_long, &raw mut context) };
        check(made).map_err(|error| {
            let hint = "Interrupts need Linux AIO (io_setup, /proc/sys/fs/aio-max-nr)";
            io::Error::new(error.kind(), format!("{hint}: {error}"))
        })?;
        Ok(Self { context, empty })
    }

    /// Whether `fd` is an eventfd. Nothing is done to it.
    pub(crate) fn is_eventfd(&self, fd: BorrowedFd<'_>) -> bool {
        loop {
            // The kernel looks at the eventfd first, and then refuses a buffer of its own memory.
            match self.read(fd, (u64::MAX - 4095, 1)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.take_completions(),
                result => {
                    let refused = |error: io::Error| error.raw_os_error() == Some(libc::EFAULT);
                    return result.map_or_else(refused, |()| true);
                }
            }
        }
    }

    /// Takes over a descriptor that has to be an eventfd; `None`: it is not, and is closed.
    pub(crate) fn accept(self: &Arc<Self>, fd: OwnedFd) -> Option<SharedEventfd> {
        self.is_eventfd(fd.as_fd()).then(|| SharedEventfd {
            fd,
            notifier: Arc::clone(self),
        })
    }

    /// Submits a read from the empty file, which signals `eventfd` as it completes.
    fn read(&self, eventfd: BorrowedFd<'_>, (buffer, bytes): (u64, u64)) -> io::Result<()> {
        let mut request = Request {
            opcode: PREAD,
            file: self.empty.as_raw_fd() as u32,
            buffer,
            bytes,
            flags: SIGNAL,
            eventfd: eventfd.as_raw_fd() as u32,
            ..Request::default()
        };
        let mut list = [&raw mut request];
        // SAFETY: The list has one request. The kernel reads both during the call and writes the
        // request's key. It writes to no buffer, because the file is empty, and keeps no pointer that
        // it dereferences later.
        let submitted = unsafe {
            let one: c_long = 1;
            libc::syscall(SYS_io_submit, self.context, one, list.as_mut_ptr())
        };
        check(submitted).map(drop)
    }

    /// Makes room for more requests.
    fn take_completions(&self) {
        let mut completions = [Completion::default(); REQUESTS];
        let now = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let (least, most): (c_long, c_long) = (0, REQUESTS as c_long);
        // SAFETY: The kernel writes at most `most` completions to the array, which has so many, and
        // reads the time; both live during the call.
        unsafe {
            let space = completions.as_mut_ptr();
            libc::syscall(
                SYS_io_getevents,
                self.context,
                least,
                most,
                space,
                &raw const now,
            );
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        // SAFETY: The context is this notifier's, and no request is pending: all complete as they
        // are submitted.
        unsafe { libc::syscall(SYS_io_destroy, self.context) };
    }
}

impl SharedEventfd {
    /// Adds 1 to the counter, unless it is at its limit: then the signal is pending anyway. Never
    /// waits for the frontend.
    pub(crate) fn signal(&self) {
        let notifier = &*self.notifier;
        for attempt in 0..ATTEMPTS {
            match notifier.read(self.fd.as_fd(), (0, 0)) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    notifier.take_completions();
                    if attempt > 0 {
                        // Other threads hold all requests, each for one system call.
                        thread::yield_now();
                    }
                }
                _ => return,
            }
        }
        log::error!("An interrupt was lost: no AIO request became free");
    }
}

impl AsFd for SharedEventfd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn check(result: c_long) -> io::Result<c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs::File, os::unix::net::UnixStream, sync::mpsc, time::Duration};

    use rustix::{
        event::{EventfdFlags, epoll, eventfd},
        fs::fcntl_getfl,
        io::{read, write},
    };

    use super::*;

    fn notifier() -> Arc<Notifier> {
        Arc::new(Notifier::new().expect("AIO"))
    }

    fn counter(fd: &OwnedFd) -> u64 {
        let mut value = [0; 8];
        read(fd, &mut value).expect("readable");
        u64::from_ne_bytes(value)
    }

    #[test]
    fn only_eventfds_are_accepted() {
        let notifier = notifier();
        let (reader, writer) = rustix::pipe::pipe().expect("pipe");
        let (socket, _other) = UnixStream::pair().expect("pair");
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("epoll");
        let timer = rustix::time::timerfd_create(
            rustix::time::TimerfdClockId::Monotonic,
            rustix::time::TimerfdFlags::CLOEXEC,
        );
        let file = memfd_create("file", MemfdFlags::CLOEXEC).expect("memfd");
        let null = File::open("/dev/null").expect("/dev/null");
        let flags = rustix::fs::OFlags::PATH;
        let path = rustix::fs::openat(rustix::fs::CWD, "/", flags, rustix::fs::Mode::empty());
        let path = path.expect("/");
        let others = [
            reader,
            writer,
            socket.into(),
            epoll,
            file,
            null.into(),
            path,
        ];
        for fd in others.into_iter().chain(timer) {
            assert!(notifier.accept(fd).is_none());
        }
        for flags in [EventfdFlags::empty(), EventfdFlags::SEMAPHORE] {
            let fd = eventfd(0, flags | EventfdFlags::NONBLOCK).expect("eventfd");
            let copy = fd.try_clone().expect("copy");
            assert!(notifier.accept(fd).is_some());
            assert!(
                read(&copy, &mut [0; 8]).is_err(),
                "the check signals nothing"
            );
        }
    }

    #[test]
    fn every_signal_is_counted_however_many_threads_send() {
        let notifier = notifier();
        let fd = eventfd(0, EventfdFlags::empty()).expect("eventfd");
        let shared = notifier.accept(fd.try_clone().expect("copy"));
        let shared = shared.expect("an eventfd");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..5000).for_each(|_| shared.signal()));
            }
        });
        assert_eq!(counter(&fd), 20_000);
    }

    #[test]
    fn a_full_counter_that_blocks_delays_no_signal() {
        let notifier = notifier();
        let fd = eventfd(0, EventfdFlags::empty()).expect("eventfd");
        write(&fd, &(u64::MAX - 1).to_ne_bytes()).expect("room");
        assert_eq!(
            fcntl_getfl(&fd).map(|flags| flags.contains(rustix::fs::OFlags::NONBLOCK)),
            Ok(false)
        );
        let shared = notifier.accept(fd.try_clone().expect("copy"));
        let shared = shared.expect("an eventfd");
        let (done, ended) = mpsc::channel();
        thread::spawn(move || {
            (0..1000).for_each(|_| shared.signal());
            done.send(()).expect("the test waits");
        });
        ended
            .recv_timeout(Duration::from_secs(30))
            .expect("no signal waits for a reader");
        assert!(counter(&fd) >= u64::MAX - 1);
    }
}
