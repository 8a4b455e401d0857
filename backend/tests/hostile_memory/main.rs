//! Frontends whose memory is not what they say, against the program itself: files that are shortened,
//! huge pages and file systems without room, pages that never come. In each test two other ports
//! keep exchanging frames, and the program lives.

#![allow(
    unsafe_code,
    reason = "userfaultfd, and mappings of a hostile frontend's own"
)]

mod daemon;
mod fuse;

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    ptr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use daemon::{Daemon, await_that};
use fuse::Fuse;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::{FallocateFlags, MemfdFlags, OFlags, fallocate, ftruncate, memfd_create},
    mm::{Advice, MapFlags, ProtFlags, UserfaultfdFlags, madvise, mmap, userfaultfd},
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    },
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap};
use zcnic_ctl::protocol::{Status, command};
use zcnic_model::{
    Driver, Shape, Transport,
    frames::{broadcast, pattern},
    in_process::RING_SIZE,
    vhost_user::{Frontend, connect},
};

const PAIRS: u16 = 2;

/// Receive buffers that are posted.
const BUFFERS: usize = 16;

/// Bytes of a file for either region of a frontend's memory, in whole huge pages.
const SIZE: u64 = 64 << 20;

const SMALL_PAGE: usize = 4096;

/// What the backend logs when a page is missing.
const LACKS: &str = "lacks a page";

/// The honest frontends of ports 0 and 1.
struct Neighbours([Driver<Frontend>; 2]);

impl Neighbours {
    fn of(daemon: &Daemon) -> Self {
        Self([0, 1].map(|port| frontend(daemon, port)))
    }

    /// Checks that they exchange frames, the control socket answers, and the program runs.
    fn check(&mut self, daemon: &mut Daemon) {
        let [a, b] = &mut self.0;
        assert_passes(a, b);
        assert_passes(b, a);
        let status: Status = daemon
            .control()
            .query(command::QUERY_STATUS)
            .expect("status");
        assert_eq!(status.ports.len(), 4);
        daemon.assert_running();
    }
}

/// Checks that a frame arrives.
fn assert_passes(from: &mut Driver<Frontend>, to: &mut Driver<Frontend>) {
    let frame = broadcast(&pattern(100));
    from.send(0, &frame);
    assert_eq!(to.receive(0).frame, frame);
    to.post(0, Shape::SPLIT, 1);
}

fn frontend(daemon: &Daemon, port: usize) -> Driver<Frontend> {
    let mut driver = connect(&daemon.path(port), PAIRS, RING_SIZE);
    driver.bring_up(Shape::SPLIT, BUFFERS);
    driver
}

/// The part of a frontend's memory that is in the hostile file, and who touches it.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// The rings; the port's own worker reads them.
    Rings,
    /// Frames that are sent; the port's own worker reads them.
    Sent,
    /// Receive buffers; the worker of the peer writes to them.
    Received,
}

const PLACES: [Place; 3] = [Place::Rings, Place::Sent, Place::Received];

impl Place {
    /// The region: rings are in the model driver's first, buffers in its second.
    fn region(self) -> usize {
        match self {
            Self::Rings => 0,
            Self::Sent | Self::Received => 1,
        }
    }
}

/// The memory table of a frontend.
fn own(memory: &GuestMemoryMmap) -> Vec<VhostUserMemoryRegionInfo> {
    let regions = memory.iter();
    let regions = regions.map(VhostUserMemoryRegionInfo::from_guest_region);
    regions.map(|region| region.expect("a file")).collect()
}

/// The same with `file` in place of one region's.
fn table(
    memory: &GuestMemoryMmap,
    region: usize,
    file: &impl AsRawFd,
) -> Vec<VhostUserMemoryRegionInfo> {
    let mut regions = own(memory);
    regions[region].mmap_handle = file.as_raw_fd();
    regions[region].mmap_offset = 0;
    regions
}

/// Hands over a memory table; returns whether it was accepted.
fn hand_over(driver: &mut Driver<Frontend>, regions: &[VhostUserMemoryRegionInfo]) -> bool {
    let protocol = &driver.transport().protocol;
    protocol.set_mem_table(regions).is_ok()
}

