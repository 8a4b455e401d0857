//! The handler of SIGBUS: what happens when guest memory has no page.
//!
//! Memory of a frontend that was checked can lack a page all the same: a pool of huge pages or a
//! tmpfs is exhausted, the hardware found a page faulty, or a trusted frontend shortened its file.
//! The kernel then sends SIGBUS to the thread that touched it, whichever port's or purpose's that
//! is, and the default action ends the process with all ports.
//!
//! The handler maps zeros in place of the whole region instead, so that the thread continues, and
//! raises the [`Alarm`] of the region's port, whose worker ends the session. Replacing the page
//! alone would not do: a huge page can't be replaced in part, and the next page would fault again.
//!
//! The handler looks the address up in a list that is only added to, without a lock. An address
//! outside of all regions is none of its business: the default action follows.

#![allow(
    unsafe_code,
    reason = "a signal handler, and a mapping in place of one that has no pages"
)]

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    ptr,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicPtr, AtomicU8, AtomicUsize, Ordering, fence},
    },
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::write,
};

use crate::sync::lock;

/// No memory is missing.
const QUIET: u8 = 0;
/// The handler replaced a region.
const RAISED: u8 = 1;
/// That was reported.
const REPORTED: u8 = 2;

/// Wakes a worker, and tells it if memory of its port's frontend has no page.
#[derive(Debug)]
pub(crate) struct Alarm {
    state: AtomicU8,
    wake: OwnedFd,
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

impl Alarm {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            state: AtomicU8::new(QUIET),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
        })
    }

    /// Wakes the worker.
    pub(crate) fn wake(&self) {
        // The counter can't overflow in the lifetime of a machine.
        let _ = write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Notes that memory has no page. Part of the signal handler.
    fn raise(&self) {
        let changed =
            self.state
                .compare_exchange(QUIET, RAISED, Ordering::Release, Ordering::Relaxed);
        if changed.is_ok() {
            self.wake();
        }
    }

    /// Whether memory is missing and nobody reported it.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.state.load(Ordering::Relaxed) == RAISED
    }

    /// Whether memory is missing, reported or not.
    pub(crate) fn is_raised(&self) -> bool {
        self.state.load(Ordering::Acquire) != QUIET
    }

    /// Takes it upon the caller to report that memory is missing; `false`: there is nothing to
    /// report.
    pub(crate) fn report(&self) -> bool {
        let (was, now) = (Ordering::AcqRel, Ordering::Relaxed);
        let changed = self.state.compare_exchange(RAISED, REPORTED, was, now);
        changed.is_ok()
    }

    /// Begins again, because the memory is no longer used.
    pub(crate) fn clear(&self) {
        self.state.store(QUIET, Ordering::Release);
    }
}

/// A place in the list of regions. It is never freed but used again, so that the handler may read it
/// at any time.
#[derive(Debug)]
struct Slot {
    /// Odd while the rest is being changed.
    version: AtomicUsize,
    start: AtomicUsize,
    /// Bytes; 0: it has no region.
    length: AtomicUsize,
    alarm: AtomicPtr<Alarm>,
    next: Option<&'static Self>,
}

/// The last slot that was added to the list.
static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(ptr::null_mut());

/// Slots without a region. Its lock is held by those who change slots, never by the handler.
static FREE: Mutex<Vec<&'static Slot>> = Mutex::new(Vec::new());

/// A region of guest memory as the handler finds it.
#[derive(Clone, Copy)]
struct Region {
    start: usize,
    length: usize,
    alarm: *mut Alarm,
}

