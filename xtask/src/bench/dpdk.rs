//! Compares with DPDK's vhost library: the vhost driver of another testpmd.

use anyhow::Result;
use zcnic_testbed::{
    backend::Programs,
    provision::buildroot::{BuildRoot, WORK},
    step::step,
};

use super::{
    figure::Figure,
    interleaved::{Comparison, Forwarding, Pair},
    method::Method,
};

/// Bytes of frames, without the frame check sequence, which virtio does not carry.
const SIZES: [u16; 3] = [64, 256, 1500];

/// The comparisons: forwarding, sizes of frames, number of queues.
const COMPARISONS: [(Forwarding, &[u16], u16); 6] = [
    (Forwarding::Loop, &SIZES, 1),
    (Forwarding::Sink, &SIZES, 1),
    (Forwarding::Source, &SIZES, 1),
    (Forwarding::Loop, SIZES.split_at(1).0, 4),
    (Forwarding::Sink, SIZES.split_at(1).0, 4),
    (Forwarding::Source, SIZES.split_at(1).0, 4),
];

pub(crate) fn measure(
    testpmd: &BuildRoot,
    programs: &Programs,
    method: Method,
) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (forwarding, sizes, queues) in COMPARISONS {
        let (name, plural) = (forwarding.name(), if queues == 1 { "" } else { "s" });
        let what = format!("testpmd and DPDK's vhost: {name}, {queues} queue{plural}");
        let compare = || -> Result<Vec<Figure>> {
            let comparison = Comparison {
                testpmd,
                programs,
                method,
                forwarding,
                queues,
                options: Vec::new(),
                work: Comparison::work()?,
            };
            let vhost = format!("net_vhost0,iface={WORK}/vhost.sock,queues={queues}");
            let vhost = comparison.testpmd("vhost", &vhost, &[], method.cpus)?;
            let frontend = comparison.frontend("theirs", "vhost.sock")?;
            comparison.compare(
                "dpdk",
                &mut Pair::new(frontend, Some(vhost), forwarding)?,
                sizes,
            )
        };
        figures.extend(step(&what, compare)?);
    }
    Ok(figures)
}
