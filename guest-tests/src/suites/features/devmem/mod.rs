//! Devmem TCP: payload in dmabufs.

mod receive;
mod transmit;

use super::case::FeatureCase;

pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "devmem: payload is in the dmabuf, and SO_DEVMEM_DONTNEED returns buffers",
        run: receive::tokens,
    },
    FeatureCase {
        name: "devmem: buffers of 16 KiB, filled by hardware GRO",
        run: receive::large_buffers,
    },
    FeatureCase {
        name: "devmem: linear data, left in the headers, comes to the program's buffer",
        run: receive::linear,
    },
    FeatureCase {
        name: "devmem: frames on the wrong queue are read as usual",
        run: receive::wrong_queue,
    },
    FeatureCase {
        name: "devmem: several bindings on several queues",
        run: receive::several_bindings,
    },
    FeatureCase {
        name: "devmem: one binding on several queues",
        run: receive::several_queues,
    },
    FeatureCase {
        name: "devmem: a binding is closed while its data is in flight",
        run: receive::closed_in_flight,
    },
    FeatureCase {
        name: "devmem: tokens that were not returned are reclaimed when the socket is closed",
        run: receive::socket_closed,
    },
    FeatureCase {
        name: "devmem: a queue has one provider, a dmabuf or io_uring",
        run: receive::one_provider,
    },
    FeatureCase {
        name: "devmem: a stream is sent from a dmabuf, without copies",
        run: transmit::stream,
    },
    FeatureCase {
        name: "devmem: invalid sends from a dmabuf are refused",
        run: transmit::refusals,
    },
];
