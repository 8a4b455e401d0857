//! Runs a command while a port loses its first UDP datagram, and checks that it was lost:
//! `arm_a_fault 0 COMMAND…`, in a guest, or with `ZCNIC_CONTROL` as the path of the control socket.

use std::{env, error::Error, process::Command, time::Duration};

use zcnic_ctl::{Action, Client, ClientError, FaultRule, FlowMatch, Protocol};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args().skip(1);
    let port = arguments.next().ok_or("Usage: arm_a_fault PORT COMMAND…")?;
    let program = arguments.next().ok_or("Usage: arm_a_fault PORT COMMAND…")?;
    let mut traffic = Command::new(program);
    traffic.args(arguments);

    let mut client = Client::find()?;
    let hits = lose_a_datagram(&mut client, &port, || {
        if let Err(error) = traffic.status() {
            eprintln!("Command can't be run: {error}");
        }
    })?;
    println!("Port {port} lost {hits} datagram.");
    Ok(())
}

/// Loses the first datagram that `port` receives during `traffic`; returns the number of losses.
pub(crate) fn lose_a_datagram(
    client: &mut Client,
    port: &str,
    traffic: impl FnOnce(),
) -> Result<u64, ClientError> {
    let datagrams = FlowMatch {
        protocol: Some(Protocol::Udp),
        ..FlowMatch::default()
    };
    let rule = FaultRule::rx(Action::Drop).flow(datagrams).times(1);
    let mut fault = client.fault(port, &rule)?;
    traffic();
    let status = fault.wait(1, Duration::from_secs(5))?;
    fault.remove()?;
    Ok(status.hits)
}
