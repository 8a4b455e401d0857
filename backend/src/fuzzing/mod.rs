//! Entry points of the fuzzer (`fuzz/`). Each gives bytes of an outsider to one part of the
//! backend, and panics if an invariant does not hold.

mod chains;
mod control;
mod frontend;
mod guest;
mod memory;

pub use self::{chains::chains, control::control, frontend::frontend, guest::guest};
pub use crate::{
    input::Input,
    vhost::fuzzing::relay,
    wire::fuzzing::{capture, framing},
};
