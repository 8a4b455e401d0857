//! VLAN stripping on receive.

use super::{Annotation, Delivered, ReceiveQueue};
use crate::{
    frame::{SNAPSHOT, VLAN_TAG},
    memory::{Mover, ReceiveRing},
    train::Train,
};

/// A train without its tag, its header bytes in `header_bytes`, and its metadata with the tag.
/// `None`: it has no tag that can be stripped.
pub(super) fn stripped<'b, S: ?Sized>(
    train: &Train<'b, S>,
    header_bytes: &'b mut [u8; SNAPSHOT],
    note: &Annotation,
) -> Option<(Train<'b, S>, Annotation)> {
    let vlan = Some(train.headers().vlan?);
    Some((
        train.without_vlan_tag(header_bytes)?,
        Annotation { vlan, ..*note },
    ))
}

impl ReceiveQueue {
    /// Counts the bytes of stripped tags, which these frames had on the wire but not in their
    /// buffers.
    pub(super) fn count_stripped_tags(&mut self, frames: u32) {
        self.counters.bytes += u64::from(frames) * VLAN_TAG as u64;
    }

    /// Does the work of [`deliver`](Self::deliver) without the train's tag; `None` if it has none
    /// that can be stripped.
    #[cold]
    pub(super) fn deliver_stripped<M, R>(
        &mut self,
        mover: &M,
        ring: &mut R,
        train: &Train<'_, M::Source>,
        from: usize,
        note: &Annotation,
    ) -> Option<Delivered>
    where
        M: Mover,
        R: ReceiveRing<Target = M::Target>,
    {
        let mut header_bytes = [0; SNAPSHOT];
        let (train, note) = stripped(train, &mut header_bytes, note)?;
        let delivered = self.deliver_as_is(mover, ring, &train, from, &note);
        self.count_stripped_tags(delivered.frames);
        Some(delivered)
    }
}
