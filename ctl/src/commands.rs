//! A method for each command.

use std::time::Duration;

use serde::{Serialize, de::IgnoredAny};

use crate::{
    client::{Client, ClientError},
    protocol::{
        CounterId, FlowCounterAdd, FlowCounterAdded, FlowCounterId, FlowCounts, FlowMatch, Stats,
        Status,
        buffers::{BufferHistories, LedgerBuffers},
        command,
        event::{EventKind, Subscribe},
        fault::{
            FaultAdd, FaultId, FaultIds, FaultRemove, FaultRule, FaultStatus, FaultWait, Faults,
        },
        ledger::{BufferHistory, Ledger, LedgerHistory, LedgerSet},
        nanoseconds,
        port::{CaptureStart, Features, FeaturesSet, LinkSet, PortName, Queues, Steering},
        scenario::Scenario,
    },
};

type Result<T> = std::result::Result<T, ClientError>;

/// Commands. Each fails like [`execute`](Self::execute): the backend refused, or the connection
/// failed. Ports have the names of the backend's command line: by `name=`, or their number from 0.
#[expect(clippy::missing_errors_doc, reason = "documented above for all")]
impl Client {
    /// Executes a command without a result.
    fn order(&mut self, command: &str, arguments: &impl Serialize) -> Result<()> {
        self.execute::<IgnoredAny>(command, Some(arguments))
            .map(drop)
    }

    /// State of ports and cables.
    pub fn status(&mut self) -> Result<Status> {
        self.query(command::QUERY_STATUS)
    }

    /// Counters of ports and queue pairs.
    pub fn stats(&mut self) -> Result<Stats> {
        self.query(command::QUERY_STATS)
    }

    /// Features of a port.
    pub fn features(&mut self, port: &str) -> Result<Features> {
        self.execute(command::QUERY_FEATURES, Some(&PortName::new(port)))
    }

    /// Sets the features that the port offers from the next session on; `None`: all.
    pub fn features_set(&mut self, port: &str, offered: Option<&[&str]>) -> Result<()> {
        let offered = offered.map(|names| names.iter().map(ToString::to_string).collect());
        let port = port.to_owned();
        self.order(command::FEATURES_SET, &FeaturesSet { port, offered })
    }

    /// Queue pairs and rings of a port.
    pub fn queues(&mut self, port: &str) -> Result<Queues> {
        self.execute(command::QUERY_QUEUES, Some(&PortName::new(port)))
    }

    /// Address filter, RSS contexts and flow rules of a port.
    pub fn steering(&mut self, port: &str) -> Result<Steering> {
        self.execute(command::QUERY_STEERING, Some(&PortName::new(port)))
    }

    /// Begins to count the frames of a flow that the port receives.
    pub fn flow_counter_add(&mut self, port: &str, flow: FlowMatch) -> Result<CounterId> {
        let add = FlowCounterAdd {
            port: port.to_owned(),
            pattern: flow,
        };
        let added: FlowCounterAdded = self.execute(command::FLOW_COUNTER_ADD, Some(&add))?;
        Ok(added.id)
    }

    /// Counts of a flow by receive queue.
    pub fn flow_counter_query(&mut self, id: CounterId) -> Result<FlowCounts> {
        self.execute(command::FLOW_COUNTER_QUERY, Some(&FlowCounterId { id }))
    }

    /// Removes a flow counter.
    pub fn flow_counter_remove(&mut self, id: CounterId) -> Result<()> {
        self.order(command::FLOW_COUNTER_REMOVE, &FlowCounterId { id })
    }

    /// Adds a fault rule, which stays until it is removed; see also [`fault`](Self::fault).
    pub fn fault_add(&mut self, port: &str, rule: &FaultRule) -> Result<FaultId> {
        let ids = self.fault_add_all(port, std::slice::from_ref(rule))?;
        ids.first().copied().ok_or(ClientError::Incomplete)
    }

    /// Adds all of these rules or none. Returns their numbers in the same order.
    pub fn fault_add_all(&mut self, port: &str, rules: &[FaultRule]) -> Result<Vec<FaultId>> {
        let add = FaultAdd {
            port: port.to_owned(),
            rules: rules.to_vec(),
        };
        let added: FaultIds = self.execute(command::FAULT_ADD, Some(&add))?;
        Ok(added.ids)
    }

    /// Adds the rules of a scenario. If a port refuses its rules, those of the ports before it are
    /// removed again.
    pub fn fault_load(&mut self, scenario: Scenario) -> Result<Vec<FaultId>> {
        let mut all = Vec::new();
        for add in scenario.requests() {
            match self.fault_add_all(&add.port, &add.rules) {
                Ok(ids) => all.extend(ids),
                Err(error) => {
                    for id in all {
                        self.fault_remove(id)?;
                    }
                    return Err(ClientError::Scenario {
                        port: add.port,
                        source: Box::new(error),
                    });
                }
            }
        }
        Ok(all)
    }

