//! Asking the backend, again and again.

use std::{
    path::Path,
    sync::mpsc::SyncSender,
    thread,
    time::{Duration, Instant},
};

use zcnic_ctl::{
    Client, ClientError,
    protocol::{Stats, Status, fault::FaultStatus, ledger::Ledger},
};

/// The state of a backend at one time.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) at: Instant,
    /// The backend's version; a guest's port that was taken over has none.
    pub(crate) version: Option<String>,
    pub(crate) status: Status,
    pub(crate) stats: Stats,
    pub(crate) faults: Vec<FaultStatus>,
    /// One for each port of `status`.
    pub(crate) ledgers: Vec<Ledger>,
}

/// Asks for everything that is shown.
pub(crate) fn take(client: &mut Client) -> Result<Sample, ClientError> {
    let status = client.status()?;
    let ledgers = status.ports.iter().map(|port| client.ledger(&port.name));
    let ledgers = ledgers.collect::<Result<_, _>>()?;
    Ok(Sample {
        at: Instant::now(),
        version: client
            .greeting()
            .map(|greeting| greeting.zcnic.version.clone()),
        ledgers,
        status,
        stats: client.stats()?,
        faults: client.fault_list()?,
    })
}

/// What happens at the socket.
pub(crate) enum News {
    /// The backend answered.
    Sample(Box<Sample>),
    /// There is no backend at the moment.
    Gone(ClientError),
}

/// Sends a sample per `interval`, beginning with `client`. Connects again when a backend is gone.
/// Ends when `news` is no longer read.
pub(crate) fn repeat(client: Client, socket: &Path, interval: Duration, news: &SyncSender<News>) {
    let mut client = Some(client);
    loop {
        let connected = client.take().map_or_else(|| Client::connect(socket), Ok);
        let sample = connected.and_then(|mut connected| {
            let sample = take(&mut connected)?;
            client = Some(connected);
            Ok(sample)
        });
        let item = match sample {
            Ok(sample) => News::Sample(Box::new(sample)),
            Err(error) => News::Gone(error),
        };
        if news.send(item).is_err() {
            return;
        }
        thread::sleep(interval);
    }
}
