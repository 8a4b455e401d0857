//! One port: its rings, and the commands' effects on them.

use std::sync::Arc;

use virtio_queue::Queue;
use vm_memory::GuestMemoryMmap;
use zcnic_device::{
    abi,
    port::{Configuration, DriverMode, Port, PortCounters, Rings},
    receive::{Layout, MAX_CHAINS, ReceiveCounters, ReceiveQueue},
    transmit::{TransmitCounters, has_zcnic_header, wants_time},
};
use zerocopy::IntoBytes;

use super::{
    Clock,
    memory::{Chain, complete, device_ring, gather, pop, scatter},
};
use crate::driver::Pair;

/// A port of the device.
#[derive(Debug)]
pub(super) struct DevicePort {
    memory: Arc<GuestMemoryMmap>,
    control: Port,
    pub(super) rings: PortRings,
    pub(super) pending_events: u32,
}

/// The rings and the environment of a port's commands.
#[derive(Debug)]
pub(super) struct PortRings {
    memory: Arc<GuestMemoryMmap>,
    pub(super) receive: Vec<DeviceRxQueue>,
    transmit: Vec<DeviceTxQueue>,
    pub(super) configuration: Configuration,
    pub(super) counters: PortCounters,
    pub(super) clock: Clock,
    next_session: u64,
}

#[derive(Debug)]
pub(super) struct DeviceRxQueue {
    pub(super) ring: Queue,
    pub(super) queue: ReceiveQueue,
}

#[derive(Debug)]
struct DeviceTxQueue {
    ring: Queue,
    running: bool,
    counters: TransmitCounters,
}

impl DevicePort {
    pub(super) fn new(
        memory: Arc<GuestMemoryMmap>,
        pairs: &[Pair],
        number: u64,
        clock: Clock,
    ) -> Self {
        let control = Port::new();
        let receive = pairs.iter().map(|pair| DeviceRxQueue {
            ring: device_ring(pair.receive.ring().addresses()),
            queue: ReceiveQueue::default(),
        });
        let transmit = pairs.iter().map(|pair| DeviceTxQueue {
            ring: device_ring(pair.transmit.ring().addresses()),
            running: false,
            counters: TransmitCounters::default(),
        });
        let rings = PortRings {
            memory: Arc::clone(&memory),
            receive: receive.collect(),
            transmit: transmit.collect(),
            configuration: control.configuration(),
            counters: PortCounters::default(),
            clock,
            next_session: (number + 1) << 32,
        };
        Self {
            memory,
            control,
            rings,
            pending_events: 0,
        }
    }

    pub(super) fn memory(&self) -> Arc<GuestMemoryMmap> {
        Arc::clone(&self.memory)
    }

    pub(super) fn pairs(&self) -> usize {
        self.rings.transmit.len()
    }

    pub(super) fn receive_counters(&self, queue: u16) -> ReceiveCounters {
        *self.rings.receive[usize::from(queue)].queue.counters()
    }

    pub(super) fn end_session(&mut self) {
        for rx in &mut self.rings.receive {
            rx.queue.stop();
        }
        for tx in &mut self.rings.transmit {
            tx.running = false;
        }
        self.control.reset(&mut self.rings);
    }

    /// Takes a chain of a transmit ring, unless the queue is stopped.
    pub(super) fn take(&mut self, pair: usize) -> Option<Chain> {
        let tx = &mut self.rings.transmit[pair];
        let serves = match self.control.mode() {
            DriverMode::Zcnic(session) => usize::from(session.command_pair) == pair || tx.running,
            DriverMode::Undecided | DriverMode::Plain => true,
        };
        if serves {
            pop(&mut tx.ring, &self.memory)
        } else {
            None
        }
    }

    /// Whether a chain is a command, not a frame.
    pub(super) fn is_control(&self, pair: usize, chain: &Chain) -> bool {
        let command_ring = matches!(self.control.mode(),
            DriverMode::Zcnic(session) if usize::from(session.command_pair) == pair);
        command_ring || !(chain.writable.is_empty() || self.wants_time(chain))
    }

    /// Whether a chain is a frame that asks for its transmit timestamp.
    pub(super) fn wants_time(&self, chain: &Chain) -> bool {
        let start = gather(&self.memory, &chain.readable, 2);
        let zcnic = matches!(self.control.mode(), DriverMode::Zcnic(_));
        let lengths = chain.writable.iter().map(|span| span.length);
        zcnic
            && start
                .try_into()
                .is_ok_and(|start| wants_time(start, lengths))
    }

