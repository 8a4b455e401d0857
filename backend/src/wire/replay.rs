//! The wire `pcap`: the frames of a capture, at their recorded times or at a rate.

use std::{
    fs::File,
    io::{self, BufReader, Read, Seek},
    ops::Range,
    path::Path,
    time::{Duration, Instant},
};

use pcap_file::{
    DataLink,
    pcap::PcapReader,
    pcapng::{Block, PcapNgReader},
};
use zcnic_device::limits::MAX_FRAME;

use super::{WireError, wait::wait};
use crate::{
    config::{FlowControl, Pace, ReplayConfig},
    datapath::ingress::{FRAMES, IncomingFrame, Ingress, Patience},
    index::PairIndex,
    port::{Port, line::Line},
    ring::raw::Span,
};

/// The most bytes that a capture's frames may take, which are all held in memory.
const MAX_BYTES: usize = 1 << 30;

/// The first block type of a pcapng file, in either byte order.
const PCAPNG: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

/// How long to wait before looking whether the port receives, where no event reports it.
const NEXT_LOOK: Duration = Duration::from_millis(100);

/// The frames of a capture.
#[derive(Debug, Default)]
pub(super) struct Capture {
    bytes: Vec<u8>,
    frames: Vec<CapturedFrame>,
    /// Frames that are too long for a port.
    skipped: usize,
    /// Bytes that its frames take.
    taken: usize,
}

#[derive(Debug)]
struct CapturedFrame {
    place: Range<usize>,
    /// Nanoseconds since the first frame.
    time: u64,
}

impl Capture {
    /// Reads a file of either format.
    ///
    /// # Errors
    ///
    /// The reason in words.
    fn read(file: &Path) -> Result<Self, String> {
        let opened = File::open(file).map_err(|error| error.to_string())?;
        Self::parse(BufReader::new(opened))
    }

    /// Reads either format.
    ///
    /// # Errors
    ///
    /// The reason in words.
    pub(super) fn parse(mut reader: impl Read + Seek) -> Result<Self, String> {
        let mut magic = [0; 4];
        reader
            .read_exact(&mut magic)
            .and_then(|()| reader.rewind())
            .map_err(|_| "it is no capture (pcap or pcapng)".to_owned())?;
        let mut capture = Self::default();
        if magic == PCAPNG {
            capture.read_pcapng(reader)?;
        } else {
            capture.read_pcap(reader)?;
        }
        if capture.frames.is_empty() {
            return Err("it has no Ethernet frames of a valid length".to_owned());
        }
        let first = capture.frames[0].time;
        let mut last = 0;
        for frame in &mut capture.frames {
            last = frame.time.saturating_sub(first).max(last);
            frame.time = last;
        }
        Ok(capture)
    }

    fn read_pcap(&mut self, reader: impl Read) -> Result<(), String> {
        let mut reader = PcapReader::new(reader).map_err(|error| format!("{error}"))?;
        is_ethernet(reader.header().datalink)?;
        while let Some(packet) = reader.next_packet() {
            let packet = packet.map_err(|error| self.behind(&error))?;
            self.add(packet.timestamp(), packet.data())?;
        }
        Ok(())
    }

    fn read_pcapng(&mut self, reader: impl Read) -> Result<(), String> {
        let mut reader = PcapNgReader::new(reader).map_err(|error| format!("{error}"))?;
        while let Some(block) = reader.next_block() {
            let (block, state) = block.map_err(|error| self.behind(&error))?;
            let Block::EnhancedPacket(packet) = block else {
                continue;
            };
            let interface = state.interfaces().get(packet.interface_id as usize);
            let interface = interface.ok_or_else(|| self.behind(&"no such interface"))?;
            is_ethernet(interface.linktype)?;
            self.add(packet.timestamp, &packet.data)?;
        }
        Ok(())
    }

    /// An error that says how far the file was valid.
    fn behind(&self, error: &dyn std::fmt::Display) -> String {
        let frames = self.frames.len() + self.skipped;
        format!("behind frame {frames}: {error}")
    }

    /// Checks that its frames are those that a port takes, one behind the other.
    #[cfg(feature = "fuzzing")]
    pub(super) fn check(&self) {
        let (mut end, mut last) = (0, 0);
        for CapturedFrame { place, time } in &self.frames {
            assert!((14..=MAX_FRAME).contains(&place.len()) && place.start == end);
            assert!(
                *time >= last,
                "a frame is due before the one in front of it"
            );
            (end, last) = (place.end, *time);
        }
        assert_eq!(end, self.bytes.len());
    }

    fn add(&mut self, time: Duration, frame: &[u8]) -> Result<(), String> {
        if frame.len() > MAX_FRAME || frame.len() < 14 {
            self.skipped += 1;
            return Ok(());
        }
        let start = self.bytes.len();
        self.taken += frame.len() + size_of::<CapturedFrame>();
        if self.taken > MAX_BYTES {
            return Err(format!(
                "its frames take more than {MAX_BYTES} bytes, with {} for each",
                size_of::<CapturedFrame>()
            ));
        }
        self.bytes.extend_from_slice(frame);
        self.frames.push(CapturedFrame {
            place: start..self.bytes.len(),
            time: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        });
        Ok(())
    }
}

fn is_ethernet(link: DataLink) -> Result<(), String> {
    if link == DataLink::ETHERNET {
        return Ok(());
    }
    Err(format!("its link type is {link:?}, not Ethernet"))
}

