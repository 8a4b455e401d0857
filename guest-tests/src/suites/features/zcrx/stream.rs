//! Streams to the bound queue, and the final counts of its page pool.

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

/// Receives `bytes` bytes on a new connection, which gets the next number. All others have ended.
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

/// Checks that no page pool is left, and that each has released all its buffers.
pub(super) fn pools_released(transcript: &Transcript, ends: &PoolEnds, least: u64) -> Result<()> {
    await_pools(<[_]>::is_empty)?;
    transcript.sees("page pools with a provider's memory", "none");
    // A pool that has been in another namespace is not listed any more.
    let seen = ends.await_released()?;
    let most = seen.iter().max_by_key(|end| end.hold);
    let most = most.context("no page pool has ended")?;
    transcript.at_least("buffers that it has taken in all", most.hold, least)?;
    transcript.is("buffers that it has released", most.release, most.hold)
}
