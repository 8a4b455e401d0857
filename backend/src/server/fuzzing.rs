//! A client without a connection, for the fuzzer.

use std::{os::unix::net::UnixStream, sync::Arc};

use zcnic_ctl::protocol::Response;

use super::{client::Client, parse, perform, state::ServerState};
use crate::events::Outbox;

/// A client that has sent all its lines and waits for nothing.
pub(crate) struct Conversation {
    streams: (UnixStream, UnixStream),
    outbox: Arc<Outbox>,
}

impl Default for Conversation {
    fn default() -> Self {
        Self {
            streams: UnixStream::pair().expect("a socket pair"),
            outbox: Arc::default(),
        }
    }
}

impl Conversation {
    /// The answer to a line.
    pub(crate) fn answer(&self, state: &ServerState, line: &[u8]) -> Response {
        let client = Client {
            stream: &self.streams.0,
            outbox: &self.outbox,
            // An empty line behind the request: no command waits.
            more: b"\n",
        };
        parse(line).map_or_else(
            |failure| failure,
            |request| perform(state, request, &client),
        )
    }

    /// Ends what the client asked for: captures and flow counters.
    pub(crate) fn end(self, state: &ServerState) {
        state.services().captures.stop(None, &self.outbox);
        state.remove_all_flow_counters();
    }
}
