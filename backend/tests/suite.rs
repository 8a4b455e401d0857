//! What a zcnic port must do, over a real backend.

mod common;

use std::{any::Any, rc::Rc};

use common::World;
use zcnic_model::{Driver, vhost_user::Frontend};

/// Drivers of a fresh backend's two ports.
fn cabled(pairs: u16) -> [Driver<Frontend>; 2] {
    let world = Rc::new(World::new());
    let mut drivers = world.drivers(pairs);
    for driver in &mut drivers {
        driver.transport().keep = Some(Rc::clone(&world) as Rc<dyn Any>);
    }
    drivers
}

zcnic_model::suite!(crate::cabled);