    /// Executes a command and completes its chain.
    pub(super) fn control(&mut self, pair: usize, chain: &Chain) {
        let (mut written, mut executed) = (0, false);
        if chain.valid && !chain.writable.is_empty() {
            let length = chain.readable_length().min(abi::MAX_REQUEST + 1);
            let request = gather(&self.memory, &chain.readable, length);
            if request.starts_with(&abi::MAGIC.to_le_bytes()) {
                let response = self.control.execute(pair as u16, &request, &mut self.rings);
                written = scatter(&self.memory, &chain.writable, &response);
                executed = true;
            }
        }
        let tx = &mut self.rings.transmit[pair];
        tx.counters.errors += u64::from(!executed);
        complete(&mut tx.ring, &self.memory, chain.head, written as u32);
    }

    /// Makes an undecided port plain if the chain is an ordinary frame.
    pub(super) fn decide_plain(&mut self, chain: &Chain) {
        let start = gather(&self.memory, &chain.readable, size_of::<abi::TxHeader>());
        let ordinary = chain.valid && !has_zcnic_header(&start);
        if self.control.mode() == DriverMode::Undecided && ordinary {
            for rx in &mut self.rings.receive {
                rx.queue.start(Layout::VirtioNet, MAX_CHAINS);
            }
            let pairs = self.pairs() as u16;
            self.control.run_plain(pairs, &mut self.rings);
        }
    }

    /// Counts the wire frames and bytes of a chain, or an error, and completes it; writes the
    /// transmit timestamp if the frame asked for it.
    pub(super) fn complete_frame(
        &mut self,
        pair: usize,
        chain: &Chain,
        sent: Option<(u64, u64)>,
        time: u64,
    ) {
        let mut written = 0;
        if sent.is_some() && !chain.writable.is_empty() {
            let time = abi::TxTime {
                timestamp_ns: time.into(),
                ..Default::default()
            };
            written = scatter(&self.memory, &chain.writable, time.as_bytes());
        }
        let tx = &mut self.rings.transmit[pair];
        let (frames, bytes) = sent.unwrap_or_default();
        tx.counters.frames += frames;
        tx.counters.bytes += bytes;
        tx.counters.errors += u64::from(sent.is_none());
        complete(&mut tx.ring, &self.memory, chain.head, written as u32);
    }

    /// Writes pending events to an event buffer, if there is one.
    pub(super) fn flush_events(&mut self) -> bool {
        let DriverMode::Zcnic(session) = self.control.mode() else {
            self.pending_events = 0;
            return false;
        };
        if self.pending_events == 0 {
            return false;
        }
        let ring = &mut self.rings.receive[usize::from(session.command_pair)].ring;
        let Some(chain) = pop(ring, &self.memory) else {
            return false;
        };
        let event = self.control.event(std::mem::take(&mut self.pending_events));
        let event = event.expect("a session");
        let written = scatter(&self.memory, &chain.writable, event.as_bytes());
        complete(ring, &self.memory, chain.head, written as u32);
        true
    }
}

impl PortRings {
    /// Returns every available chain of a ring unused.
    fn drain(memory: &GuestMemoryMmap, ring: &mut Queue) -> u32 {
        let mut count = 0;
        while let Some(chain) = pop(ring, memory) {
            complete(ring, memory, chain.head, 0);
            count += 1;
        }
        count
    }
}

impl Rings for PortRings {
    fn session_id(&mut self) -> u64 {
        self.next_session += 1;
        self.next_session
    }

    fn reset(&mut self, command_pair: u16) {
        for pair in 0..self.receive.len() as u16 {
            self.stop_receive(pair);
            if pair != command_pair {
                self.stop_transmit(pair);
            }
        }
    }

    fn configure(&mut self, configuration: Configuration) {
        self.configuration = configuration;
    }

    fn start_receive(&mut self, queue: u16, layout: Layout, max_chains: usize) {
        let rx = &mut self.receive[usize::from(queue)];
        rx.queue.start(layout, max_chains);
    }

    fn stop_receive(&mut self, queue: u16) -> u32 {
        let rx = &mut self.receive[usize::from(queue)];
        rx.queue.stop();
        Self::drain(&self.memory, &mut rx.ring)
    }

    fn start_transmit(&mut self, queue: u16) {
        self.transmit[usize::from(queue)].running = true;
    }

    fn stop_transmit(&mut self, queue: u16) -> u32 {
        let tx = &mut self.transmit[usize::from(queue)];
        tx.running = false;
        Self::drain(&self.memory, &mut tx.ring)
    }

    fn counters(&self, queue: u16) -> (ReceiveCounters, TransmitCounters) {
        let queue = usize::from(queue);
        (
            *self.receive[queue].queue.counters(),
            self.transmit[queue].counters,
        )
    }

    fn port_counters(&self) -> PortCounters {
        self.counters
    }

    fn link_up(&self) -> bool {
        true
    }

    fn clock(&self) -> u64 {
        self.clock.read()
    }
}
