//! What changes a port: commands of the driver, messages of the frontend, requests of the control server.

pub(crate) mod admin;
pub(crate) mod command;
mod frontend;
