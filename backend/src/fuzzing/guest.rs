//! Target `guest`: two cabled ports whose guests put anything into their rings.

use std::sync::{Arc, LazyLock, Mutex};

use virtio_bindings::{
    virtio_config::VIRTIO_F_VERSION_1,
    virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_MRG_RXBUF},
};
use vm_memory::{Bytes, GuestAddress};
use zcnic_device::{
    abi::{self, Opcode},
    port::DriverMode,
};
use zerocopy::IntoBytes;

use super::memory::{clear, guarded, put};
use crate::{
    config::{FlowControl, PortMode},
    control::{admin, command, frontend},
    datapath::{batch::Scratch, interrupts, lanes, transmit},
    index::{PairIndex, RingIndex},
    input::Input,
    memory::{GuestMemory, MemoryRules},
    port::{Port, queues::ServeOutcome},
    services::Services,
    sync::lock,
};

const LOW: usize = 0x2_0000;
const HIGH_START: u64 = 1 << 32;
const HIGH: usize = 0x4000;
const REGIONS: [(u64, usize); 2] = [(0, LOW), (HIGH_START, HIGH)];

/// Pairs of a port, the command pair included.
const PAIRS: usize = 3;
const RINGS: usize = 2 * PAIRS;
/// Descriptors of a ring, and chains that it may hold.
const SIZE: u16 = 32;
/// Bytes of guest memory that the parts of one ring take.
const RING: u64 = 0x1000;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x600;
/// Where buffers begin, each of this size.
const BUFFERS: u64 = RINGS as u64 * RING;
const BUFFER: u64 = 0x400;

/// Steps of one run.
const STEPS: usize = 200;

const NEXT: u16 = 1;
const WRITE: u16 = 2;

/// One port, its guest's memory, and where its driver is in each ring.
struct Guest {
    port: Arc<Port>,
    memory: Arc<GuestMemory>,
    posted: [u16; RINGS],
    next_buffer: u64,
    /// The driver wrote where it must not, so nothing about its used rings is known.
    hostile: bool,
}

static GUESTS: LazyLock<Mutex<[Guest; 2]>> = LazyLock::new(|| {
    let services = Arc::new(Services::new(MemoryRules::default()).expect("Linux AIO"));
    let guests = [0, 1].map(|number: usize| {
        let name = (number + 1).to_string();
        let port = Port::new(name, PortMode::Auto, 1, (number, &services)).expect("descriptors");
        Guest {
            port: Arc::new(port),
            memory: guarded(&REGIONS),
            posted: [0; RINGS],
            next_buffer: 0,
            hostile: false,
        }
    });
    for (guest, peer) in [(0, 1), (1, 0)] {
        guests[guest]
            .port
            .plug(&guests[peer].port, FlowControl::Drop);
    }
    Mutex::new(guests)
});

/// Lets two drivers do what `bytes` say, and serves their rings on this thread.
///
/// # Panics
///
/// A ring that its driver used correctly has more used chains than posted ones, or anything inside
/// of the backend panics.
pub fn guest(bytes: &[u8]) {
    let mut guests = lock(&GUESTS);
    let mut input = Input::new(bytes);
    let base = input.word();
    for guest in &mut *guests {
        guest.start(base);
    }
    let mut scratch = Scratch::default();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        let what = input.byte();
        guests[usize::from(what & 1)].step(what >> 1, &mut input);
        for guest in &*guests {
            guest.serve(&mut scratch);
        }
        for guest in &*guests {
            guest.check(base);
        }
    }
    for guest in &*guests {
        frontend::detach(&guest.port);
        admin::set_link(&guest.port, true);
    }
}

fn ring(number: usize) -> RingIndex {
    RingIndex::new(number).expect("few rings")
}

fn pair(number: usize) -> PairIndex {
    ring(2 * number).pair()
}

