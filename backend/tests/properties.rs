//! Two drivers that do anything at random, over a real backend that works at the same time.

mod common;

use std::rc::Rc;

use common::World;
use proptest::{collection::vec, prelude::*};
use zcnic_model::steps::{PAIRS, any_step, assert_nothing_is_lost};

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Every buffer and every frame is accounted for.
    #[test]
    fn nothing_is_lost(steps in vec((0..2usize, any_step()), 1..120)) {
        let world = Rc::new(World::new());
        assert_nothing_is_lost(world.drivers(PAIRS), &steps);
    }
}
