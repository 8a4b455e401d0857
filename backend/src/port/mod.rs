//! The state of a port, in parts: its queues, who drives it, its configuration, its cable.
//!
//! A function of an upper layer takes the parts that it needs, or the whole port if it needs many
//! of them or goes over the cable.
//!
//! Lock order: the control lock, a transmit queue or the generator, a receive queue (of the peer);
//! then the published configuration, armed fault rules and flow counters, which are held for a copy
//! of a pointer or one count only. A thread that holds a transmit queue takes receive queues one at
//! a time and never the control lock; one that holds the control lock takes queues one at a time.
//!
//! When a call that stops or takes away something of the frontend returns, no thread uses it any
//! more, because the call went through the locks under which it is used.

pub(crate) mod context;
pub(crate) mod control_state;
pub(crate) mod faults;
pub(crate) mod flow_counters;
pub(crate) mod generator;
pub(crate) mod line;
pub(crate) mod queues;
pub(crate) mod shaper;
pub(crate) mod switch;

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use zcnic_ctl::protocol::event::{self, Event, FrameFate};
use zcnic_device::{features::Feature, port::PortCounters};

use self::{
    context::PortContext,
    control_state::{ActiveConfig, ControlState},
    faults::Faults,
    flow_counters::FlowCounters,
    generator::Generator,
    line::Line,
    queues::Queues,
    switch::Switch,
};
use crate::{
    config::{FlowControl, PortMode},
    services::Services,
    sync::lock,
    waker::Wakers,
};

/// Why steering dropped a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SteeringDrop {
    /// The address filter does not accept it.
    Filtered,
    /// It is longer than the MTU.
    Oversize,
    /// A flow rule drops it.
    Rule,
}

impl SteeringDrop {
    /// The same for captures.
    pub(crate) fn fate(self) -> FrameFate {
        match self {
            Self::Filtered => FrameFate::Filtered,
            Self::Oversize => FrameFate::Oversize,
            Self::Rule => FrameFate::RuleDrop,
        }
    }
}

/// Counters of a port that belong to no queue.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) filtered: AtomicU64,
    pub(crate) rule_drop: AtomicU64,
    pub(crate) oversize: AtomicU64,
    /// Frames sent while there was no carrier.
    pub(crate) no_carrier: AtomicU64,
    /// Frames dropped after they had waited for a paused receiver.
    pub(crate) pause_timeout: AtomicU64,
    pub(crate) connections: AtomicU64,
}

impl Counters {
    /// Counters of frames that reached no queue, as the device reports them.
    pub(crate) fn of_device(&self) -> PortCounters {
        PortCounters {
            filtered: self.filtered.load(Ordering::Relaxed),
            rule_drop: self.rule_drop.load(Ordering::Relaxed),
            oversize: self.oversize.load(Ordering::Relaxed),
        }
    }

    /// The counter of frames that steering dropped for this reason.
    pub(crate) fn of_drop(&self, reason: SteeringDrop) -> &AtomicU64 {
        match reason {
            SteeringDrop::Filtered => &self.filtered,
            SteeringDrop::Oversize => &self.oversize,
            SteeringDrop::Rule => &self.rule_drop,
        }
    }
}

/// A port's cable or wire.
#[derive(Debug)]
enum Plug {
    /// A cable to another port, or to the port itself.
    Cable {
        peer: Weak<Port>,
        flow_control: FlowControl,
        /// The lines of a shaped cable: from this port, and to it.
        lines: Option<[Arc<Line>; 2]>,
    },
    /// A wire without a receiver.
    Null,
    /// A wire that makes frames for the port and discards the port's own.
    Generator(Weak<Port>),
    /// A wire to the outside, in both directions.
    Line(Arc<Line>),
    /// A switch, and the port's number among its members.
    Switch(Arc<Switch>, usize),
}