impl Slot {
    /// Stores a region; the caller has the lock of the free slots.
    fn store(&self, region: Region) {
        let version = self.version.load(Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(region.start, Ordering::Relaxed);
        self.length.store(region.length, Ordering::Relaxed);
        self.alarm.store(region.alarm, Ordering::Relaxed);
        self.version
            .store(version.wrapping_add(2), Ordering::Release);
    }

    /// Its region; `None`: it is being changed. The handler does not wait for that: a region that a
    /// thread uses does not change, so another slot has it.
    fn load(&self) -> Option<Region> {
        let version = self.version.load(Ordering::Acquire);
        let region = Region {
            start: self.start.load(Ordering::Relaxed),
            length: self.length.load(Ordering::Relaxed),
            alarm: self.alarm.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        let stable = version.is_multiple_of(2) && self.version.load(Ordering::Relaxed) == version;
        stable.then_some(region)
    }
}

/// The region that `address` is in.
fn find(address: usize) -> Option<Region> {
    // SAFETY: null, or a slot, which lives for ever.
    let mut next = unsafe { SLOTS.load(Ordering::Acquire).as_ref() };
    while let Some(slot) = next {
        let region = slot.load();
        if let Some(region) = region
            && address.wrapping_sub(region.start) < region.length
        {
            return Some(region);
        }
        next = slot.next;
    }
    None
}

/// Regions that the handler knows as long as this lives, which must not be longer than they are
/// mapped.
#[derive(Debug)]
pub(crate) struct Guards {
    slots: Vec<&'static Slot>,
    /// The slots point to it.
    _alarm: Arc<Alarm>,
}

impl Guards {
    /// Guards mapped regions, each with its address and its length. If one has no page, `alarm` is
    /// raised.
    pub(crate) fn new(regions: impl Iterator<Item = (usize, usize)>, alarm: &Arc<Alarm>) -> Self {
        install();
        let mut free = lock(&FREE);
        let slots = regions.map(|(start, length)| {
            let slot = free.pop().unwrap_or_else(add_slot);
            slot.store(Region {
                start,
                length,
                alarm: Arc::as_ptr(alarm).cast_mut(),
            });
            slot
        });
        Self {
            slots: slots.collect(),
            _alarm: Arc::clone(alarm),
        }
    }
}

impl Drop for Guards {
    fn drop(&mut self) {
        let mut free = lock(&FREE);
        for slot in self.slots.drain(..) {
            slot.store(Region {
                start: 0,
                length: 0,
                alarm: ptr::null_mut(),
            });
            free.push(slot);
        }
    }
}

/// Adds a slot to the list; the caller has the lock of the free slots.
fn add_slot() -> &'static Slot {
    // SAFETY: null, or a slot, which lives for ever.
    let next = unsafe { SLOTS.load(Ordering::Relaxed).as_ref() };
    let slot = Box::into_raw(Box::new(Slot {
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        length: AtomicUsize::new(0),
        alarm: AtomicPtr::new(ptr::null_mut()),
        next,
    }));
    SLOTS.store(slot, Ordering::Release);
    // SAFETY: it was made here and is never freed; all that changes in it is atomic.
    unsafe { &*slot }
}

/// Installs the handler, once.
fn install() {
    static ONCE: Once = Once::new();
    if cfg!(miri) {
        // It has no signals.
        return;
    }
    ONCE.call_once(|| {
        // SAFETY: all zeros is a valid `sigaction`, without flags and with an empty mask.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            on_sigbus;
        action.sa_sigaction = handler as libc::sighandler_t;
        // On the stack for signals: the fault may be deep in the stack of a thread.
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
        // SAFETY: the handler has the signature that SA_SIGINFO asks for, and is async-signal-safe.
        // The call fails only for signals that can't be handled.
        unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    });
}

/// The handler. It calls what is async-signal-safe only: atomics, mmap, write, sigaction and raise.
extern "C" fn on_sigbus(
    signal: libc::c_int,
    information: *mut libc::siginfo_t,
    _: *mut libc::c_void,
) {
    // SAFETY: a pointer to this thread's errno, which the calls below may change.
    let errno = unsafe { &mut *libc::__errno_location() };
    let before = *errno;
    // SAFETY: the kernel passes the signal's description, which has an address if the kernel itself
    // sent it because of a fault (a code above 0).
    let (code, address) = unsafe { ((*information).si_code, (*information).si_addr().addr()) };
    if code <= 0 || !replace(address) {
        // SAFETY: all zeros is a valid `sigaction`: the default action. The signal is blocked here,
        // so that the second one takes effect when the handler returns.
        unsafe {
            let action: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, &raw const action, ptr::null_mut());
            libc::raise(signal);
        }
    }
    *errno = before;
}

/// Maps zeros in place of the region that `address` is in and raises its alarm. `false`: there is no
/// such region, or no memory for it.
fn replace(address: usize) -> bool {
    let Some(region) = find(address) else {
        return false;
    };
    // The whole region; or less of it, in whole huge pages of either size, if the system commits
    // itself to all memory that is mapped and has not got as much.
    let replaced = [usize::MAX, 1 << 30, 1 << 21, 1 << 12]
        .iter()
        .any(|&size| map_zeros(region, address, size));
    if replaced {
        // SAFETY: the slot's `Guards` keeps the alarm, and lives as long as the region is borrowed.
        unsafe { (*region.alarm).raise() };
    }
    replaced
}

