//! A port with its socket, and the frontends that connect to it.
//!
//! The lock of the frontend's slot is held alone.

use std::{
    io,
    net::Shutdown,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rustix::{
    event::{EventfdFlags, eventfd},
    io::{read, write},
};
use zcnic_ctl::protocol::{ErrorClass, Failure, Outcome, Response};

use crate::{
    control::frontend,
    descriptors::Share,
    port::Port,
    socket::Socket,
    sync::lock,
    thread::spawn,
    vhost::{
        arrivals::{Arrivals, Dismissal, SILENCE, say},
        connection,
    },
};

/// How long no connection is accepted after the system had no descriptor for one: no event reports
/// when there are more.
const PAUSE: Duration = Duration::from_secs(1);

/// The place of the one frontend that may be connected.
#[derive(Debug)]
struct FrontendSlot {
    frontend: Mutex<Option<Arc<UnixStream>>>,
    /// Becomes readable when the frontend left.
    freed: OwnedFd,
    stopping: AtomicBool,
}

/// A port with its socket.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) port: Arc<Port>,
    pub(crate) socket: Socket,
    slot: FrontendSlot,
}

impl Entry {
    /// # Errors
    ///
    /// The system has no more descriptors.
    pub(crate) fn new(port: Arc<Port>, socket: Socket) -> io::Result<Self> {
        Ok(Self {
            port,
            socket,
            slot: FrontendSlot {
                frontend: Mutex::default(),
                freed: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
                stopping: AtomicBool::new(false),
            },
        })
    }

    /// Ends the connection to the frontend and accepts no more.
    pub(crate) fn stop(&self) {
        self.slot.stopping.store(true, Ordering::Release);
        self.socket.shut_down();
        self.disconnect();
    }

    /// Ends the connection to the frontend, which may connect again.
    pub(crate) fn disconnect(&self) {
        // A frontend that loses its backend resumes from the used index that it then finds, so no
        // ring may advance afterwards.
        frontend::abandon_rings(&self.port);
        if let Some(frontend) = &*lock(&self.slot.frontend) {
            let _ = frontend.shutdown(Shutdown::Both);
        }
    }

    /// Ends the connection to a frontend whose memory lacks a page, unless it has gone.
    pub(crate) fn disconnect_failed(&self) {
        let frontend = lock(&self.slot.frontend);
        // The alarm ends before the slot is free for another frontend.
        if self.port.wakers.alarm().is_raised()
            && let Some(frontend) = &*frontend
        {
            let _ = frontend.shutdown(Shutdown::Both);
        }
    }

    /// Accepts frontends and serves one after the other, each on a thread of its own and with a
    /// `share` of the descriptors.
    ///
    /// # Errors
    ///
    /// Waiting itself failed.
    pub(crate) fn accept(
        self: &Arc<Self>,
        share: Share,
        failures: &Sender<String>,
    ) -> io::Result<()> {
        let mut arrivals = Arrivals::default();
        let mut serving: Option<JoinHandle<()>> = None;
        let mut paused_until = None;
        while !self.slot.stopping.load(Ordering::Acquire) {
            let pause = paused_until
                .map(|until: Instant| until.saturating_duration_since(Instant::now()))
                .filter(|left| !left.is_zero());
            let accepts = pause.is_none() && arrivals.has_room();
            let listener = accepts.then(|| self.socket.listener.as_fd());
            let (stopped, freed) = (self.socket.stopped(), self.slot.freed.as_fd());
            let woken = arrivals.wait(stopped, freed, listener, pause)?;
            if woken.freed {
                // It does not block, and nothing but this thread reads it.
                let _ = read(freed, &mut [0; 8]);
            }
            if woken.connection {
                match self.socket.listener.accept() {
                    Ok((stream, _)) => arrivals.add(stream),
                    Err(error) => {
                        self.port
                            .context
                            .warn(format_args!("can't accept a frontend: {error}"));
                        paused_until = Some(Instant::now() + PAUSE);
                    }
                }
            }
            for (stream, reason) in arrivals.dismiss(self.is_occupied()) {
                self.dismiss(&stream, reason);
            }
            if self.is_occupied() {
                continue;
            }
            if let Some(frontend) = arrivals.take_frontend() {
                if let Some(thread) = serving.take() {
                    let _ = thread.join();
                }
                serving = self.start(frontend, share, failures);
            }
        }
        if let Some(thread) = serving {
            let _ = thread.join();
        }
        Ok(())
    }

    fn is_occupied(&self) -> bool {
        lock(&self.slot.frontend).is_some()
    }

    /// Logs why a connection is closed, and answers one that was meant for the control socket.
    fn dismiss(&self, stream: &UnixStream, reason: Dismissal) {
        let context = &self.port.context;
        match reason {
            Dismissal::Left => {}
            Dismissal::Silent => {
                context.warn(format_args!(
                    "closed a connection that sent no message within {} s",
                    SILENCE.as_secs()
                ));
            }
            Dismissal::Occupied => {
                context.warn(format_args!("refused a frontend: another one is connected"));
            }
            Dismissal::Stranger => {
                context.warn(format_args!(
                    "refused a connection that does not speak vhost-user"
                ));
                let desc = format!(
                    "This is the vhost-user socket of port {}, for QEMU; clients connect to that of \
                     --control",
                    context.name()
                );
                let answer = Response {
                    outcome: Outcome::Error(Failure {
                        class: ErrorClass::GenericError,
                        desc,
                    }),
                    id: None,
                };
                if let Ok(mut line) = serde_json::to_vec(&answer) {
                    line.push(b'\n');
                    say(stream, &line);
                }
            }
        }
    }

    /// Serves a frontend on a thread of its own. `None`: the backend stops, or the system has no
    /// thread for it.
    fn start(
        self: &Arc<Self>,
        frontend: UnixStream,
        share: Share,
        failures: &Sender<String>,
    ) -> Option<JoinHandle<()>> {
        let frontend = Arc::new(frontend);
        let mut slot = lock(&self.slot.frontend);
        if self.slot.stopping.load(Ordering::Acquire) {
            return None;
        }
        *slot = Some(Arc::clone(&frontend));
        drop(slot);
        let entry = Arc::clone(self);
        let name = format!("port-{}", self.port.context.name());
        let started = spawn(name, failures, move || {
            entry.serve(&frontend, share);
            Ok(())
        });
        match started {
            Ok(thread) => Some(thread),
            Err(error) => {
                self.port
                    .context
                    .warn(format_args!("can't serve a frontend: {error}"));
                self.free();
                None
            }
        }
    }

    fn serve(&self, frontend: &UnixStream, share: Share) {
        self.port.context.info(format_args!("frontend connected"));
        if let Err(error) = connection::serve(&self.port, frontend, share) {
            self.port
                .context
                .warn(format_args!("{:#}", anyhow::Error::from(error)));
        }
        self.port
            .context
            .info(format_args!("frontend disconnected"));
        self.free();
    }

    /// Makes room for the next frontend.
    fn free(&self) {
        *lock(&self.slot.frontend) = None;
        // It fails only if the counter is full, and then it is readable anyway.
        let _ = write(&self.slot.freed, &1_u64.to_ne_bytes());
    }
}