/// Sets the times of frames to those of `pace`. Returns after which time a repetition begins.
fn set_times(frames: &mut [CapturedFrame], pace: Pace) -> u64 {
    const SECOND: u128 = 1_000_000_000;
    let mut sent = 0_u128;
    let mut next = |amount: u128, rate: u64| {
        let time = sent * SECOND / u128::from(rate);
        sent += amount;
        u64::try_from(time).unwrap_or(u64::MAX)
    };
    match pace {
        Pace::Recorded => {
            // As long as the mean distance behind the last frame.
            let last = frames.last().map_or(0, |frame| frame.time);
            let distances = (frames.len() as u64).saturating_sub(1).max(1);
            last.saturating_add(last / distances)
        }
        Pace::Line => {
            frames.iter_mut().for_each(|frame| frame.time = 0);
            0
        }
        Pace::Frames(rate) => {
            for frame in frames {
                frame.time = next(1, rate.get());
            }
            next(0, rate.get())
        }
        Pace::Bits(rate) => {
            for frame in frames {
                frame.time = next(8 * frame.place.len() as u128, rate.get());
            }
            next(0, rate.get())
        }
    }
}

/// A capture that is sent to a port.
#[derive(Debug)]
pub(super) struct Replay {
    capture: Capture,
    pace: Pace,
    /// Nanoseconds after which it begins again, if it does.
    period: Option<u64>,
}

impl Replay {
    /// Reads a capture.
    ///
    /// # Errors
    ///
    /// It can't be read, or has no frames.
    pub(super) fn load(config: &ReplayConfig) -> Result<Self, WireError> {
        let ReplayConfig {
            file,
            pace,
            repeats,
        } = config;
        let mut capture = Capture::read(file).map_err(|reason| WireError::Capture {
            file: file.clone(),
            reason,
        })?;
        if capture.skipped > 0 {
            log::warn!(
                "{}: {} frames that are shorter than 14 or longer than {MAX_FRAME} bytes are left \
                 out",
                file.display(),
                capture.skipped
            );
        }
        let period = set_times(&mut capture.frames, *pace);
        Ok(Self {
            capture,
            pace: *pace,
            period: repeats.then_some(period),
        })
    }

    /// Sends the frames to `port`, from when it receives until the line is stopped.
    ///
    /// # Errors
    ///
    /// Waiting failed.
    pub(super) fn run(mut self, port: &Port, line: &Line) -> io::Result<()> {
        let outlet = (port, &line.outlets[0]);
        let mut ingress = Ingress::default();
        let patience = match self.pace {
            Pace::Line => Patience::Unlimited,
            _ => Patience::Of(FlowControl::Drop),
        };
        until_port_receives(port, line)?;
        let mut start = port.context.now();
        let mut header = [0; 12];
        let mut next = 0;
        while !line.is_stopping() {
            let Some(frame) = self.capture.frames.get(next) else {
                let Some(period) = self.period else {
                    wait(outlet, false, [], None)?;
                    continue;
                };
                start = start.saturating_add(period);
                next = 0;
                continue;
            };
            let now = port.context.now();
            let due = start.saturating_add(frame.time);
            if due > now {
                let left = Instant::now() + Duration::from_nanos(due - now);
                wait(outlet, false, [], Some(left))?;
                continue;
            }
            let bytes = Span::own(&mut self.capture.bytes);
            let zeroes = Span::own(&mut header);
            let due = self.capture.frames[next..].iter().take(FRAMES);
            let due = due.take_while(|frame| start.saturating_add(frame.time) <= now);
            let sources: Vec<IncomingFrame<'_>> = due
                .filter_map(|frame| {
                    Some([zeroes, bytes.part(frame.place.start, frame.place.len())?])
                })
                .collect();
            let delivery = ingress.deliver(port, line, &sources, patience);
            next += delivery.done;
            if let Some(until) = delivery.wait {
                wait(outlet, false, [], Some(until))?;
            } else if self.pace == Pace::Line && delivery.placed == 0 {
                // Without this a port that filters all frames would keep a processor busy.
                wait(outlet, false, [], Some(Instant::now() + NEXT_LOOK))?;
            }
        }
        Ok(())
    }
}

/// Waits until the driver has started receive queues, and the same for two looks.
fn until_port_receives(port: &Port, line: &Line) -> io::Result<()> {
    let mut before = 0;
    while !line.is_stopping() {
        let started = if port.is_connected() && port.link_up() {
            let is_started = |pair: &PairIndex| port.queues.rx(*pair).device.layout().is_some();
            PairIndex::all().filter(is_started).count()
        } else {
            0
        };
        if started > 0 && started == before {
            break;
        }
        before = started;
        wait(
            (port, &line.outlets[0]),
            false,
            [],
            Some(Instant::now() + NEXT_LOOK),
        )?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_frames_of_a_capture_are_bounded() {
        let mut capture = Capture::default();
        let mut add = |length| capture.add(Duration::ZERO, &vec![0; length]);
        assert_eq!(add(14), Ok(()));
        assert_eq!(add(MAX_FRAME + 1), Ok(()), "it is left out");
        assert_eq!((capture.frames.len(), capture.skipped), (1, 1));
        let one = 14 + size_of::<CapturedFrame>();
        assert_eq!(capture.taken, one, "a frame costs more than its bytes");
        // As after very many frames.
        capture.taken = MAX_BYTES - 2 * one;
        let mut add = || capture.add(Duration::ZERO, &[0; 14]);
        assert_eq!((add(), add()), (Ok(()), Ok(())));
        let error = add().expect_err("too many");
        assert!(error.contains("more than 1073741824 bytes"), "{error}");
    }
}
