//! The control path of a port: commands from the driver, events to it, and what both do to rings.

use std::num::NonZeroU64;

use rustix::rand::{GetRandomFlags, getrandom};
use zcnic_device::{
    abi,
    fault::Lane,
    port::{Configuration, Mode, PortCounters, Rings},
    receive::{Layout, ReceiveCounters},
    transmit::{TransmitCounters, has_zcnic_header},
};
use zerocopy::IntoBytes;

use crate::{
    config::PortMode,
    port::{ControlState, Port, PublishContext, RxQueue, TxQueue},
    ring::{
        RingError,
        chain::walk,
        ledger::LedgerRecorder,
        mover::gather,
        raw::Span,
        receive::ReceiveChains,
        split::SplitRing,
        transport::{Interrupt, Transport},
        window::PrefetchWindow,
    },
    sync::lock,
};

/// The chain at the head of a transmit ring, as far as control cares.
enum Next {
    /// There is none.
    Empty,
    /// A request and a place for the response.
    Request(Vec<u8>),
    /// A chain with a writable part that is no command, or an unusable one.
    Junk,
    /// A frame.
    Frame,
    /// A frame as zcnic drivers send them.
    ZcnicFrame,
}

impl Port {
    /// Does what the data path may not do itself with the next chain of a transmit ring: executes a
    /// command, or decides who drives the port.
    pub(crate) fn serve_control(&self, pair: usize) {
        let mut control = self.control();
        let next = self.on_transmit(pair, Next::read).unwrap_or(Next::Empty);
        match next {
            Next::Empty => {}
            Next::Request(request) if self.mode != PortMode::Plain => {
                let before = control.publish_context().command_pair;
                let execute = |control: &mut ControlState| {
                    let mut rings = PortRings::new(self, control.publish_context());
                    control.device.execute(pair as u16, &request, &mut rings)
                };
                let response = self.execute_faulty(pair, &request, &mut control, execute);
                if let Some(response) = response {
                    self.complete(pair, &response);
                }
                if control.publish_context().command_pair != before {
                    self.info(format_args!("driven by zcnic with {pair} data pairs"));
                }
                self.flush_events(&mut control);
            }
            Next::Frame if control.device.mode() == Mode::Undecided => {
                if self.mode == PortMode::Auto && control.is_modern() {
                    self.run_plain(&mut control);
                } else {
                    self.refuse(pair);
                }
            }
            Next::Frame | Next::ZcnicFrame
                if control.publish_context().command_pair == Some(pair) =>
            {
                self.refuse(pair);
            }
            // The driver sent it before it noticed that this is a new backend.
            Next::ZcnicFrame if control.device.mode() == Mode::Undecided => self.refuse(pair),
            // Somebody decided meanwhile: the data path takes it.
            Next::Frame | Next::ZcnicFrame => {}
            Next::Request(_) | Next::Junk => self.refuse(pair),
        }
    }

    /// Returns the next chain with `response` in its writable part, as much as fits.
    fn complete(&self, pair: usize, response: &[u8]) {
        self.on_transmit(pair, |ring| {
            if ring.available(1)? == 0 {
                return Ok(());
            }
            let head = ring.head(0)?;
            let written = answer(ring, response);
            ring.complete(head, written);
            Ok(())
        });
    }

    /// Returns the next chain with length 0: nobody executed or sent it.
    fn refuse(&self, pair: usize) {
        self.complete(pair, &[]);
        lock(&self.transmit[pair]).counters.errors += 1;
    }