/// A frontend of port 2 that has `file` in `place`, and whether that was accepted.
fn hostile(daemon: &Daemon, file: &impl AsRawFd, place: Place) -> (Driver<Frontend>, bool) {
    let mut driver = frontend(daemon, 2);
    let memory = driver.parts().0.memory();
    let regions = table(&memory, place.region(), file);
    let accepted = hand_over(&mut driver, &regions);
    (driver, accepted)
}

/// Makes a worker touch the memory in `place`.
fn touch(hostile: &mut Driver<Frontend>, peer: &mut Driver<Frontend>, place: Place) {
    let frame = broadcast(&pattern(60));
    match place {
        Place::Rings => hostile.transport().kick(1),
        Place::Sent => hostile.enqueue(0, &frame),
        Place::Received => peer.send(0, &frame),
    }
}

/// A frontend of port 2 hands over `file` in `place`, spoils it by `spoil`, and lets it be touched.
/// Its session ends with one line in the log, and nothing else happens.
fn attack(
    daemon: &mut Daemon,
    neighbours: &mut Neighbours,
    place: Place,
    file: &impl AsFd,
    spoil: impl FnOnce(),
) {
    let before = daemon.lines(LACKS);
    let mut peer = frontend(daemon, 3);
    let (mut hostile, accepted) = hostile(daemon, &file.as_fd(), place);
    assert!(accepted, "{place:?}");
    spoil();
    touch(&mut hostile, &mut peer, place);
    daemon.await_lines(LACKS, before + 1);
    neighbours.check(daemon);
    let left = || hostile.transport().protocol.get_features().is_err();
    await_that(left, || "the frontend is still connected".to_owned());
    // The port is there for the next one, and nothing more is logged. What was missing reads as
    // zeros, which make a frame, too.
    let stray = peer.receive_all().len();
    peer.post(0, Shape::SPLIT, stray);
    let mut next = frontend(daemon, 2);
    assert_passes(&mut next, &mut peer);
    assert_passes(&mut peer, &mut next);
    daemon.await_lines(LACKS, before + 1);
    neighbours.check(daemon);
}

fn memfd(flags: MemfdFlags, size: u64) -> OwnedFd {
    let file = memfd_create("guest", flags | MemfdFlags::CLOEXEC).expect("memfd");
    ftruncate(&file, size).expect("size");
    file
}

fn shared_file() -> File {
    let file = tempfile::tempfile_in("/dev/shm").expect("a file of tmpfs");
    file.set_len(SIZE).expect("size");
    file
}

fn shorten(file: &impl AsFd) {
    ftruncate(file, 0).expect("it can be shortened");
}

#[test]
fn memory_that_is_shortened_ends_its_session_only() {
    let mut daemon = Daemon::start(&["--trust-memory"]);
    let mut neighbours = Neighbours::of(&daemon);
    for place in PLACES {
        let file = memfd(MemfdFlags::empty(), SIZE);
        attack(&mut daemon, &mut neighbours, place, &file, || {
            shorten(&file);
        });
        let file = shared_file();
        attack(&mut daemon, &mut neighbours, place, &file, || {
            shorten(&file);
        });
    }
    daemon.stop();
}

#[test]
fn huge_pages_that_are_not_there_end_their_session_only() {
    let flags = MemfdFlags::HUGETLB | MemfdFlags::ALLOW_SEALING;
    let pool = |name: &str| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}_hugepages");
        std::fs::read_to_string(path)
            .ok()?
            .trim()
            .parse::<u64>()
            .ok()
    };
    if (pool("free"), pool("nr_overcommit")) != (Some(0), Some(0)) {
        eprintln!("skipped: this host has free huge pages, or no pool of them");
        return;
    }
    let mut daemon = Daemon::start(&[]);
    let mut neighbours = Neighbours::of(&daemon);
    for place in PLACES {
        let file = memfd(flags, SIZE);
        attack(&mut daemon, &mut neighbours, place, &file, || ());
    }
    // Part of a huge page could never be unmapped.
    let mappings = || std::fs::read_to_string(format!("/proc/{}/maps", daemon.pid()));
    let mapped = mappings().expect("maps").matches("memfd:guest").count();
    for _ in 0..10 {
        let file = memfd(flags, SIZE);
        let mut driver = frontend(&daemon, 2);
        let memory = driver.parts().0.memory();
        let mut regions = table(&memory, 1, &file);
        regions[1].memory_size = SMALL_PAGE as u64;
        assert!(!hand_over(&mut driver, &regions));
    }
    daemon.await_lines("whole huge pages of 2097152 bytes", 10);
    let unmapped = || mappings().expect("maps").matches("memfd:guest").count() <= mapped;
    await_that(unmapped, || "memory is still mapped".to_owned());
    neighbours.check(&mut daemon);
    daemon.stop();
}