impl Guest {
    /// Connects a driver that acknowledges what zcnic.ko does, with rings that begin at `base`.
    fn start(&mut self, base: u16) {
        clear(&self.memory, &REGIONS);
        (self.posted, self.next_buffer, self.hostile) = ([base; RINGS], 0, false);
        let port = &self.port;
        frontend::attach(port);
        let features =
            1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_NET_F_MRG_RXBUF | 1 << VIRTIO_NET_F_GUEST_CSUM;
        frontend::set_features(port, features);
        frontend::set_memory(port, &self.memory);
        for number in 0..RINGS {
            let start = number as u64 * RING;
            for index in [AVAILABLE, USED] {
                put(&self.memory, start + index + 2, &base.to_le_bytes());
            }
            port.queues.with_transport(ring(number), |transport| {
                transport.set_up(|setup| {
                    setup.size = SIZE;
                    setup.descriptors = start;
                    setup.available = start + AVAILABLE;
                    setup.used = start + USED;
                    setup.event_idx = true;
                });
                transport.indices.next_available = base;
                transport.indices.next_used = base;
            });
            frontend::enable_ring(port, ring(number), true);
            frontend::start_ring(port, ring(number));
        }
    }

    /// One step of the driver, or of the time.
    fn step(&mut self, what: u8, input: &mut Input<'_>) {
        let number = input.below(RINGS);
        let pair = pair(number / 2);
        match what % 12 {
            0 => {
                self.hostile = true;
                let address = u64::from(input.word()) << (number % 2);
                let bytes = input.counted(64);
                if address as usize + bytes.len() <= LOW {
                    put(&self.memory, address, bytes);
                }
            }
            1 => {
                self.hostile = true;
                self.posted[number] = self.posted[number].wrapping_add(u16::from(input.byte()));
                self.publish(number);
            }
            2 => frontend::stop_ring(&self.port, ring(number)),
            3 => frontend::start_ring(&self.port, ring(number)),
            4 => lanes::flush_held(&self.port, pair),
            5 => interrupts::raise_moderated(&self.port.queues, ring(number)),
            6 => {
                let enabled = input.byte() & 1 == 0;
                frontend::enable_ring(&self.port, ring(number), enabled);
            }
            7 | 8 => self.receive_buffers(number | 1, input),
            9 => self.command(number / 2, input),
            _ => self.send(number / 2, input),
        }
    }

    /// Makes a chain of buffers available, with these bytes or this room.
    fn post(&mut self, number: usize, parts: &[(&[u8], usize)]) {
        let start = number as u64 * RING;
        let posted = self.posted[number];
        let used = self.used(number);
        if posted.wrapping_sub(used) > SIZE - 4 {
            return;
        }
        // Chains of up to four descriptors, in turn.
        let first = posted % (SIZE / 4) * 4;
        for (at, (bytes, room)) in parts.iter().enumerate() {
            let buffers = (LOW as u64 - BUFFERS) / BUFFER - 8;
            let address = BUFFERS + self.next_buffer % buffers * BUFFER;
            self.next_buffer += (bytes.len().max(*room) as u64).div_ceil(BUFFER);
            put(&self.memory, address, bytes);
            let index = first + at as u16;
            let next = if at + 1 < parts.len() { NEXT } else { 0 };
            let write = if *room > 0 { WRITE } else { 0 };
            let length = bytes.len().max(*room) as u32;
            let place = start + u64::from(index) * 16;
            put(&self.memory, place, &address.to_le_bytes());
            put(&self.memory, place + 8, &length.to_le_bytes());
            put(&self.memory, place + 12, &(next | write).to_le_bytes());
            put(&self.memory, place + 14, &(index + 1).to_le_bytes());
        }
        let entry = start + AVAILABLE + 4 + 2 * u64::from(posted % SIZE);
        put(&self.memory, entry, &first.to_le_bytes());
        self.posted[number] = posted.wrapping_add(1);
        self.publish(number);
    }

    fn publish(&self, number: usize) {
        let place = number as u64 * RING + AVAILABLE + 2;
        put(&self.memory, place, &self.posted[number].to_le_bytes());
    }

