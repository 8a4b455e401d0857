//! Arms a fault over the control socket and waits for its event:
//! `cargo run -p zcnic-ctl --example arm_a_fault -- /tmp/ctl`, with `zcnic --control /tmp/ctl`
//! running.

use std::{env, error::Error, path::Path};

use zcnic_ctl::{
    client::Client,
    protocol::{
        Status, command,
        event::{Event, EventKind, FaultHit, Subscribe},
        fault::{FaultAdd, FaultIds, FaultRule},
    },
};

fn main() -> Result<(), Box<dyn Error>> {
    let socket = env::args_os().nth(1).ok_or("Usage: arm_a_fault SOCKET")?;
    let mut client = Client::connect(Path::new(&socket))?;

    let status: Status = client.query(command::QUERY_STATUS)?;
    let port = status.ports.first().ok_or("The backend has no ports")?;
    let rule = arm(&mut client, &port.name)?;
    println!(
        "The next frame that port {} receives is dropped.",
        port.name
    );

    let hit = wait_for_hit(&mut client, rule)?;
    println!("Rule {} dropped a frame of queue {}.", hit.id, hit.queue);
    Ok(())
}

/// Subscribes to hits and adds a rule that drops the first frame of each receive queue of `port`.
/// Returns the rule's number.
pub(crate) fn arm(client: &mut Client, port: &str) -> Result<u64, Box<dyn Error>> {
    let subscription = Subscribe {
        events: vec![EventKind::FaultHit],
    };
    let _: serde_json::Value = client.execute(command::SUBSCRIBE, Some(&subscription))?;

    // Rules have many optional fields: JSON leaves them out.
    let rule: FaultRule =
        serde_json::from_str(r#"{"direction": "rx", "nth": 1, "action": "drop"}"#)?;
    let add = FaultAdd {
        port: port.to_owned(),
        rules: vec![rule],
    };
    let FaultIds { ids } = client.execute(command::FAULT_ADD, Some(&add))?;
    ids.first()
        .copied()
        .ok_or_else(|| "The backend added no rule".into())
}

/// Waits until the rule hits, without a timeout.
pub(crate) fn wait_for_hit(client: &mut Client, rule: u64) -> Result<FaultHit, Box<dyn Error>> {
    loop {
        match client.event(None)? {
            Event::FaultHit(hit) if hit.id == rule => return Ok(hit),
            Event::Lost(lost) => return Err(format!("{} events were lost", lost.count).into()),
            _ => {}
        }
    }
}
