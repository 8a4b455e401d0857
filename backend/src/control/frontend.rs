//! What the frontend says of a port. All of this is called by the thread that serves the connection.

use std::{
    os::fd::OwnedFd,
    sync::{Arc, atomic::Ordering},
};

use zcnic_device::{abi, port::Mode};

use crate::{
    config::{FlowControl, PortMode},
    memory::GuestMemory,
    port::{ControlState, MAX_RINGS, Port},
    ring::{raw::Memory, transport::Transport},
};

impl Port {
    /// Changes what is known of a ring while that is not in use by anybody else.
    pub(crate) fn set_up<R>(&self, ring: usize, action: impl FnOnce(&mut Transport) -> R) -> R {
        self.transport(ring, action)
    }

    /// The ring starts; the frontend set it up before.
    pub(crate) fn start_ring(&self, ring: usize) {
        let mut control = self.control();
        if !self.transport(ring, |transport| transport.resumes()) {
            self.end_session(&mut control, "the device was reset");
        }
        let started = self.transport(ring, |transport| transport.start(self.worker(ring), ring));
        if let Err(error) = started {
            self.warn(format_args!("ring {ring} can't be used: {error}"));
        }
        if control.is_command_ring(ring) {
            control.suspended = false;
            self.publish(control.active());
            self.kick_all();
        }
        self.follow_enabled(&mut control);
        drop(control);
        self.ring_changed(ring);
    }

    /// The ring stops.
    pub(crate) fn stop_ring(&self, ring: usize) {
        // A command that is being executed ends before, because the control lock is held meanwhile.
        let mut control = self.control();
        self.stop_transport(ring);
        if control.is_command_ring(ring) {
            control.suspended = true;
            self.publish(control.active());
        }
        drop(control);
        self.ring_changed(ring);
    }

    /// The ring may be used or not, while it runs.
    pub(crate) fn enable_ring(&self, ring: usize, enabled: bool) {
        let mut control = self.control();
        let changed = self.transport(ring, |transport| {
            let changed = transport.is_enabled() != enabled;
            transport.set_enabled(enabled);
            changed
        });
        if changed {
            self.follow_enabled(&mut control);
            drop(control);
            self.ring_changed(ring);
        }
    }

    /// Uses `memory` from now on, and what was before no more.
    pub(crate) fn set_memory(&self, memory: Option<&Arc<GuestMemory>>) {
        let _control = self.control();
        let memory = memory.map(|memory| Arc::new(Memory::new(Arc::clone(memory))));
        for ring in 0..MAX_RINGS {
            let checked = self.transport(ring, |transport| {
                transport.set_memory(memory.clone());
                transport.check()
            });
            if let Err(error) = checked {
                self.warn(format_args!("ring {ring} can't be used: {error}"));
            }
        }
    }

    /// The driver acknowledged these features.
    pub(crate) fn set_features(&self, features: u64) {
        let mut control = self.control();
        if control.features != features {
            if control.features != 0 {
                self.end_session(&mut control, "other features were negotiated");
            }
            control.features = features;
            if !control.is_modern() {
                self.warn(format_args!(
                    "the driver acknowledged neither VERSION_1 nor MRG_RXBUF; \
                     legacy virtio-net is not served (disable-legacy=on)"
                ));
            }
            self.publish(control.active());
        }
    }

    pub(crate) fn set_kick(&self, ring: usize, kick: Option<OwnedFd>) {
        let set = |transport: &mut Transport| transport.set_kick(kick, self.worker(ring), ring);
        if let Err(error) = self.transport(ring, set) {
            self.warn(format_args!("ring {ring}: {error}"));
        }
    }

    pub(crate) fn set_call(&self, ring: usize, call: Option<OwnedFd>) {
        let missed = self.transport(ring, |transport| transport.set_call(call));
        if let Some(interrupt) = missed {
            interrupt.raise();
        }
    }

    /// A frontend connected.
    pub(crate) fn attach(&self) {
        self.counters.connections.fetch_add(1, Ordering::Relaxed);
        self.connected.store(true, Ordering::Release);
        self.tell_connection(true);
        self.tell_peer_of_link();
    }

    /// No ring is touched any more, whatever the frontend thinks.
    pub(crate) fn abandon_rings(&self) {
        let _control = self.control();
        for ring in 0..MAX_RINGS {
            self.transport(ring, |transport| transport.clear(self.worker(ring)));
        }
    }

    /// The frontend went away: its memory and its rings are not touched any more.
    pub(crate) fn detach(&self) {
        let mut control = self.control();
        self.connected.store(false, Ordering::Release);
        for ring in 0..MAX_RINGS {
            self.transport(ring, |transport| transport.clear(self.worker(ring)));
        }
        control.features = 0;
        self.end_session(&mut control, "the frontend went away");
        drop(control);
        self.tell_connection(false);
        self.tell_peer_of_link();
    }

    fn tell_peer_of_link(&self) {
        if let Some((peer, _)) = self.peer() {
            peer.send_event(abi::EVENT_LINK);
            peer.tell_link();
            peer.retry();
        }
    }

    fn ring_changed(&self, ring: usize) {
        self.worker(ring).kick(ring);
        if ring.is_multiple_of(2)
            && let Some((peer, FlowControl::Pause)) = self.peer()
        {
            peer.retry();
        }
    }

    /// Brings a plain port in line with the pairs that are enabled; makes the port plain if it is to be.
    fn follow_enabled(&self, control: &mut ControlState) {
        let mode = control.device.mode();
        let becomes_plain = self.mode == PortMode::Plain && control.is_modern();
        if mode == Mode::Plain || (mode == Mode::Undecided && becomes_plain) {
            self.run_plain(control);
        }
    }

    /// The kick descriptor of `ring` can't be waited for any more.
    pub(crate) fn kick_failed(&self, ring: usize) {
        self.transport(ring, |transport| transport.drop_kick(self.worker(ring)));
        self.warn(format_args!(
            "ring {ring}: its kick descriptor failed and is not used any more"
        ));
    }
}
