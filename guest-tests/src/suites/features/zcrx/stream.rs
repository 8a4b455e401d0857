//! Streams to the bound queue, and the pool that they leave behind.

use anyhow::{Context, Result};

use crate::fixture::{
    connection::{Connection, Sender, connect},
    device::await_pools,
    receiver::Receiver,
    trace::PoolEnds,
    traffic::PORT,
    transcript::Transcript,
};

/// A buffer, unless it is a larger one.
pub(super) const PAGE: usize = 4096;

/// A connection to the bound queue.
pub(super) fn connection() -> Result<Connection> {
    connect(PORT, 1)?.pop().context("one connection")
}

/// Receives so many bytes on a new connection, which gets the next number. All others have ended.
pub(super) fn stream(receiver: &mut Receiver, seed: u64, bytes: u64) -> Result<()> {
    let Connection {
        receiver: socket,
        sender,
    } = connection()?;
    let before = receiver.received();
    receiver.add(socket, seed)?;
    let sender = Sender::start(sender, seed, bytes);
    receiver.finish(before + bytes)?;
    sender.finish()
}

/// Sees that no page pool is left, and that each has given back what it took.
pub(super) fn pools_released(transcript: &Transcript, ends: &PoolEnds, least: u64) -> Result<()> {
    await_pools(<[_]>::is_empty)?;
    transcript.sees("page pools with a provider's memory", "none");
    // One that has been in another namespace is not seen any more.
    let seen = ends.await_released()?;
    let most = seen.iter().max_by_key(|end| end.hold);
    let most = most.context("no page pool has ended")?;
    transcript.at_least("buffers that it took in its life", most.hold, least)?;
    transcript.is("buffers that it gave back", most.release, most.hold)
}
