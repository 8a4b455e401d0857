//! The cables, wires and switches in the result of `query-status`.

use std::sync::atomic::{AtomicU64, Ordering};

use zcnic_ctl::protocol::{
    CableShape as ShapeStatus, CableStatus, LineStatus, SwitchStatus, WireStatus,
};

use super::state::{LinkState, ServerState};
use crate::{
    config::{FlowControl, StreamRole, Wire},
    port::line::Line,
};

/// Cables, wires and switches in the order of the command line.
pub(super) fn status(
    state: &ServerState,
) -> (Vec<CableStatus>, Vec<WireStatus>, Vec<SwitchStatus>) {
    let links = state.links();
    let name = |port: usize| state.entries()[port].port.context.name().to_owned();
    let cables = links.cables.iter().map(|cable| CableStatus {
        ports: cable.ends.map(name),
        pause: cable.flow_control == FlowControl::Pause,
        shape: cable.shape.map(|shape| ShapeStatus {
            rate: shape.rate.map(u64::from),
            delay: u64::try_from(shape.delay.as_nanos()).unwrap_or(u64::MAX),
            loss_ppm: shape.loss,
            seed: shape.seed,
        }),
        lines: cable
            .ends
            .into_iter()
            .filter_map(|end| line(links, end))
            .collect(),
    });
    let wires = links.wires.iter().map(|wire| {
        let (kind, end) = describe(&wire.wire);
        WireStatus {
            port: name(wire.port),
            kind: kind.to_owned(),
            end,
            line: line(links, wire.port),
        }
    });
    let now = state.services().timer.now();
    let switches = links.switches.iter().map(|(config, switch)| SwitchStatus {
        name: config.name.clone(),
        ports: config.ports.iter().map(|&port| name(port)).collect(),
        addresses: switch.addresses(now) as u64,
        forwarded: load(&switch.forwarded),
        flooded: load(&switch.flooded),
    });
    (cables.collect(), wires.collect(), switches.collect())
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// The line that port number `port` sends on.
fn line(links: &LinkState, port: usize) -> Option<LineStatus> {
    let line = links.lines.iter().find(|(sender, _)| *sender == port);
    line.map(|(_, line)| line_to_protocol(line))
}

fn line_to_protocol(line: &Line) -> LineStatus {
    let counters = &line.counters;
    LineStatus {
        up: line.is_up(),
        tx_frames: load(&counters.sent),
        tx_dropped: load(&counters.send_dropped),
        rx_frames: load(&counters.received),
        rx_dropped: load(&counters.receive_dropped),
        lost: load(&counters.lost),
        connections: load(&counters.connections),
    }
}

/// The kind of a wire, and its other end.
fn describe(wire: &Wire) -> (&'static str, Option<String>) {
    match wire {
        Wire::Loopback => ("loopback", None),
        Wire::Null => ("null", None),
        Wire::Generate(_) => ("generate", None),
        Wire::Stream(stream) => {
            let role = match stream.role {
                StreamRole::Connect => "connect",
                StreamRole::Listen => "listen",
            };
            ("stream", Some(format!("{role}={}", stream.address)))
        }
        Wire::Tap(tap) => ("tap", Some(tap.name.clone())),
        Wire::Replay(replay) => ("pcap", Some(replay.file.display().to_string())),
    }
}