/// Maps zeros in place of those `size` bytes of `region` that `address` is in, at a multiple of
/// `size`. Returns whether that succeeded.
fn map_zeros(region: Region, address: usize, size: usize) -> bool {
    let start = (address - address % size).max(region.start);
    let end = start.saturating_add(size).min(region.start + region.length);
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // Shared, because private memory counts towards RLIMIT_DATA.
    let kind = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: the thread that faulted has borrowed the region, so it stays mapped until the thread
    // goes on, and nothing but guest memory is replaced: its contents may change at any time anyway.
    let mapped = unsafe {
        libc::mmap(
            ptr::without_provenance_mut(start),
            end - start,
            access,
            kind,
            -1,
            0,
        )
    };
    mapped != libc::MAP_FAILED
}

#[cfg(test)]
mod tests {
    use rustix::{
        fs::{MemfdFlags, ftruncate, memfd_create},
        mm::{Advice, MapFlags, ProtFlags, madvise, mmap, munmap},
    };

    use super::*;

    /// Pages that have been cut off from their file.
    fn shortened(pages: usize) -> *mut u8 {
        let file = memfd_create("guest", MemfdFlags::CLOEXEC).expect("memfd");
        ftruncate(&file, 4096 * pages as u64).expect("size");
        let access = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, which nothing else uses.
        let start = unsafe {
            mmap(
                ptr::null_mut(),
                4096 * pages,
                access,
                MapFlags::SHARED,
                &file,
                0,
            )
        };
        ftruncate(&file, 0).expect("size");
        start.expect("mapping").cast()
    }

    fn guard(start: *mut u8, pages: usize) -> (Guards, Arc<Alarm>) {
        let alarm = Arc::new(Alarm::new().expect("eventfd"));
        let regions = [(start.addr(), 4096 * pages)];
        (Guards::new(regions.into_iter(), &alarm), alarm)
    }

    #[test]
    fn missing_pages_read_as_zeros_and_raise_the_alarm_of_their_region_once() {
        let (ours, theirs) = (shortened(4), shortened(4));
        let (guards, alarm) = guard(ours, 4);
        let (others, quiet) = guard(theirs, 4);
        // SAFETY: the last page of the mapping, which the handler gives back.
        unsafe {
            let place = ours.add(3 * 4096 + 5);
            assert_eq!(place.read_volatile(), 0);
            place.write_volatile(7);
            assert_eq!(place.read_volatile(), 7);
            assert_eq!(ours.read_volatile(), 0);
        }
        assert!(alarm.is_due() && alarm.is_raised());
        assert!(alarm.report() && !alarm.report());
        assert!(alarm.is_raised() && !alarm.is_due());
        alarm.clear();
        assert!(!quiet.is_raised() && !alarm.is_raised());
        drop((guards, others));
        for start in [ours, theirs] {
            // SAFETY: nothing uses it any more.
            unsafe { munmap(start.cast(), 4 * 4096) }.expect("mapped");
        }
    }

    /// As under an overcommit policy that refuses to map all of a region.
    #[test]
    fn parts_of_a_region_are_replaced_by_themselves() {
        let start = shortened(4);
        let (guards, _alarm) = guard(start, 4);
        let region = find(start.addr()).expect("guarded");
        assert!(map_zeros(region, start.addr() + 4096 + 9, 4096));
        let is_there = |page: usize| {
            // SAFETY: one page of the mapping; nothing is read.
            unsafe {
                madvise(
                    start.add(4096 * page).cast(),
                    4096,
                    Advice::LinuxPopulateRead,
                )
            }
            .is_ok()
        };
        assert_eq!([0, 1, 2, 3].map(is_there), [false, true, false, false]);
        assert!(map_zeros(region, start.addr() + 3 * 4096, usize::MAX));
        assert_eq!([0, 1, 2, 3].map(is_there), [true; 4]);
        drop(guards);
        // SAFETY: nothing uses it any more.
        unsafe { munmap(start.cast(), 4 * 4096) }.expect("mapped");
    }

    #[test]
    fn regions_are_known_as_long_as_their_guards() {
        let start = shortened(2);
        let (guards, alarm) = guard(start, 2);
        let inside = |offset: usize| find(start.addr() + offset).is_some();
        assert!(inside(0) && inside(2 * 4096 - 1) && !inside(2 * 4096));
        assert!(find(start.addr() - 1).is_none());
        drop(guards);
        assert!(!inside(0));
        let (_again, _) = guard(start, 1);
        assert!(inside(0) && !inside(4096));
        assert!(!alarm.is_raised());
        // SAFETY: nothing uses it any more.
        unsafe { munmap(start.cast(), 2 * 4096) }.expect("mapped");
    }
}