/// A file in a tmpfs of its own that has `size` bytes; `None`: this user may not mount one.
fn tmpfs(size: &str) -> Option<OwnedFd> {
    let system = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).ok()?;
    fsconfig_set_string(&system, "size", size).expect("an option of tmpfs");
    fsconfig_create(&system).expect("a file system");
    let flags = (FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let root = fsmount(&system, flags.0, flags.1).expect("a mount");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::openat(&root, "memory", flags, rustix::fs::Mode::RWXU).expect("a file");
    ftruncate(&file, SIZE).expect("a sparse file");
    Some(file)
}

#[test]
fn file_systems_without_room_end_their_session_only() {
    let mut daemon = Daemon::start(&["--trust-memory"]);
    let mut neighbours = Neighbours::of(&daemon);
    for place in PLACES {
        let Some(file) = tmpfs("64k") else {
            assert!(!rustix::process::geteuid().is_root(), "root may mount");
            eprintln!("skipped: this user may not mount a tmpfs");
            return;
        };
        // The room that there is goes to pages at the end.
        let fill = || {
            let flags = FallocateFlags::KEEP_SIZE;
            fallocate(&file, flags, SIZE - (64 << 10), 64 << 10).expect("room");
        };
        attack(&mut daemon, &mut neighbours, place, &file, fill);
    }
    daemon.stop();
}

/// A file that is mapped here; the mapping ends with the process.
fn mapped() -> (OwnedFd, *mut core::ffi::c_void) {
    let file = memfd(MemfdFlags::ALLOW_SEALING, SIZE);
    let access = ProtFlags::READ | ProtFlags::WRITE;
    // SAFETY: a fresh mapping, which nothing else uses.
    let start = unsafe {
        mmap(
            ptr::null_mut(),
            SIZE as usize,
            access,
            MapFlags::SHARED,
            &file,
            0,
        )
    };
    (file, start.expect("mapping"))
}

#[test]
fn poisoned_pages_end_their_session_only() {
    let mut daemon = Daemon::start(&[]);
    let mut neighbours = Neighbours::of(&daemon);
    for place in PLACES {
        let (file, start) = mapped();
        // SAFETY: pages of the mapping; nothing reads them afterwards.
        let poison = || unsafe {
            start.cast::<u8>().write_volatile(1);
            madvise(start, SMALL_PAGE, Advice::LinuxHwPoison)
        };
        if let Err(error) = poison() {
            eprintln!("skipped: this kernel or user can't poison a page: {error}");
            return;
        }
        attack(&mut daemon, &mut neighbours, place, &file, || ());
    }
    daemon.stop();
}

/// What a frontend that is not trusted may not hand over is refused before it is mapped.
#[test]
fn files_that_can_be_shortened_or_make_one_wait_are_refused() {
    let mut daemon = Daemon::start(&[]);
    let mut neighbours = Neighbours::of(&daemon);
    let reopened = |flags: OFlags| {
        let file = memfd(MemfdFlags::ALLOW_SEALING, SIZE);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        rustix::fs::open(path, flags, rustix::fs::Mode::empty()).expect("the same file")
    };
    let device = |path: &str| {
        let file = File::options().read(true).write(true).open(path);
        OwnedFd::from(file.expect("a device"))
    };
    let on_disk = tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a file");
    on_disk.set_len(SIZE).expect("size");
    let (shortened, shared) = ("can be shortened", "is no shared memory");
    let files: [(&str, OwnedFd); 9] = [
        (shortened, memfd(MemfdFlags::empty(), SIZE)),
        (shortened, shared_file().into()),
        (shared, on_disk.into()),
        (shared, device("/dev/zero")),
        (shared, reopened(OFlags::PATH)),
        (shared, File::open(".").expect("a directory").into()),
        (shared, io::pipe().expect("a pipe").1.into()),
        ("for reading and writing", reopened(OFlags::RDONLY)),
        (
            "of a file that has 4096",
            memfd(MemfdFlags::ALLOW_SEALING, 4096),
        ),
    ];
    for (complaint, file) in files {
        let before = daemon.lines(complaint);
        let (mut hostile, accepted) = hostile(&daemon, &file, Place::Rings);
        assert!(!accepted, "{complaint}");
        daemon.await_lines(complaint, before + 1);
        hostile.transport().kick(1);
        drop(hostile);
        neighbours.check(&mut daemon);
    }
    assert_eq!(daemon.lines(LACKS), 0);
    drop(frontend(&daemon, 2));
    daemon.stop();
}