/// Where a port's frames go.
pub(crate) enum Egress<'p> {
    /// Over a cable to a port.
    Port(Arc<Port>, FlowControl),
    /// Nowhere: they count as sent.
    Null,
    /// To the threads of a line.
    Line(&'p Line),
    /// To ports of a switch, from its member of this number.
    Switch(&'p Switch, usize),
}

/// One port of the backend.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) context: PortContext,
    pub(crate) mode: PortMode,
    pub(crate) queues: Queues,
    pub(crate) wakers: Wakers,
    pub(crate) counters: Counters,
    pub(crate) flow_counters: FlowCounters,
    pub(crate) faults: Faults,
    control: Mutex<ControlState>,
    active: Mutex<Arc<ActiveConfig>>,
    generator: Mutex<Option<Generator>>,
    /// Held for reading while the thread of a line delivers frames to the port.
    ingress: RwLock<()>,
    plug: OnceLock<Plug>,
    connected: AtomicBool,
    /// The control server allows a carrier.
    carrier: AtomicBool,
}

impl Port {
    /// Port `number` of those that share `services`, with `workers` worker threads.
    ///
    /// # Errors
    ///
    /// The system has no more file descriptors.
    pub(crate) fn new(
        name: String,
        mode: PortMode,
        workers: usize,
        (number, services): (usize, &Arc<Services>),
    ) -> io::Result<Self> {
        let control = ControlState::new();
        let active = Mutex::new(Arc::new(control.active()));
        Ok(Self {
            context: PortContext::new(name, number, services),
            mode,
            queues: Queues::new(),
            wakers: Wakers::new(workers)?,
            counters: Counters::default(),
            flow_counters: FlowCounters::default(),
            faults: Faults::default(),
            control: Mutex::new(control),
            active,
            generator: Mutex::default(),
            ingress: RwLock::default(),
            plug: OnceLock::new(),
            connected: AtomicBool::new(false),
            carrier: AtomicBool::new(true),
        })
    }

    /// Plugs in a cable to `peer`, which may be the port itself. A port is plugged in once.
    pub(crate) fn plug(&self, peer: &Arc<Self>, flow_control: FlowControl) {
        self.plug_into(Plug::Cable {
            peer: Arc::downgrade(peer),
            flow_control,
            lines: None,
        });
    }

    /// Plugs in a shaped cable to `peer` whose frames `lines` carry: from this port, and to it.
    pub(crate) fn plug_shaped(
        &self,
        peer: &Arc<Self>,
        flow_control: FlowControl,
        lines: [&Arc<Line>; 2],
    ) {
        self.plug_into(Plug::Cable {
            peer: Arc::downgrade(peer),
            flow_control,
            lines: Some(lines.map(Arc::clone)),
        });
    }

    /// Plugs in a wire to the outside.
    pub(crate) fn plug_line(&self, line: &Arc<Line>) {
        self.plug_into(Plug::Line(Arc::clone(line)));
    }

    /// Plugs the port into a switch as its member of this number.
    pub(crate) fn plug_switch(&self, switch: &Arc<Switch>, member: usize) {
        self.plug_into(Plug::Switch(Arc::clone(switch), member));
    }

    /// Plugs the port into the wire `null`.
    pub(crate) fn plug_null(&self) {
        self.plug_into(Plug::Null);
    }

    /// Plugs the port into the wire `generate`: it receives the frames of `generator`.
    pub(crate) fn plug_generator(self: &Arc<Self>, generator: Generator) {
        *lock(&self.generator) = Some(generator);
        self.plug_into(Plug::Generator(Arc::downgrade(self)));
        self.wakers.kick_generator();
    }

    fn plug_into(&self, plug: Plug) {
        let fresh = self.plug.set(plug).is_ok();
        debug_assert!(fresh, "the configuration was checked");
    }

    /// The port at the other end of the cable, or the port itself if it has a generator, and
    /// whether its frames wait for receive buffers.
    pub(crate) fn peer(&self) -> Option<(Arc<Self>, FlowControl)> {
        match self.plug.get()? {
            Plug::Cable {
                peer, flow_control, ..
            } => Some((peer.upgrade()?, *flow_control)),
            Plug::Generator(port) => Some((port.upgrade()?, FlowControl::Pause)),
            Plug::Null | Plug::Line(_) | Plug::Switch(..) => None,
        }
    }

    /// The line whose threads deliver frames to this port.
    fn incoming(&self) -> Option<&Line> {
        match self.plug.get()? {
            Plug::Cable {
                lines: Some([_, incoming]),
                ..
            } => Some(incoming),
            Plug::Line(line) => Some(line),
            _ => None,
        }
    }

