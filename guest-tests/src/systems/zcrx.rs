//! Zero-copy receive of `io_uring`.

use anyhow::{Context, Result};

use super::Case;
use crate::{
    lab::{
        Lab,
        connection::{Sender, connect},
        device::{await_pools, provider_pool},
        receiver::Receiver,
        story::Story,
        traffic::ZERO_COPY,
    },
    zcrx::Options,
};

const QUEUE: u32 = ZERO_COPY.0;
const PORT: u16 = ZERO_COPY.1;

pub(super) const CASES: &[Case] = &[Case {
    name: "zcrx: every buffer that was handed out comes back, and the page pool goes",
    run: life_cycle,
}];

fn life_cycle(_: &mut Lab, story: &Story) -> Result<()> {
    const BYTES: u64 = 4 << 20;
    let mut receiver = Receiver::new(QUEUE, &Options::default())?;
    let connection = connect(PORT, 1)?.pop().context("one connection")?;
    receiver.keep(true);
    receiver.add(connection.receiver, 1)?;
    let sender = Sender::start(connection.sender, 1, BYTES);
    receiver.finish(BYTES)?;
    sender.finish()?;
    let held = receiver.held() as u64;
    story.sees("buffers at the user's", held);
    story.sees("buffers out of the page pool", provider_pool()?.inflight);
    receiver.give_back();
    while receiver.zcrx.pending_returns() > 0 {
        receiver.zcrx.flush()?;
    }
    story.is("buffers taken back", receiver.taken_back(), held)?;
    drop(receiver);
    await_pools(<[_]>::is_empty)
}
