//! Netfilter rules that look at headers, and at payload.

use anyhow::{Context, Result};

use super::{
    datagrams::{Bound, COUNT, Destination, FILL, HERE, listen, send, take},
    far::run,
};
use crate::{
    fixture::{lab::Lab, transcript::Transcript},
    kit::net,
};

/// Datagrams that the rules of a table have counted.
fn counted() -> Result<[u64; 2]> {
    let output = net::run(None, &["nft", "list", "table", "ip", "watch"])?;
    let mut counts = output.lines().filter_map(|line| {
        let (_, count) = line.split_once("counter packets ")?;
        count.split(' ').next()?.parse().ok()
    });
    let mut next = || counts.next().with_context(|| output.clone());
    Ok([next()?, next()?])
}

pub(super) fn netfilter(_: &mut Lab, transcript: &Transcript) -> Result<()> {
    let _bound = Bound::new()?;
    for (port, read) in [(Destination::Readable, COUNT), (Destination::Unreadable, 0)] {
        run(None, "nft add table ip watch")?;
        run(
            None,
            "nft add chain ip watch input { type filter hook input priority 0 ; }",
        )?;
        let number = port as u16;
        for rule in [
            format!("udp dport {number} counter"),
            // A byte of payload, behind the header of 64 bits.
            format!("udp dport {number} @th,64,8 {FILL:#x} counter"),
        ] {
            run(None, &format!("nft add rule ip watch input {rule}"))?;
        }
        let socket = listen(None, port)?;
        send(HERE, port)?;
        take(&socket)?;
        let counted = counted();
        run(None, "nft delete table ip watch")?;
        let [headers, payload] = counted?;
        transcript.is(&format!("{port:?}: matched by header"), headers, COUNT)?;
        transcript.is("matched by payload", payload, read)?;
    }
    Ok(())
}