/// A FUSE server that stops answering would let a worker wait in a page fault, and everyone who needs
/// the locks that it holds.
#[test]
fn a_file_system_that_never_answers_is_not_asked() {
    let Some(fuse) = Fuse::mount(SIZE) else {
        assert!(!rustix::process::geteuid().is_root(), "root may mount");
        eprintln!("skipped: this user may not mount a FUSE file system");
        return;
    };
    for options in [&[][..], &["--trust-memory"]] {
        let mut daemon = Daemon::start(options);
        let mut neighbours = Neighbours::of(&daemon);
        let file = fuse.open();
        fuse.fall_silent();
        let (mut hostile, accepted) = hostile(&daemon, &file, Place::Rings);
        assert!(!accepted);
        daemon.await_lines("is no shared memory", 1);
        hostile.transport().kick(1);
        neighbours.check(&mut daemon);
        drop(frontend(&daemon, 2));
        daemon.stop();
        fuse.speak_again();
    }
}

/// The file is shortened again and again while it is handed over: it is refused, or has its size for
/// ever.
#[test]
fn no_moment_is_left_to_shorten_a_file() {
    let mut daemon = Daemon::start(&[]);
    let mut neighbours = Neighbours::of(&daemon);
    let mut accepted = 0;
    for _ in 0..60 {
        let file = memfd(MemfdFlags::ALLOW_SEALING, SIZE);
        let done = AtomicBool::new(false);
        let mut hostile = frontend(&daemon, 2);
        let memory = hostile.parts().0.memory();
        let regions = table(&memory, Place::Sent.region(), &file);
        let taken = thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let _ = ftruncate(&file, 4096);
                    let _ = ftruncate(&file, SIZE);
                }
            });
            let taken = hand_over(&mut hostile, &regions);
            done.store(true, Ordering::Relaxed);
            taken
        });
        if taken {
            accepted += 1;
            ftruncate(&file, 4096).expect_err("it is sealed");
            hostile.send(0, broadcast(&pattern(60)));
        }
    }
    println!("{accepted} of 60 were accepted");
    assert_eq!(daemon.lines(LACKS), 0);
    neighbours.check(&mut daemon);
    daemon.stop();
}

fn address_space(daemon: &Daemon) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid()));
    let status = status.expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmSize:"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    words
        .and_then(|word| word.parse::<u64>().ok())
        .expect("a size")
        << 10
}