    /// Adds a fault rule that is removed with the returned guard.
    ///
    /// ```no_run
    /// # use std::{path::Path, time::Duration};
    /// use zcnic_ctl::{Action, Client, FaultRule};
    ///
    /// # let mut client = Client::connect(Path::new("/tmp/ctl"))?;
    /// let mut fault = client.fault("1", &FaultRule::rx(Action::Drop).nth(3))?;
    /// // … traffic …
    /// fault.wait(1, Duration::from_secs(5))?;
    /// fault.remove()?;
    /// # Ok::<(), zcnic_ctl::ClientError>(())
    /// ```
    pub fn fault(&mut self, port: &str, rule: &FaultRule) -> Result<Fault<'_>> {
        let id = self.fault_add(port, rule)?;
        Ok(Fault {
            client: self,
            id,
            armed: true,
        })
    }

    /// The rules of all ports.
    pub fn fault_list(&mut self) -> Result<Vec<FaultStatus>> {
        let list: Faults = self.query(command::FAULT_LIST)?;
        Ok(list.faults)
    }

    /// Waits until a rule has hit `hits` times, all queues together. If it does not in time, the
    /// error [is a timeout](ClientError::is_timeout).
    pub fn fault_wait(&mut self, id: FaultId, hits: u64, timeout: Duration) -> Result<FaultStatus> {
        let timeout = nanoseconds(timeout);
        self.execute(command::FAULT_WAIT, Some(&FaultWait { id, hits, timeout }))
    }

    /// Removes a rule. Frames that it holds back are sent, chains returned.
    pub fn fault_remove(&mut self, id: FaultId) -> Result<()> {
        let (id, port) = (Some(id), None);
        self.order(command::FAULT_REMOVE, &FaultRemove { id, port })
    }

    /// Removes all rules of a port.
    pub fn fault_remove_all(&mut self, port: &str) -> Result<()> {
        let (id, port) = (None, Some(port.to_owned()));
        self.order(command::FAULT_REMOVE, &FaultRemove { id, port })
    }

    /// Starts a new ledger for every receive queue of a port.
    pub fn ledger_set(&mut self, settings: &LedgerSet) -> Result<()> {
        self.order(command::LEDGER_SET, settings)
    }

    /// The ledger of a port's receive buffers.
    pub fn ledger(&mut self, port: &str) -> Result<Ledger> {
        self.execute(command::QUERY_LEDGER, Some(&PortName::new(port)))
    }

    /// The last transfers of the buffer at a guest-physical address.
    pub fn ledger_history(
        &mut self,
        port: &str,
        queue: u16,
        address: u64,
    ) -> Result<BufferHistory> {
        let history = LedgerHistory {
            port: port.to_owned(),
            queue,
            address,
        };
        self.execute(command::LEDGER_HISTORY, Some(&history))
    }

    /// The buffers that a queue's ledger knows, from a guest-physical address on: at most 512, with
    /// the address to continue at.
    pub fn ledger_buffers(&mut self, port: &str, queue: u16, from: u64) -> Result<BufferHistories> {
        let port = port.to_owned();
        let asked = LedgerBuffers { port, queue, from };
        self.execute(command::LEDGER_BUFFERS, Some(&asked))
    }

    /// Switches the carrier of a port off or on.
    pub fn link_set(&mut self, port: &str, up: bool) -> Result<()> {
        let port = port.to_owned();
        self.order(command::LINK_SET, &LinkSet { port, up })
    }

    /// Resets the device: its session ends, and its configuration is erased.
    pub fn reset(&mut self, port: &str) -> Result<()> {
        self.order(command::DEVICE_RESET, &PortName::new(port))
    }

    /// Ends the connection of a port to the virtual machine monitor.
    pub fn disconnect(&mut self, port: &str) -> Result<()> {
        self.order(command::DISCONNECT, &PortName::new(port))
    }

    /// Begins to send the frames of a port as [events](Self::event), with the first `length` bytes
    /// of each, or with all.
    pub fn capture_start(&mut self, port: &str, length: Option<u32>) -> Result<()> {
        let port = port.to_owned();
        self.order(command::CAPTURE_START, &CaptureStart { port, length })
    }

    /// Ends a capture.
    pub fn capture_stop(&mut self, port: &str) -> Result<()> {
        self.order(command::CAPTURE_STOP, &PortName::new(port))
    }

    /// Sets the kinds of [events](Self::event) that the backend sends; none ends the subscription.
    pub fn subscribe(&mut self, kinds: &[EventKind]) -> Result<()> {
        let events = kinds.to_vec();
        self.order(command::SUBSCRIBE, &Subscribe { events })
    }
}

/// A fault rule that is in force until this is dropped.
#[derive(Debug)]
#[must_use = "the rule is removed when this is dropped"]
pub struct Fault<'client> {
    client: &'client mut Client,
    id: FaultId,
    armed: bool,
}

impl Fault<'_> {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> FaultId {
        self.id
    }

    /// The client, for other commands while the rule is in force.
    pub fn client(&mut self) -> &mut Client {
        self.client
    }

    /// Waits until the rule has hit `hits` times, all queues together.
    ///
    /// # Errors
    ///
    /// It did not within `timeout` ([`ClientError::is_timeout`]), or the connection failed.
    pub fn wait(&mut self, hits: u64, timeout: Duration) -> Result<FaultStatus> {
        self.client.fault_wait(self.id, hits, timeout)
    }

    /// Frames or commands that the rule has hit so far.
    ///
    /// # Errors
    ///
    /// The rule has been removed by another client, or the connection failed.
    pub fn hits(&mut self) -> Result<u64> {
        Ok(self.wait(0, Duration::ZERO)?.hits)
    }

    /// Removes the rule.
    ///
    /// # Errors
    ///
    /// Another client removed it before, or the connection failed. Dropping it ignores both.
    pub fn remove(mut self) -> Result<()> {
        self.armed = false;
        self.client.fault_remove(self.id)
    }
}

impl Drop for Fault<'_> {
    fn drop(&mut self) {
        if self.armed {
            // The connection may be what failed.
            let _ = self.client.fault_remove(self.id);
        }
    }
}
