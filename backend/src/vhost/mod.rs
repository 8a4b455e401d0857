//! The vhost-user side of a port: a frontend's connection, and rings as the vhost-user crate sees
//! them.

pub(crate) mod connection;
mod relay;
mod vring;
