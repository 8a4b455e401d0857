//! Guests with zcnic ports: what they are made of, how they boot, and commands in them.

#![forbid(unsafe_code)]

pub mod acceleration;
pub mod agent;
pub mod backend;
pub mod control;
pub mod guest;
pub mod machine;
pub mod paths;
pub mod process;
pub mod provision;
pub mod qmp;
pub mod sandbox;
pub mod setup;
pub mod step;
pub mod stream;
pub mod violations;