    fn used(&self, number: usize) -> u16 {
        let place = GuestAddress(number as u64 * RING + USED + 2);
        u16::from_le(self.memory.read_obj(place).expect("the ring"))
    }

    fn receive_buffers(&mut self, number: usize, input: &mut Input<'_>) {
        let number = number & !1;
        let (head, page) = (u16::from(input.byte()) * 4, input.word() % 0x1000);
        for _ in 0..=input.below(8) {
            let parts = [(&[][..], head.max(1).into()), (&[][..], page.max(1).into())];
            self.post(number, &parts[..if page & 1 == 0 { 2 } else { 1 }]);
        }
    }

    fn send(&mut self, pair: usize, input: &mut Input<'_>) {
        let shape = input.byte();
        let header = if shape & 1 == 0 {
            [0; 32]
        } else {
            input.array::<32>()
        };
        let header = &header[..if shape & 2 == 0 { 32 } else { 12 }];
        let frame = input.counted(1500);
        let padding = vec![
            0x5a;
            if shape & 4 == 0 {
                0
            } else {
                4 * usize::from(input.byte())
            }
        ];
        let chain = [header, frame, &padding].concat();
        if chain.is_empty() {
            return;
        }
        let cut = usize::from(shape >> 3) * 8 % chain.len();
        let (first, second) = chain.split_at(cut);
        let slot = size_of::<abi::TxTime>();
        let parts = [(first, 0), (second, 0), (&[][..], slot)];
        let from = usize::from(cut == 0);
        let to = if shape & 0x84 == 0x84 { 3 } else { 2 };
        self.post(2 * pair + 1, &parts[from..to]);
    }

    /// Sends a well-formed request with any body.
    fn command(&mut self, pair: usize, input: &mut Input<'_>) {
        let opcode = match usize::from(input.byte()) {
            index if index < Opcode::ALL.len() => Opcode::ALL[index].into(),
            other => other as u16,
        };
        let body = if opcode == u16::from(Opcode::Hello) && input.byte() & 1 == 0 {
            let hello = abi::Hello {
                version_min: 1.into(),
                version_max: 1.into(),
                queue_pairs: (pair as u16 + 1).into(),
                features: [u64::MAX.into(), u64::MAX.into()],
                ..Default::default()
            };
            hello.as_bytes()[size_of::<abi::Request>()..].to_vec()
        } else {
            input.counted(700).to_vec()
        };
        let session = match self.port.control().device.mode() {
            DriverMode::Zcnic(session) if opcode != u16::from(Opcode::Hello) => session.id,
            _ => 0,
        };
        let length = size_of::<abi::Request>() + body.len();
        let request = abi::Request {
            magic: abi::MAGIC.into(),
            opcode: opcode.into(),
            length: (length as u32).into(),
            session: session.into(),
            ..Default::default()
        };
        let request = [request.as_bytes(), &body].concat();
        self.post(2 * pair + 1, &[(&request, 0), (&[], 0x800)]);
    }

    /// Serves all rings, as the worker does, until none has work.
    fn serve(&self, scratch: &mut Scratch) {
        for number in 0..PAIRS {
            // More rounds than chains: a ring that is served for ever is a fault.
            for round in 0.. {
                assert!(round < 4 * u32::from(SIZE), "pair {number} is never done");
                match transmit::serve(&self.port, pair(number), true, scratch) {
                    ServeOutcome::More => {}
                    ServeOutcome::Control => command::serve(&self.port, pair(number)),
                    ServeOutcome::Empty | ServeOutcome::Idle | ServeOutcome::Backpressure(_) => {
                        break;
                    }
                }
            }
        }
    }

    /// Checks that no ring has more used chains than posted ones.
    fn check(&self, base: u16) {
        for number in (0..RINGS).filter(|_| !self.hostile) {
            let (used, posted) = (self.used(number), self.posted[number]);
            assert!(
                used.wrapping_sub(base) <= posted.wrapping_sub(base),
                "ring {number}: {used} used of {posted}, from {base}"
            );
        }
    }
}