    /// Whether frames for this port wait for receive buffers.
    pub(crate) fn senders_wait(&self) -> bool {
        let flow_control = match self.incoming() {
            Some(line) => Some(line.flow_control),
            None => self.peer().map(|(_, flow_control)| flow_control),
        };
        flow_control == Some(FlowControl::Pause)
    }

    /// Retries frames that wait for receive buffers of this port.
    pub(crate) fn retry_senders(&self) {
        match self.incoming() {
            Some(line) => line.wake(),
            None => {
                if let Some((peer, _)) = self.peer() {
                    peer.wakers.retry();
                }
            }
        }
    }

    /// Where frames go; `None`: there is no carrier.
    pub(crate) fn egress(&self) -> Option<Egress<'_>> {
        let allowed = |port: &Self| port.carrier.load(Ordering::Acquire);
        match self.plug.get()? {
            _ if !allowed(self) => None,
            Plug::Cable { lines, .. } => {
                let (peer, flow_control) = self.peer()?;
                let carrier = allowed(&peer) && peer.is_connected();
                carrier.then(|| match lines {
                    None => Egress::Port(peer, flow_control),
                    Some([outgoing, _]) => Egress::Line(outgoing),
                })
            }
            Plug::Null | Plug::Generator(_) => Some(Egress::Null),
            Plug::Line(line) => line.is_up().then_some(Egress::Line(line)),
            Plug::Switch(switch, member) => Some(Egress::Switch(switch, *member)),
        }
    }

    /// Whether a frontend is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.connected.load(Ordering::Acquire)
    }

    /// Notes whether a frontend is connected.
    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Ordering::Release);
    }

    /// Allows a carrier or not; returns whether it was allowed before.
    pub(crate) fn allow_carrier(&self, allowed: bool) -> bool {
        self.carrier.swap(allowed, Ordering::AcqRel)
    }

    /// Whether there is a carrier: both ends of the cable allow it, and the other has a frontend.
    pub(crate) fn link_up(&self) -> bool {
        self.egress().is_some()
    }

    /// Publishes to the control server's clients whether there is a carrier.
    pub(crate) fn report_link(&self) {
        self.context.publish(|| {
            Event::Link(event::Link {
                port: self.context.name().to_owned(),
                up: self.link_up(),
            })
        });
    }

    /// Takes the control lock.
    pub(crate) fn control(&self) -> MutexGuard<'_, ControlState> {
        lock(&self.control)
    }

    /// Locks the generator; `None`: the port is not plugged into one.
    pub(crate) fn generator(&self) -> MutexGuard<'_, Option<Generator>> {
        lock(&self.generator)
    }

    /// The data path's configuration. Asked for under the lock of the queue that it is used on, it
    /// stays the current one until that is unlocked.
    pub(crate) fn active(&self) -> Arc<ActiveConfig> {
        Arc::clone(&lock(&self.active))
    }

    /// Locks out changes of the configuration while the thread of a line delivers frames. Many
    /// threads may do so; the lock is of the same rank as a transmit queue's.
    pub(crate) fn ingress(&self) -> RwLockReadGuard<'_, ()> {
        self.ingress.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the data path's configuration. When this returns, no thread uses the previous one.
    pub(crate) fn publish(&self, active: ActiveConfig) {
        *lock(&self.active) = Arc::new(active);
        let pass_through = |port: &Self| {
            port.queues.pass_through_tx();
            drop(lock(&port.generator));
            drop(port.ingress.write());
        };
        pass_through(self);
        if let Some(Plug::Switch(switch, own)) = self.plug.get() {
            let others = switch.members().filter(|(member, _)| member != own);
            others.for_each(|(_, port)| pass_through(&port));
        } else if let Some((peer, _)) = self.peer() {
            pass_through(&peer);
        }
    }

    /// The receive time of frames that arrive now, by the device's clock; 0 without looking at the clock
    /// if the driver did not ask for it.
    pub(crate) fn rx_time(&self, active: &ActiveConfig) -> u64 {
        if active.configuration.offloads.has(Feature::Timestamp) {
            self.context.clock()
        } else {
            0
        }
    }
}
