//! The threads of wires to the outside and of shaped cables.
//!
//! Each thread carries the frames of one outlet of a [`Line`], and brings frames to the port. It is
//! the only user of its descriptor, which never blocks. It holds no lock while it waits.

mod cable;
mod framing;
#[cfg(feature = "fuzzing")]
pub(crate) mod fuzzing;
mod replay;
mod stream;
mod tap;
mod tun;
mod wait;

use std::{io, path::PathBuf, sync::Arc};

use thiserror::Error;

use crate::{
    config::{CableConfig, FlowControl, ReplayConfig, SocketMode, StreamConfig, TapConfig, Wire},
    port::{
        Port,
        generator::Generator,
        line::{Line, Sink},
        shaper::Shaper,
    },
    socket::SocketError,
};

/// Why a wire can't be opened.
#[derive(Debug, Error)]
pub enum WireError {
    /// The socket of a listening stream can't be made.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The TCP port of a listening stream can't be bound.
    #[error("Can't listen on {0}")]
    Listen(String, #[source] io::Error),
    /// A tap can't be opened.
    #[error("Can't open tap {name}{hint}")]
    Tap {
        /// The interface.
        name: String,
        /// What to do about it.
        hint: &'static str,
        /// The reason.
        #[source]
        error: io::Error,
    },
    /// A capture can't be read.
    #[error("Can't replay {file}: {reason}")]
    Capture {
        /// The file.
        file: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The system has no more file descriptors.
    #[error(transparent)]
    Resources(#[from] io::Error),
}

/// Descriptors of a wire that come and go: a peer, and one that is refused or tried next.
pub(crate) const DESCRIPTORS: usize = 2;

/// What a thread of a wire does.
pub(crate) type Body = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// A line with the bodies of its threads.
pub(crate) struct OpenLine {
    pub(crate) line: Arc<Line>,
    pub(crate) threads: Vec<Body>,
}

/// Plugs `port` into `wire`, whose socket has permissions of `mode` if it listens on one. Returns the
/// line of a wire that has threads.
///
/// # Errors
///
/// The wire can't be opened.
pub(crate) fn plug(
    port: &Arc<Port>,
    wire: &Wire,
    mode: SocketMode,
) -> Result<Option<OpenLine>, WireError> {
    let open = match wire {
        Wire::Loopback => {
            port.plug(port, FlowControl::Drop);
            return Ok(None);
        }
        Wire::Null => {
            port.plug_null();
            return Ok(None);
        }
        Wire::Generate(config) => {
            port.plug_generator(Generator::new(config));
            return Ok(None);
        }
        Wire::Stream(config) => open_stream(port, config, mode)?,
        Wire::Tap(config) => open_tap(port, config)?,
        Wire::Replay(config) => open_replay(port, config)?,
    };
    port.plug_line(&open.line);
    Ok(Some(open))
}

/// Connects two ports by a cable. Returns the lines of a shaped one.
///
/// # Errors
///
/// The system has no more file descriptors.
pub(crate) fn connect(
    [a, b]: [&Arc<Port>; 2],
    cable: &CableConfig,
) -> Result<Vec<OpenLine>, WireError> {
    let flow_control = cable.flow_control;
    let Some(shape) = cable.shape else {
        a.plug(b, flow_control);
        b.plug(a, flow_control);
        return Ok(Vec::new());
    };
    let line = |number| Line::shaped(Shaper::new(shape, number), flow_control).map(Arc::new);
    let (there, back) = (line(0)?, line(1)?);
    a.plug_shaped(b, flow_control, [&there, &back]);
    b.plug_shaped(a, flow_control, [&back, &there]);
    let open = |line: Arc<Line>, ends: [&Arc<Port>; 2]| {
        let [from, to] = ends.map(Arc::clone);
        let shared = Arc::clone(&line);
        OpenLine {
            line,
            threads: vec![Box::new(move || cable::run(&from, &to, &shared))],
        }
    };
    Ok(vec![open(there, [a, b]), open(back, [b, a])])
}

fn open_stream(
    port: &Arc<Port>,
    config: &StreamConfig,
    mode: SocketMode,
) -> Result<OpenLine, WireError> {
    let line = Arc::new(Line::new(Sink::Frames, config.flow_control, 1)?);
    let stream = stream::Stream::open(port, &line, config, mode)?;
    Ok(OpenLine {
        line,
        threads: vec![Box::new(move || stream.run())],
    })
}

fn open_tap(port: &Arc<Port>, config: &TapConfig) -> Result<OpenLine, WireError> {
    let (queues, uso) = tun::open(&config.name, config.queues)?;
    let sink = Sink::Offloads { uso };
    let line = Arc::new(Line::new(sink, config.flow_control, queues.len())?);
    line.set_up(true);
    let threads = queues.into_iter().enumerate().map(|(number, queue)| {
        let (port, line) = (Arc::clone(port), Arc::clone(&line));
        Box::new(move || tap::run(&port, &line, number, &queue)) as Body
    });
    let threads = threads.collect();
    Ok(OpenLine { line, threads })
}

fn open_replay(port: &Arc<Port>, config: &ReplayConfig) -> Result<OpenLine, WireError> {
    let replay = replay::Replay::load(config)?;
    let line = Arc::new(Line::new(Sink::Discard, FlowControl::Drop, 1)?);
    line.set_up(true);
    let (port, shared) = (Arc::clone(port), Arc::clone(&line));
    Ok(OpenLine {
        line,
        threads: vec![Box::new(move || replay.run(&port, &shared))],
    })
}
