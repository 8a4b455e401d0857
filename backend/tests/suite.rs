//! The device's conformance suite, over a real backend.

mod common;

use std::sync::{Arc, Mutex};

use common::World;
use zcnic_model::{Driver, vhost_user::Frontend};

/// Drivers of a fresh backend's two ports.
fn cabled(pairs: u16) -> [Driver<Frontend>; 2] {
    let world = World::new();
    let mut drivers = world.drivers(pairs);
    let world = Arc::new(Mutex::new(world));
    for driver in &mut drivers {
        driver.transport().keep = Some(Arc::clone(&world) as _);
    }
    drivers
}

zcnic_model::suite!(crate::cabled);