    /// Works on a running transmit ring, shows the driver what was completed and notifies it.
    fn on_transmit<T>(
        &self,
        pair: usize,
        action: impl FnOnce(&mut SplitRing<'_>) -> Result<T, RingError>,
    ) -> Option<T> {
        let mut side = lock(&self.transmit[pair]);
        let transport = &mut side.transport;
        let (result, interrupt) = with_ring(transport, action);
        let result = match result {
            Ok(value) => value,
            Err(error) => {
                self.broken(2 * pair + 1, transport, error);
                None
            }
        };
        drop(side);
        raise(interrupt);
        result
    }

    /// Tells the driver of `bits` (`EVENT_*`), now or when it posts a buffer.
    pub(crate) fn send_event(&self, bits: u32) {
        self.announce(&mut self.control(), bits);
    }

    /// The same for those who hold the control state already.
    pub(crate) fn announce(&self, control: &mut ControlState, bits: u32) {
        control.pending_events |= bits;
        self.flush_events(control);
    }

    /// The driver posted receive buffers.
    pub(crate) fn receive_kicked(&self, pair: usize) {
        if self.active().command_pair == Some(pair) {
            self.flush_events(&mut self.control());
        } else if std::mem::take(&mut lock(&self.receive[pair]).waited_for)
            && let Some((peer, _)) = self.peer()
        {
            peer.retry();
        }
    }

    fn flush_events(&self, control: &mut ControlState) {
        let Some(pair) = control.publish_context().command_pair else {
            control.pending_events = 0;
            return;
        };
        if control.pending_events == 0 {
            return;
        }
        let mut side = lock(&self.receive[pair]);
        let transport = &mut side.transport;
        if !transport.is_enabled() {
            return;
        }
        let (result, interrupt) = with_ring(transport, |ring| {
            if ring.available(1)? == 0 && !ring.enable_kicks()? {
                return Ok(());
            }
            let head = ring.head(0)?;
            let mut spans = Vec::new();
            let mut written = 0;
            if let Ok(chain) = walk(ring.map(), head, &mut spans) {
                let writable = chain.writable(&spans);
                let room: usize = writable.iter().map(Span::len).sum();
                if room >= size_of::<abi::Event>()
                    && let Some(event) = control.device.event(control.pending_events)
                {
                    written = scatter(writable, event.as_bytes());
                    control.pending_events = 0;
                }
            }
            ring.complete(head, written as u32);
            Ok(())
        });
        if let Err(error) = result {
            self.broken(2 * pair, transport, error);
        }
        drop(side);
        raise(interrupt);
    }
}

impl Next {
    fn read(ring: &mut SplitRing<'_>) -> Result<Self, RingError> {
        if ring.available(1)? == 0 {
            return Ok(Self::Empty);
        }
        let mut spans = Vec::new();
        let Ok(chain) = walk(ring.map(), ring.head(0)?, &mut spans) else {
            return Ok(Self::Junk);
        };
        let readable = chain.readable(&spans);
        let length: usize = readable.iter().map(Span::len).sum();
        if !chain.has_writable() {
            let mut start = vec![0; length.min(size_of::<abi::TxHeader>())];
            gather(readable, 0, &mut start);
            let is_zcnic = has_zcnic_header(&start);
            return Ok(if is_zcnic {
                Self::ZcnicFrame
            } else {
                Self::Frame
            });
        }
        // One byte more than allowed is enough for the device to see that it is too long.
        let mut request = vec![0; length.min(abi::MAX_REQUEST + 1)];
        gather(readable, 0, &mut request);
        let is_command = request.starts_with(&abi::MAGIC.to_le_bytes());
        Ok(if is_command {
            Self::Request(request)
        } else {
            Self::Junk
        })
    }
}

/// Writes `response` to the writable part of the next chain, as much as fits; returns how much that was.
pub(crate) fn answer(ring: &SplitRing<'_>, response: &[u8]) -> u32 {
    let mut spans = Vec::new();
    // The driver may have changed the chain since it was read; what counts is that it is in memory.
    let chain = ring
        .head(0)
        .ok()
        .and_then(|head| walk(ring.map(), head, &mut spans).ok());
    chain.map_or(0, |chain| scatter(chain.writable(&spans), response)) as u32
}

/// Writes `bytes` to the run that `spans` form, as far as they fit; returns how many.
fn scatter(spans: &[Span<'_>], bytes: &[u8]) -> usize {
    let mut rest = bytes;
    for span in spans {
        let (now, later) = rest.split_at(rest.len().min(span.len()));
        span.write(0, now);
        rest = later;
    }
    bytes.len() - rest.len()
}

/// Works on a ring if it runs, publishes, and says whether the driver is to be interrupted.
fn with_ring<T>(
    transport: &mut Transport,
    action: impl FnOnce(&mut SplitRing<'_>) -> Result<T, RingError>,
) -> (Result<Option<T>, RingError>, Option<Interrupt>) {
    let mut wanted = false;
    let work = || {
        let Some(mut ring) = transport.ring()? else {
            return Ok(None);
        };
        let value = action(&mut ring)?;
        wanted = ring.publish();
        Ok(Some(value))
    };
    let result = work();
    (result, if wanted { transport.interrupt() } else { None })
}

fn raise(interrupt: Option<Interrupt>) {
    if let Some(interrupt) = interrupt {
        interrupt.raise();
    }
}

/// A port's rings as commands see them. Takes one ring's lock at a time; its user holds the control lock.
pub(crate) struct PortRings<'p> {
    port: &'p Port,
    publish_context: PublishContext,
}

impl<'p> PortRings<'p> {
    pub(crate) fn new(port: &'p Port, publish_context: PublishContext) -> Self {
        Self {
            port,
            publish_context,
        }
    }

    /// Returns every available chain of a ring with length 0 and says how many there were.
    fn drain(
        &self,
        ring: usize,
        transport: &mut Transport,
        lane: &mut Lane,
        recorder: Option<LedgerRecorder<'_>>,
    ) -> (u32, Option<Interrupt>) {
        let split = match transport.ring() {
            Ok(split) => split,
            Err(error) => {
                self.port.broken(ring, transport, error);
                return (0, None);
            }
        };
        if split.is_none() {
            lane.forget();
        }
        let mut chains =
            ReceiveChains::new(split, usize::MAX, PrefetchWindow::default()).recorded_by(recorder);
        lane.stop(&mut chains);
        let drained = chains.drain();
        let wanted = chains.publish();
        let error = chains.error();
        drop(chains);
        if let Some(error) = error {
            self.port.broken(ring, transport, error);
        }
        (drained, if wanted { transport.interrupt() } else { None })
    }

    fn stop_receive_ring(&self, pair: usize) -> u32 {
        let mut side = lock(&self.port.receive[pair]);
        let RxQueue {
            transport,
            queue,
            lane,
            ledger_state,
            stalled,
            ..
        } = &mut *side;
        queue.stop();
        *stalled = false;
        let (drained, interrupt) = self.drain(
            2 * pair,
            transport,
            lane,
            ledger_state.recorder(|| self.port.hub.now()),
        );
        // A stop of a queue that never ran says nothing.
        let report = ledger_state
            .stop(self.port.hub.now())
            .filter(|report| report.posted > 0);
        let violations = ledger_state.violations();
        drop(side);
        raise(interrupt);
        self.port.report_violations(pair, violations);
        if let Some(report) = report {
            self.port.report_stop(pair, report);
        }
        self.retry_peer();
        drained
    }

    fn stop_transmit_ring(&self, pair: usize) -> u32 {
        let mut side = lock(&self.port.transmit[pair]);
        let TxQueue {
            transport,
            running,
            lane,
            decision,
            backpressure,
            ..
        } = &mut *side;
        *running = false;
        *backpressure = None;
        *decision = None;
        let (drained, interrupt) = self.drain(2 * pair + 1, transport, lane, None);
        drop(side);
        raise(interrupt);
        drained
    }

    fn retry_peer(&self) {
        if let Some((peer, _)) = self.port.peer() {
            peer.retry();
        }
    }
}

impl Rings for PortRings<'_> {
    fn session_id(&mut self) -> u64 {
        loop {
            let mut bytes = [0; 8];
            // Small requests are never cut short, and the pool is ready long before we run.
            let _ = getrandom(&mut bytes, GetRandomFlags::empty());
            if let Some(id) = NonZeroU64::new(u64::from_ne_bytes(bytes)) {
                return id.get();
            }
        }
    }

    fn reset(&mut self, command_pair: u16) {
        let command_pair = usize::from(command_pair);
        for pair in 0..self.port.receive.len() {
            self.stop_receive_ring(pair);
            if pair != command_pair {
                self.stop_transmit_ring(pair);
            }
        }
        self.publish_context.command_pair = Some(command_pair);
    }

    fn configure(&mut self, configuration: Configuration) {
        if configuration.transmit_format != Some(zcnic_device::transmit::TransmitFormat::Zcnic) {
            self.publish_context.command_pair = None;
        }
        self.port
            .publish(self.publish_context.active(configuration));
    }

    fn start_receive(&mut self, queue: u16, layout: Layout, max_chains: usize) {
        let Some(side) = self.port.receive.get(usize::from(queue)) else {
            return;
        };
        lock(side).queue.start(layout, max_chains);
        self.retry_peer();
    }

    fn stop_receive(&mut self, queue: u16) -> u32 {
        self.stop_receive_ring(usize::from(queue))
    }

    fn start_transmit(&mut self, queue: u16) {
        let Some(side) = self.port.transmit.get(usize::from(queue)) else {
            return;
        };
        lock(side).running = true;
        let ring = 2 * usize::from(queue) + 1;
        self.port.worker(ring).kick(ring);
    }

    fn stop_transmit(&mut self, queue: u16) -> u32 {
        self.stop_transmit_ring(usize::from(queue))
    }

    fn counters(&self, queue: u16) -> (ReceiveCounters, TransmitCounters) {
        let queue = usize::from(queue);
        let receive = self
            .port
            .receive
            .get(queue)
            .map(|side| *lock(side).queue.counters());
        let transmit = self
            .port
            .transmit
            .get(queue)
            .map(|side| lock(side).counters);
        (receive.unwrap_or_default(), transmit.unwrap_or_default())
    }

    fn port_counters(&self) -> PortCounters {
        self.port.port_counters()
    }

    fn link_up(&self) -> bool {
        self.port.link_up()
    }

    fn clock(&self) -> u64 {
        self.port.hub.clock()
    }
}
