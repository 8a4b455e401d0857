//! A port with its socket, and the frontends that connect to it.

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

use crate::{port::Port, socket::Socket, sync::lock, thread::spawn, vhost::connection};

/// How long a new frontend waits for the previous one's connection to end.
const HANDOVER: Duration = Duration::from_secs(1);

/// The frontend that is connected, and whether no more is welcome.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    frontend: Mutex<Option<UnixStream>>,
    freed: Condvar,
    pub(crate) stopping: AtomicBool,
}

/// A port with its socket.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) port: Arc<Port>,
    pub(crate) socket: Socket,
    pub(crate) slot: Slot,
}

impl Entry {
    /// Ends the connection to the frontend, which may connect again.
    pub(crate) fn disconnect(&self) {
        // A frontend that loses its backend goes on where the used rings are then.
        self.port.abandon_rings();
        if let Some(frontend) = &*lock(&self.slot.frontend) {
            let _ = frontend.shutdown(Shutdown::Both);
        }
    }

    /// Serves one frontend after the other, each on a thread of its own.
    pub(crate) fn accept(self: &Arc<Self>, failures: &Sender<String>) -> io::Result<()> {
        let mut serving: Option<JoinHandle<()>> = None;
        while !self.slot.stopping.load(Ordering::Acquire) {
            let frontend = match self.socket.listener.accept() {
                Ok((frontend, _)) => frontend,
                Err(_) if self.slot.stopping.load(Ordering::Acquire) => break,
                Err(error) => {
                    // As a rule no more descriptors; nothing tells when there are some again.
                    self.port
                        .warn(format_args!("can't accept a frontend: {error}"));
                    thread::sleep(HANDOVER);
                    continue;
                }
            };
            if !self.claim(&frontend) {
                self.port
                    .warn(format_args!("refused a frontend: another one is connected"));
                continue;
            }
            if let Some(thread) = serving.take() {
                let _ = thread.join();
            }
            let entry = Arc::clone(self);
            let name = format!("port-{}", self.port.name);
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

    /// Waits a little for a frontend that is about to leave.
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
        self.port.info(format_args!("frontend connected"));
        if let Err(error) = connection::serve(&self.port, frontend, self.socket.path()) {
            self.port
                .warn(format_args!("{:#}", anyhow::Error::from(error)));
        }
        self.port.info(format_args!("frontend disconnected"));
        *lock(&self.slot.frontend) = None;
        self.slot.freed.notify_all();
    }
}
