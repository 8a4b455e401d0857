//! Frames as they cross the wire, told to clients of the control socket that want to see those of a port.
//!
//! A backend in which nobody captures pays one load per batch. Otherwise each frame is finished, as its
//! receiver shall see it, and offered to whoever captures, who is never waited for.

use std::{sync::Arc, time::SystemTime};

use zcnic_ctl::protocol::fault::Direction;
use zcnic_device::{
    memory::Mover,
    train::{Train, finish_into},
};

use crate::{
    port::{End, Port},
    sync::lock,
};

impl Port {
    /// Trains that were sent have crossed the wire, if there is one.
    pub(crate) fn captured<'t, M>(
        &self,
        mover: &M,
        trains: impl Iterator<Item = &'t Train<'t, M::Source>>,
    ) where
        M: Mover,
        M::Source: 't,
    {
        let mut frame = Vec::new();
        for train in trains {
            for index in 0..train.segments() {
                finish_into(mover, train, index, &mut frame);
                self.captured_frame(&frame);
            }
        }
    }

    /// A frame that was sent has crossed the wire, if there is one.
    pub(crate) fn captured_frame(&self, frame: &[u8]) {
        match self.end() {
            Some(End::Port(peer, _)) => {
                self.tell(Direction::Tx, frame);
                peer.tell(Direction::Rx, frame);
            }
            Some(End::Null) => self.tell(Direction::Tx, frame),
            None => {}
        }
    }

    /// Tells of a frame that this port sent or received.
    pub(crate) fn tell(&self, direction: Direction, frame: &[u8]) {
        let captures = Arc::clone(&lock(&self.hub.captures.list));
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let time = u64::try_from(time.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX);
        for capture in captures.iter().filter(|capture| capture.port == self.index) {
            capture.tell(&self.name, direction, time, frame);
        }
    }
}
