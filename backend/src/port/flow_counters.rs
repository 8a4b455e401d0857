//! Counters of single flows, set over the control socket: which queues a flow's frames reached, and
//! how they were placed there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use zcnic_ctl::protocol::{FlowCount, FlowMatch};
use zcnic_device::{flow::FlowPattern, frame::Headers, receive::Delivered};

use crate::{protocol, sync::lock};

/// The most counters that one port keeps.
const MAX_FLOWS: usize = 64;

/// The flow counters of one port.
///
/// Lock order: the list, then the counts of one flow.
#[derive(Debug, Default)]
pub(crate) struct FlowCounters(Mutex<Arc<Vec<Arc<FlowCounter>>>>);

#[derive(Debug)]
struct FlowCounter {
    id: u64,
    pattern: FlowPattern,
    queues: Mutex<BTreeMap<u16, FlowCount>>,
}

impl FlowCounters {
    /// Adds counter `id` for frames that match `pattern`; returns `false` if there are too many.
    pub(crate) fn add(&self, id: u64, pattern: FlowMatch) -> bool {
        let mut flows = lock(&self.0);
        if flows.len() >= MAX_FLOWS {
            return false;
        }
        let flow = FlowCounter {
            id,
            pattern: protocol::pattern_from_protocol(pattern),
            queues: Mutex::default(),
        };
        Arc::make_mut(&mut flows).push(Arc::new(flow));
        true
    }

    /// Removes counter `id`; returns whether it existed.
    pub(crate) fn remove(&self, id: u64) -> bool {
        let mut flows = lock(&self.0);
        let before = flows.len();
        Arc::make_mut(&mut flows).retain(|flow| flow.id != id);
        flows.len() < before
    }

    /// The counts of counter `id`, by queue.
    pub(crate) fn query(&self, id: u64) -> Option<BTreeMap<u16, FlowCount>> {
        let flows = Arc::clone(&lock(&self.0));
        let flow = flows.iter().find(|flow| flow.id == id)?;
        Some(lock(&flow.queues).clone())
    }

    /// The counters of now; the data path asks once per batch.
    pub(crate) fn current(&self) -> ActiveFlowCounters {
        ActiveFlowCounters(Arc::clone(&lock(&self.0)))
    }
}

/// The flow counters in use while a batch is delivered.
pub(crate) struct ActiveFlowCounters(Arc<Vec<Arc<FlowCounter>>>);

impl ActiveFlowCounters {
    /// Counts the delivery of a train, or of a part of it, that was steered to `queue`.
    #[inline]
    pub(crate) fn count(
        &self,
        headers: &Headers,
        header_bytes: &[u8],
        queue: u16,
        delivered: &Delivered,
    ) {
        if !self.0.is_empty() {
            self.count_matching(headers, header_bytes, queue, delivered);
        }
    }

    fn count_matching(
        &self,
        headers: &Headers,
        header_bytes: &[u8],
        queue: u16,
        delivered: &Delivered,
    ) {
        for flow in self
            .0
            .iter()
            .filter(|flow| flow.pattern.matches(headers, header_bytes))
        {
            let mut queues = lock(&flow.queues);
            let count = queues.entry(queue).or_default();
            count.delivered += u64::from(delivered.frames);
            count.split += u64::from(delivered.split);
            count.unsplit += u64::from(delivered.unsplit);
            count.dropped += u64::from(delivered.dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ethernet, IPv4 10.0.0.1 to 10.0.0.2, UDP 1000 to 2000, 4 bytes of payload.
    fn frame() -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([
            0x45, 0, 0, 32, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ]);
        frame.extend([0x03, 0xe8, 0x07, 0xd0, 0, 12, 0, 0, 1, 2, 3, 4]);
        frame
    }

    #[test]
    fn counts_by_queue_until_removed() {
        let frame = frame();
        let headers = Headers::parse(&frame, frame.len());
        let flows = FlowCounters::default();
        assert!(flows.add(7, FlowMatch::default()));
        let delivered = Delivered {
            frames: 3,
            split: 2,
            unsplit: 1,
            dropped: 4,
            ..Delivered::default()
        };
        flows.current().count(&headers, &frame, 5, &delivered);
        flows.current().count(&headers, &frame, 5, &delivered);
        let counts = flows.query(7).expect("counter");
        let expected = FlowCount {
            delivered: 6,
            split: 4,
            unsplit: 2,
            dropped: 8,
        };
        assert_eq!(counts.into_iter().collect::<Vec<_>>(), [(5, expected)]);
        assert!(flows.remove(7));
        assert!(flows.query(7).is_none() && !flows.remove(7));
    }

    #[test]
    fn counters_are_bounded() {
        let flows = FlowCounters::default();
        let added = (0..1000)
            .filter(|&id| flows.add(id, FlowMatch::default()))
            .count();
        assert_eq!(added, MAX_FLOWS);
    }
}
