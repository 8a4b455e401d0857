//! Zero-copy receive of `io_uring`.

mod areas;
mod buffers;
mod copies;
mod ends;
mod requests;
mod sharing;
mod stream;

use super::case::FeatureCase;
use crate::suites::scenarios;

/// Some are scenarios, too, which explain more.
pub(super) const CASES: &[FeatureCase] = &[
    FeatureCase {
        name: "zcrx: every buffer is returned, and the page pool ends",
        run: buffers::life_cycle,
    },
    FeatureCase {
        name: "zcrx: buffers that are not returned are replaced from the area's free list",
        run: buffers::slow_path,
    },
    FeatureCase {
        name: "zcrx: returned buffers are taken from the refill ring, and none from the free list",
        run: buffers::hot_path,
    },
    FeatureCase {
        name: "zcrx: a full refill ring is emptied by ZCRX_CTRL_FLUSH_RQ",
        run: scenarios::buffers::refill_ring_full,
    },
    FeatureCase {
        name: "zcrx: an area of anonymous memory",
        run: areas::anonymous,
    },
    FeatureCase {
        name: "zcrx: an area of huge pages",
        run: areas::huge_pages,
    },
    FeatureCase {
        name: "zcrx: an area that is a udmabuf, into which the kernel copies nothing",
        run: areas::dmabuf,
    },
    FeatureCase {
        name: "zcrx: buffers of 32 KiB, filled by hardware GRO",
        run: areas::large_buffers,
    },
    FeatureCase {
        name: "zcrx: buffers of 16 KiB in a udmabuf of huge pages",
        run: areas::large_dmabuf_buffers,
    },
    FeatureCase {
        name: "zcrx: an area that is added when the first one is exhausted",
        run: areas::added,
    },
    FeatureCase {
        name: "zcrx: several sockets on one queue",
        run: scenarios::completions::many_sockets,
    },
    FeatureCase {
        name: "zcrx: several instances on several queues",
        run: sharing::several_queues,
    },
    FeatureCase {
        name: "zcrx: an instance that is exported to another ring",
        run: sharing::export,
    },
    FeatureCase {
        name: "zcrx: the queue stays bound until the last ring that has the instance is closed",
        run: sharing::last_ring,
    },
    FeatureCase {
        name: "zcrx: a request that is not multishot is refused",
        run: requests::not_multishot,
    },
    FeatureCase {
        name: "zcrx: one multishot request receives a whole stream",
        run: requests::multishot,
    },
    FeatureCase {
        name: "zcrx: requests of limited length end after exactly that length",
        run: requests::limited,
    },
    FeatureCase {
        name: "zcrx: payloads of a byte are not copied",
        run: copies::tiny_payloads,
    },
    FeatureCase {
        name: "zcrx: linear data is copied: whole frames below hds-thresh",
        run: copies::linear_frames,
    },
    FeatureCase {
        name: "zcrx: linear data is copied: the part of a payload that is left in the headers",
        run: copies::payload_in_header,
    },
    FeatureCase {
        name: "zcrx: frames on the wrong queue are copied, until the area has no buffer left",
        run: scenarios::buffers::copy_fallback,
    },
    FeatureCase {
        name: "zcrx: ZCRX_EVENT_COPY comes once, and once more after it is armed",
        run: copies::copy_event,
    },
    FeatureCase {
        name: "zcrx: ZCRX_EVENT_ALLOC_FAIL comes once, and once more after it is armed",
        run: scenarios::buffers::area_exhausted,
    },
    FeatureCase {
        name: "zcrx: a process is killed with buffers everywhere",
        run: scenarios::teardown::process_killed,
    },
    FeatureCase {
        name: "zcrx: a ring is closed with buffers everywhere",
        run: ends::ring_closed,
    },
    FeatureCase {
        name: "zcrx: a namespace is destroyed with the interface and its provider in it",
        run: ends::namespace_destroyed,
    },
];
