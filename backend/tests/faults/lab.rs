//! Two ports with a strict driver each, and a client of the control socket.

use std::time::Duration;

use serde_json::{Value, json};
use zcnic_ctl::client::Client;
use zcnic_model::{
    Driver, Shape,
    frames::{Flow, pattern},
    vhost_user::{Frontend, PATIENCE},
};

use crate::common::World;

/// Long enough to be sure that nothing happens.
pub(crate) const QUIET: Duration = Duration::from_millis(200);

/// Two ports, a client of the control socket, and drivers with 2 data pairs.
pub(crate) struct Lab {
    pub(crate) world: World,
    pub(crate) control: Client,
    pub(crate) a: Driver<Frontend>,
    pub(crate) b: Driver<Frontend>,
}

#[expect(clippy::needless_pass_by_value, reason = "made on the spot")]
impl Lab {
    pub(crate) fn new() -> Self {
        Self::over(World::new())
    }

    /// As [`Self::new`], with ports that are connected in another way than by a cable.
    pub(crate) fn over(world: World) -> Self {
        let mut control = world.control();
        let all = json!({"events": ["fault-hit", "violation", "queue-stop", "link", "connection"]});
        let [mut a, mut b] = world.drivers(3);
        a.bring_up(Shape::SPLIT, 8);
        b.bring_up(Shape::SPLIT, 32);
        let _: Value = control
            .execute("subscribe", Some(&all))
            .expect("subscribed");
        Self {
            world,
            control,
            a,
            b,
        }
    }

    pub(crate) fn ask(&mut self, command: &str, arguments: Value) -> Value {
        self.control
            .execute(command, Some(&arguments))
            .unwrap_or_else(|error| panic!("{command} {arguments}: {error}"))
    }

    pub(crate) fn add(&mut self, port: &str, rule: Value) -> u64 {
        let added = self.ask("fault-add", json!({"port": port, "rules": [rule]}));
        added["ids"][0].as_u64().expect("a number")
    }

    /// A rule for the third frame that port 1 receives, or that port 0 sends.
    pub(crate) fn third(&mut self, direction: &str, action: Value) -> u64 {
        let port = if direction == "rx" { "1" } else { "0" };
        self.add(
            port,
            json!({"direction": direction, "nth": 3, "action": action}),
        )
    }

    pub(crate) fn wait(&mut self, id: u64, hits: u64) -> Value {
        let timeout = PATIENCE.as_nanos() as u64;
        self.ask(
            "fault-wait",
            json!({"id": id, "hits": hits, "timeout": timeout}),
        )
    }

    /// Sends five frames that differ.
    pub(crate) fn send(&mut self) {
        for frame in frames() {
            self.a.send(0, frame);
        }
    }

    /// Those of them that arrive, `count` in number.
    pub(crate) fn received(&mut self, count: usize) -> Vec<Vec<u8>> {
        let received = (0..count).map(|_| self.b.receive(0).frame).collect();
        // All frames have been placed when the sender's chains are returned.
        assert_eq!(self.b.receive_all(), [], "there are more");
        received
    }

    pub(crate) fn event(&mut self) -> Value {
        let event = self.control.event(Some(PATIENCE)).expect("an event");
        serde_json::to_value(event).expect("JSON")
    }
}

pub(crate) fn frames() -> Vec<Vec<u8>> {
    (0..5)
        .map(|number| Flow::tcp4().frame(&pattern(1000 + 10 * number)))
        .collect()
}

pub(crate) fn order(numbers: &[usize]) -> Vec<Vec<u8>> {
    numbers
        .iter()
        .map(|&number| frames()[number].clone())
        .collect()
}
