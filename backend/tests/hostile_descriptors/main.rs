//! Frontends and clients that use descriptors, connections and files against the daemon. Whatever
//! they do, two other ports exchange frames, the control socket answers, and SIGTERM ends the
//! process.

mod calls;
mod daemon;
mod end;
mod files;
mod handshake;
mod kinds;
mod limits;
