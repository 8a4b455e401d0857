//! The work of frontends and control clients that a blow interrupts.

use std::{path::Path, thread, time::Duration};

use serde_json::json;
use zcnic_ctl::{Client, ClientError, EventKind, FaultRule};
use zcnic_device::abi::{self, RuleAction, RuleType};
use zcnic_model::{
    Driver, Shape,
    frames::{Flow, pattern},
    vhost_user::{self, Frontend},
};

use crate::point::Moment;

const PAIRS: u16 = 4;
const RING_SIZE: u16 = 512;
/// Receive chains per queue.
const BUFFERS: usize = 64;
/// The queue of the steered flow, which restarts with other buffers.
pub(crate) const STEERED: u16 = 2;

/// Connects a driver to a port, and configures it.
pub(crate) fn connect(path: &Path) -> Driver<Frontend> {
    let mut driver = vhost_user::connect(path, PAIRS, RING_SIZE);
    configure(&mut driver);
    driver
}

/// Begins a session and configures it: one flow is steered to [`STEERED`], everything else to
/// queue 0.
pub(crate) fn configure(driver: &mut Driver<Frontend>) {
    driver.bring_up(Shape::SPLIT, BUFFERS);
    set_rule(driver).expect("a rule");
}

fn set_rule(driver: &mut Driver<Frontend>) -> Result<(), zcnic_model::Failure> {
    let mut rule = abi::Rule {
        rule_type: RuleType::Tcp4.into(),
        action: RuleAction::Queue.into(),
        queue: STEERED.into(),
        ..Default::default()
    };
    rule.value.l4_dst = 2000.into();
    rule.mask.l4_dst = u16::MAX.into();
    driver.set_rules(&[rule])
}

/// A frontend at work.
pub(crate) struct Worker<'p> {
    path: &'p Path,
    moment: Moment,
    /// None only while a connection is replaced.
    driver: Option<Driver<Frontend>>,
    rounds: u64,
}

impl<'p> Worker<'p> {
    pub(crate) fn new(path: &'p Path, moment: Moment) -> Self {
        Self {
            path,
            moment,
            driver: Some(connect(path)),
            rounds: 0,
        }
    }

    /// The driver, unless its connection was lost while it was being replaced.
    pub(crate) fn into_driver(self) -> Option<Driver<Frontend>> {
        self.driver
    }

    /// Works for a moment.
    ///
    /// # Panics
    ///
    /// The backend is gone, or did anything wrong.
    pub(crate) fn round(&mut self) {
        self.rounds += 1;
        let driver = self.driver.as_mut().expect("a connection");
        if self.moment == Moment::Idle {
            thread::sleep(Duration::from_millis(1));
            return;
        }
        exchange(driver, self.rounds);
        match self.moment {
            Moment::Idle | Moment::Traffic => {}
            Moment::Command => set_rule(driver).expect("a rule"),
            Moment::Bind => {
                let shapes = [Shape::linear(2048), Shape::SPLIT];
                let shape = shapes[self.rounds as usize % shapes.len()];
                driver.stop_receive(STEERED).expect("a stop");
                driver.post(STEERED, shape, BUFFERS);
                driver.start_receive(STEERED, shape).expect("a start");
            }
            Moment::Stop => {
                for queue in 0..driver.data_pairs() {
                    driver.stop_transmit(queue).expect("a stop");
                    driver.stop_receive(queue).expect("a stop");
                }
                for queue in 0..driver.data_pairs() {
                    driver.post(queue, Shape::SPLIT, BUFFERS);
                    driver.start_receive(queue, Shape::SPLIT).expect("a start");
                    driver.start_transmit(queue).expect("a start");
                }
            }
            Moment::Suspend => {
                let frontend = driver.transport();
                let bases = frontend.stop_all();
                frontend.start_all(|ring| bases[ring]);
            }
            Moment::Teardown => {
                self.driver = None;
                self.driver = Some(connect(self.path));
            }
        }
    }
}

/// Sends some frames, takes those that came, and posts buffers in their place.
fn exchange(driver: &mut Driver<Frontend>, round: u64) {
    for queue in 0..driver.data_pairs() {
        if driver.unsent(queue) < usize::from(RING_SIZE) / 4 {
            let size = 100 + (round * 331 % 3000) as usize;
            driver.enqueue(queue, Flow::tcp4().frame(&pattern(size)));
            driver.enqueue(queue, Flow::udp6().frame(&pattern(size / 10)));
        }
    }
    driver.receive_all();
    // The buffers of the steered flow's queue change their shape.
    for queue in (0..driver.data_pairs()).filter(|queue| *queue != STEERED) {
        let missing = BUFFERS.saturating_sub(driver.posted(queue));
        driver.post(queue, Shape::SPLIT, missing);
    }
}

/// Checks that a frame of the steered flow arrives on its queue.
pub(crate) fn assert_steered(from: &mut Driver<Frontend>, to: &mut Driver<Frontend>, mark: u8) {
    // Frames in flight would use up the buffers.
    (0..from.data_pairs()).for_each(|queue| from.flush(queue));
    to.receive_all();
    to.stop_receive(STEERED).expect("a stop");
    to.receive_all();
    to.post(STEERED, Shape::SPLIT, BUFFERS);
    to.start_receive(STEERED, Shape::SPLIT).expect("a start");
    let frame = Flow::tcp4().frame(&[mark; 900]);
    from.send(1, &frame[..]);
    while to.receive(STEERED).frame != frame {}
}

/// Works as a control client for as long as `goes_on`.
///
/// # Errors
///
/// The connection was lost, or a command was refused.
pub(crate) fn control(
    path: &Path,
    moment: Moment,
    ready: impl FnOnce(),
    mut goes_on: impl FnMut() -> bool,
) -> Result<(), ClientError> {
    let mut client = Client::connect(path)?;
    let stall = |queue: u16| -> Result<FaultRule, ClientError> {
        let rule = json!({"direction": "tx", "queue": queue, "action": {"stall": {}}});
        Ok(serde_json::from_value(rule)?)
    };
    if moment == Moment::Traffic {
        client.subscribe(&EventKind::ALL)?;
        client.capture_start("0", None)?;
    }
    ready();
    while goes_on() {
        match moment {
            Moment::Idle | Moment::Traffic => thread::sleep(Duration::from_millis(1)),
            Moment::Command => {
                client.stats()?;
                client.steering("1")?;
            }
            Moment::Bind => {
                client.capture_start("1", Some(64))?;
                client.capture_stop("1")?;
            }
            Moment::Stop => {
                client.fault_add("1", &stall(1)?)?;
                client.fault_remove_all("1")?;
            }
            Moment::Suspend => {
                let rule = client.fault_add("1", &stall(2)?)?;
                let waited = client.fault_wait(rule, u64::MAX, Duration::from_millis(200));
                if !waited.as_ref().is_err_and(ClientError::is_timeout) {
                    waited?;
                }
                client.fault_remove(rule)?;
            }
            Moment::Teardown => client = Client::connect(path)?,
        }
    }
    Ok(())
}
