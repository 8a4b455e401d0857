//! Devmem TCP: payload in dmabufs.

mod reader;
mod receive;
mod transmit;

use super::case::Case;

pub(super) const CASES: &[Case] = &[
    Case {
        name: "devmem: payload is in the dmabuf, and SO_DEVMEM_DONTNEED gives buffers back",
        run: receive::tokens,
    },
    Case {
        name: "devmem: buffers of 16 KiB, filled by hardware GRO",
        run: receive::large_buffers,
    },
    Case {
        name: "devmem: linear data comes to the program's buffer, what is left in the headers",
        run: receive::linear,
    },
    Case {
        name: "devmem: frames on the wrong queue are read as usual",
        run: receive::wrong_queue,
    },
    Case {
        name: "devmem: several bindings on several queues",
        run: receive::several_bindings,
    },
    Case {
        name: "devmem: one binding on several queues",
        run: receive::several_queues,
    },
    Case {
        name: "devmem: a binding is closed while its data is in flight",
        run: receive::closed_in_flight,
    },
    Case {
        name: "devmem: tokens that were not returned come back when the socket is closed",
        run: receive::socket_closed,
    },
    Case {
        name: "devmem: a queue has one provider, a dmabuf or io_uring",
        run: receive::one_provider,
    },
    Case {
        name: "devmem: a stream is sent from a dmabuf, without copies",
        run: transmit::stream,
    },
    Case {
        name: "devmem: what can't be sent from a dmabuf is refused",
        run: transmit::refusals,
    },
];
