//! A port with its socket, and the frontends that connect to it.
//!
//! The lock of the frontend's slot is held alone.

use std::{
    io,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc::Sender,
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crate::{
    control::frontend, port::Port, socket::Socket, sync::lock, thread::spawn, vhost::connection,
};

/// How long a new frontend waits for the previous one's connection to end.
const HANDOVER: Duration = Duration::from_secs(1);

/// The place of the one frontend that may be connected.
#[derive(Debug, Default)]
struct FrontendSlot {
    frontend: Mutex<Option<UnixStream>>,
    freed: Condvar,
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
    pub(crate) fn new(port: Arc<Port>, socket: Socket) -> Self {
        Self {
            port,
            socket,
            slot: FrontendSlot::default(),
        }
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

    /// Accepts frontends and serves one after the other, each on a thread of its own.
    pub(crate) fn accept(self: &Arc<Self>, failures: &Sender<String>) -> io::Result<()> {
        let mut serving: Option<JoinHandle<()>> = None;
        while !self.slot.stopping.load(Ordering::Acquire) {
            let frontend = match self.socket.accept() {
                Ok(frontend) => frontend,
                Err(_) if self.slot.stopping.load(Ordering::Acquire) => break,
                Err(error) => {
                    // As a rule there are no more descriptors, and no event reports when there are.
                    self.port
                        .context
                        .warn(format_args!("can't accept a frontend: {error}"));
                    thread::sleep(HANDOVER);
                    continue;
                }
            };
            if !self.claim(&frontend) {
                self.port
                    .context
                    .warn(format_args!("refused a frontend: another one is connected"));
                continue;
            }
            if let Some(thread) = serving.take() {
                let _ = thread.join();
            }
            let entry = Arc::clone(self);
            let name = format!("port-{}", self.port.context.name());
            serving = Some(spawn(name, failures, move || {
                entry.serve(&frontend);
                Ok(())
            })?);
        }
        if let Some(thread) = serving {
            let _ = thread.join();
        }
        Ok(())
    }

    /// Takes the slot for a frontend; waits a little for the previous one to leave. Returns whether
    /// the slot was free.
    fn claim(&self, frontend: &UnixStream) -> bool {
        let Ok(handle) = frontend.try_clone() else {
            return false;
        };
        let held = lock(&self.slot.frontend);
        let wait = self
            .slot
            .freed
            .wait_timeout_while(held, HANDOVER, |held| held.is_some());
        let (mut held, timeout) = wait.unwrap_or_else(std::sync::PoisonError::into_inner);
        if timeout.timed_out() || self.slot.stopping.load(Ordering::Acquire) {
            return false;
        }
        *held = Some(handle);
        true
    }

    fn serve(&self, frontend: &UnixStream) {
        self.port.context.info(format_args!("frontend connected"));
        if let Err(error) = connection::serve(&self.port, frontend) {
            self.port
                .context
                .warn(format_args!("{:#}", anyhow::Error::from(error)));
        }
        self.port
            .context
            .info(format_args!("frontend disconnected"));
        *lock(&self.slot.frontend) = None;
        self.slot.freed.notify_all();
    }
}