#[test]
fn a_frontend_can_not_use_up_the_address_space() {
    const TERA: u64 = 1 << 40;
    let mut daemon = Daemon::start(&[]);
    let mut neighbours = Neighbours::of(&daemon);
    let before = address_space(&daemon);
    let file = memfd(MemfdFlags::ALLOW_SEALING, 128 * TERA);
    let region = |number: u64, size: u64| VhostUserMemoryRegionInfo {
        guest_phys_addr: (number + 1) * 64 * TERA,
        memory_size: size,
        userspace_addr: (number + 1) * 64 * TERA,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    for sizes in [
        &[127 * TERA][..],
        &[64 * TERA, 63 * TERA],
        &[TERA],
        &[2 * TERA, 1 << 30],
    ] {
        let refused = daemon.lines("a port may have 0x10000000000");
        let mut driver = frontend(&daemon, 2);
        let memory = driver.parts().0.memory();
        let mut regions = own(&memory);
        regions.extend((0..).zip(sizes).map(|(number, size)| region(number, *size)));
        assert!(!hand_over(&mut driver, &regions));
        daemon.await_lines("a port may have 0x10000000000", refused + 1);
    }
    // As much as a port may have is mapped, and an honest guest of 4 GiB beside it.
    let mut greedy = frontend(&daemon, 2);
    assert!(hand_over(&mut greedy, &[region(0, TERA)]));
    let four = memfd(MemfdFlags::ALLOW_SEALING, 4 << 30);
    let honest = &mut neighbours.0[0];
    let memory = honest.parts().0.memory();
    let mut regions = own(&memory);
    regions.push(VhostUserMemoryRegionInfo {
        guest_phys_addr: 1 << 36,
        memory_size: 4 << 30,
        userspace_addr: 1 << 40,
        mmap_offset: 0,
        mmap_handle: four.as_raw_fd(),
    });
    assert!(hand_over(honest, &regions));
    neighbours.check(&mut daemon);
    assert!(address_space(&daemon) > before + TERA);
    drop(greedy);
    await_that(
        || address_space(&daemon) < before + TERA,
        || "the memory of a frontend that left is still mapped".to_owned(),
    );
    daemon.stop();
}

/// A userfaultfd catches faults of the frontend's own mapping only: the backend gets fresh pages.
#[test]
fn pages_that_userfaultfd_holds_back_are_there_for_the_backend() {
    let mut daemon = Daemon::start(&[]);
    let mut neighbours = Neighbours::of(&daemon);
    let mut peer = frontend(&daemon, 3);
    for place in [Place::Sent, Place::Received] {
        let (file, start) = mapped();
        let faults = match hold_back(start.addr() as u64) {
            Ok(faults) => faults,
            Err(error) => {
                eprintln!("skipped: this kernel has no userfaultfd: {error}");
                return;
            }
        };
        let (mut hostile, accepted) = hostile(&daemon, &file, place);
        assert!(accepted);
        match place {
            // It returns when the backend has read the frame.
            Place::Sent => hostile.send(0, broadcast(&pattern(60))),
            _ => peer.send(0, broadcast(&pattern(60))),
        }
        let mut events = [PollFd::new(&faults, PollFlags::IN)];
        let now = Timespec::default();
        assert_eq!(
            poll(&mut events, Some(&now)).expect("poll"),
            0,
            "the backend's fault"
        );
        neighbours.check(&mut daemon);
        // Here it would wait for ever.
        thread::spawn({
            let start = start.addr() + SIZE as usize - SMALL_PAGE;
            move || {
                // SAFETY: the mapping's last page, which stays mapped while the thread waits.
                unsafe { ptr::without_provenance::<u8>(start).read_volatile() }
            }
        });
        let mut events = [PollFd::new(&faults, PollFlags::IN)];
        assert_eq!(
            poll(&mut events, None).expect("poll"),
            1,
            "the frontend's own fault"
        );
    }
    assert_eq!(daemon.lines(LACKS), 0);
    daemon.stop();
}

/// Lets the missing ones of `SIZE` bytes at `start` be reported to the descriptor returned, and
/// whoever touches them wait.
fn hold_back(start: u64) -> io::Result<OwnedFd> {
    let flags = UserfaultfdFlags::CLOEXEC | UserfaultfdFlags::NONBLOCK;
    // UFFD_USER_MODE_ONLY, which needs no privileges.
    let flags = flags | UserfaultfdFlags::from_bits_retain(1);
    // SAFETY: a descriptor, which changes nothing until memory is registered.
    let faults = unsafe { userfaultfd(flags) }?;
    // linux/userfaultfd.h: UFFDIO_API and UFFDIO_REGISTER, with mode MISSING.
    let mut api = [0xaau64, 0, 0];
    let mut register = [start, SIZE, 1, 0];
    for (request, argument) in [
        (0xc018_aa3f, api.as_mut_ptr()),
        (0xc020_aa00, register.as_mut_ptr()),
    ] {
        // SAFETY: the arrays have the layout and size that the requests ask for.
        let result = unsafe { libc::ioctl(faults.as_raw_fd(), request, argument) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }
    Ok(faults)
}
