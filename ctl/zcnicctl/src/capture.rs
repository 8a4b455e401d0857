//! Writes the frames that ports send and receive to a pcapng file.

use std::{
    fmt::Write as _,
    fs,
    io::{self, BufWriter, ErrorKind, Write},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use pcap_file::{
    DataLink, Endianness,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{
                InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
            },
            interface_statistics::{InterfaceStatisticsBlock, InterfaceStatisticsOption},
            opt_common::{CommonOption, UnknownOption},
        },
    },
};
use signal_hook::{consts::TERM_SIGNALS, flag};
use zcnic_ctl::{
    client::{Client, ClientError},
    protocol::{
        event::{Event, Frame, FrameFate, Lost},
        fault::Direction,
    },
};

use crate::cli::CaptureArgs;

/// How long a signal may go unnoticed.
const GLANCE: Duration = Duration::from_millis(100);

/// Options of an enhanced packet block that `pcap-file` has no names for: its number, and the
/// queue.
const PACKET_ID: u16 = 5;
const QUEUE: u16 = 6;

/// The Toeplitz hash among the algorithms of option `epb_hash`.
const TOEPLITZ: u8 = 5;

/// Captures `ports` until the wanted number of frames is there, a signal comes, or the backend
/// ends. The file is complete in each case.
pub(crate) fn capture(client: &mut Client, ports: &[String], args: &CaptureArgs) -> Result<()> {
    let stop = stopped_by_signals().context("Can't handle signals")?;
    let file = BufWriter::new(create(&args.file)?);
    let mut recording = Recording::new(file, ports, args.length)?;
    for port in ports {
        client.capture_start(port, Some(args.length))?;
    }
    match record(client, &mut recording, &stop, args.count) {
        // Only standard output can be a closed pipe: its reader has seen enough.
        Err(error) if is_broken_pipe(&error) => return Ok(()),
        ended => ended?,
    }
    if stop.load(Ordering::Relaxed) {
        // The answers come behind all frames. A backend that is gone has no more.
        let stopped = ports.iter().try_for_each(|port| client.capture_stop(port));
        if stopped.is_ok() {
            while let Ok(event) = client.event(Some(Duration::ZERO)) {
                recording.take(event)?;
            }
        }
    }
    recording.finish()
}

/// Records events until the capture ends.
fn record(
    client: &mut Client,
    recording: &mut Recording<impl Write>,
    stop: &AtomicBool,
    count: Option<u64>,
) -> Result<()> {
    let full = |frames| count.is_some_and(|count| frames >= count);
    while !full(recording.frames) && !stop.load(Ordering::Relaxed) {
        let event = match client.event(Some(Duration::ZERO)) {
            Err(error) if error.is_timeout() => {
                recording.flush()?;
                client.event(Some(GLANCE))
            }
            event => event,
        };
        match event {
            Ok(event) => recording.take(event)?,
            Err(error) if error.is_timeout() => {}
            Err(error) if is_end(&error) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Whether the backend ended, perhaps in the middle of a line.
fn is_end(error: &ClientError) -> bool {
    match error {
        ClientError::Closed => true,
        ClientError::Io(error) => error.kind() == ErrorKind::ConnectionReset,
        ClientError::Unexpected(error) => error.is_eof(),
        _ => false,
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let mut causes = error.chain();
    causes.any(|cause| {
        let cause = cause.downcast_ref::<io::Error>();
        cause.is_some_and(|cause| cause.kind() == ErrorKind::BrokenPipe)
    })
}

/// A flag that SIGINT, SIGTERM and SIGQUIT set. The second signal ends the process at once.
fn stopped_by_signals() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for &signal in TERM_SIGNALS {
        flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop))?;
        flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

/// A file for a capture; `-` is standard output.
fn create(file: &Path) -> Result<Box<dyn Write>> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let created = fs::File::create(file).with_context(|| file.display().to_string())?;
    Ok(Box::new(created))
}

/// A file of frames.
struct Recording<W: Write> {
    file: PcapNgWriter<W>,
    ports: Vec<Port>,
    frames: u64,
    /// Frames missed since the last one.
    lost: u64,
    lost_in_all: u64,
    /// The time of the last frame.
    time: Duration,
}

/// A captured port: an interface of the file.
struct Port {
    name: String,
    frames: u64,
}

impl<W: Write> Recording<W> {
    /// Begins a file with the frames of these ports, the first `length` bytes of each.
    fn new(file: W, ports: &[String], length: u32) -> Result<Self> {
        let mut file = PcapNgWriter::with_endianness(file, Endianness::Little)?;
        for port in ports {
            let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, length);
            interface.options = vec![
                InterfaceDescriptionOption::IfName(format!("zcnic port {port}").into()),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ];
            file.write_pcapng_block(interface)?;
        }
        let port = |name: &String| Port {
            name: name.clone(),
            frames: 0,
        };
        Ok(Self {
            file,
            ports: ports.iter().map(port).collect(),
            frames: 0,
            lost: 0,
            lost_in_all: 0,
            time: Duration::ZERO,
        })
    }

    /// Adds a frame, or the number of those that were missed.
    fn take(&mut self, event: Event) -> Result<()> {
        match event {
            Event::Frame(frame) => self.add(&frame),
            Event::Lost(Lost { count }) => {
                self.lost += count;
                self.lost_in_all += count;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, frame: &Frame) -> Result<()> {
        let mut ports = self.ports.iter_mut().zip(0..);
        let port = ports.find(|(port, _)| port.name == frame.port);
        let (port, interface_id) = port.context("The backend sent a frame of another port")?;
        port.frames += 1;
        self.frames += 1;
        self.time = Duration::from_nanos(frame.time);
        let lost = std::mem::take(&mut self.lost);
        self.file.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: self.time,
            original_len: frame.length,
            data: bytes(&frame.bytes)?.into(),
            options: options(frame, lost),
        })?;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.get_mut().flush()
    }

    /// Ends the file with the statistics of each port, and reports them.
    fn finish(mut self) -> Result<()> {
        for (port, interface_id) in self.ports.iter().zip(0..) {
            let mut options = vec![InterfaceStatisticsOption::IsbIfRecv(port.frames)];
            if self.ports.len() == 1 {
                options.push(InterfaceStatisticsOption::IsbIfDrop(self.lost_in_all));
            } else if self.lost_in_all > 0 {
                // Lost frames are not counted by port.
                let text = format!("{} frames of all ports are missing", self.lost_in_all);
                let comment = CommonOption::Comment(text.into());
                options.push(InterfaceStatisticsOption::Common(comment));
            }
            self.file.write_pcapng_block(InterfaceStatisticsBlock {
                interface_id,
                timestamp: self.time,
                options,
            })?;
        }
        self.flush()?;
        eprintln!("{} frames captured, {} lost", self.frames, self.lost_in_all);
        Ok(())
    }
}

fn options(frame: &Frame, lost: u64) -> Vec<EnhancedPacketOption<'static>> {
    let comment = |text: String| {
        let comment = CommonOption::Comment(text.into());
        EnhancedPacketOption::Common(comment)
    };
    let number = |code, value: Vec<u8>| {
        let value = value.into();
        EnhancedPacketOption::Common(CommonOption::Unknown(UnknownOption { code, value }))
    };
    // Direction flags of pcapng.
    let direction = match frame.direction {
        Direction::Rx => 1,
        Direction::Tx | Direction::Command => 2,
    };
    let mut options = vec![
        EnhancedPacketOption::Flags(direction),
        number(PACKET_ID, frame.id.to_le_bytes().into()),
    ];
    if let Some(hash) = frame.hash {
        let mut value = vec![TOEPLITZ];
        value.extend(hash.to_be_bytes());
        options.push(EnhancedPacketOption::Hash(value.into()));
    }
    if let Some(queue) = frame.redirected.or(frame.queue) {
        let queue = u32::from(queue).to_le_bytes();
        options.push(number(QUEUE, queue.into()));
    }
    if lost > 0 {
        options.push(EnhancedPacketOption::DropCount(lost));
        options.push(comment(format!(
            "{lost} frames before this one are missing"
        )));
    }
    let text = about(frame);
    if !text.is_empty() {
        options.push(comment(text));
    }
    options
}

/// The device's decisions on a frame, for people.
fn about(frame: &Frame) -> String {
    let mut parts = Vec::new();
    parts.extend(frame.queue.map(|queue| format!("queue {queue}")));
    parts.extend(frame.hash.map(|hash| format!("RSS {hash:#010x}")));
    parts.extend(frame.split.map(|at| format!("split at {at}")));
    parts.extend(frame.rule.map(|rule| format!("rule {rule}")));
    let faults = frame.faults.iter();
    parts.extend(faults.map(|fault| format!("fault {} #{}", fault.action, fault.id)));
    let end = frame.fate.map(|fate| match fate {
        FrameFate::Placed if frame.split.is_none() => "not split",
        FrameFate::Placed => "",
        FrameFate::Coalesced => "hardware GRO",
        FrameFate::Held => "held back",
        FrameFate::Redirected => "put into queue",
        FrameFate::NoBuffer => "dropped: no receive buffer",
        FrameFate::Stopped => "dropped: the queue is stopped",
        FrameFate::TooLong => "dropped: too long for its buffers",
        FrameFate::FaultDrop => "dropped by the fault",
        FrameFate::RuleDrop => "dropped by the rule",
        FrameFate::Filtered => "dropped by the address filter",
        FrameFate::Oversize => "dropped as longer than the MTU",
    });
    let mut text = parts.join(", ");
    if let Some(end) = end.filter(|end| !end.is_empty()) {
        let comma = if text.is_empty() { "" } else { ", " };
        let _ = write!(text, "{comma}{end}");
    }
    if let Some(queue) = frame.redirected {
        let _ = write!(text, " {queue}");
    }
    text
}

/// Decodes pairs of hexadecimal digits.
fn bytes(digits: &str) -> Result<Vec<u8>> {
    let digit = |digit: u8| char::from(digit).to_digit(16);
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    let byte = |&[high, low]: &[u8; 2]| Some((digit(high)? << 4 | digit(low)?) as u8);
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes
        .filter(|_| rest.is_empty())
        .context("The backend sent a frame with invalid hexadecimal digits")
}

#[cfg(test)]
mod tests {
    use pcap_file::pcapng::{Block, PcapNgReader};
    use serde_json::json;

    use super::*;

    fn event(value: serde_json::Value) -> Event {
        serde_json::from_value(value).expect("an event")
    }

    fn blocks(file: &[u8]) -> Vec<Block<'static>> {
        let mut reader = PcapNgReader::new(file).expect("a file");
        let mut blocks = Vec::new();
        while let Some(block) = reader.next_block() {
            blocks.push(block.expect("a block").0.into_owned());
        }
        blocks
    }

    fn comments(packet: &EnhancedPacketBlock<'_>) -> Vec<String> {
        let comment = |option: &EnhancedPacketOption<'_>| match option {
            EnhancedPacketOption::Common(CommonOption::Comment(text)) => Some(text.to_string()),
            _ => None,
        };
        packet.options.iter().filter_map(comment).collect()
    }

    #[test]
    fn captures_are_read_back() {
        let mut file = Vec::new();
        let ports = ["0".to_owned(), "1".to_owned()];
        let mut recording = Recording::new(&mut file, &ports, 64).expect("a file");
        let sent = json!({"event": "frame", "data": {"port": "0", "direction": "tx", "id": 7,
            "time": 1_700_000_000_123_456_789_u64, "length": 1514, "bytes": "00ff10a5", "queue": 2}});
        let received = json!({"event": "frame", "data": {"port": "1", "direction": "rx", "id": 7,
            "time": 1_700_000_000_123_456_790_u64, "length": 1514, "bytes": "00ff10a5", "queue": 3,
            "hash": 0x0234_abcd, "rule": 5, "fate": "placed", "split": 66,
            "faults": [{"id": 2, "action": "wrong-hash"}]}});
        let lost = json!({"event": "lost", "data": {"count": 3}});
        for line in [sent, lost, received] {
            recording.take(event(line)).expect("added");
        }
        recording.finish().expect("finished");
        let blocks = blocks(&file);
        let [
            Block::InterfaceDescription(_),
            Block::InterfaceDescription(_),
            Block::EnhancedPacket(sent),
            Block::EnhancedPacket(received),
            Block::InterfaceStatistics(_),
            Block::InterfaceStatistics(statistics),
        ] = &blocks[..]
        else {
            panic!("{blocks:?}");
        };
        assert_eq!(&*sent.data, [0x00, 0xff, 0x10, 0xa5]);
        assert_eq!((sent.interface_id, received.interface_id), (0, 1));
        assert_eq!(
            sent.timestamp,
            Duration::from_nanos(1_700_000_000_123_456_789)
        );
        assert_eq!(sent.options[0], EnhancedPacketOption::Flags(2));
        assert_eq!(sent.options[1], received.options[1], "the frame's number");
        assert_eq!(comments(sent), ["queue 2"]);
        assert_eq!(received.options[0], EnhancedPacketOption::Flags(1));
        let hash = EnhancedPacketOption::Hash(vec![5, 0x02, 0x34, 0xab, 0xcd].into());
        assert_eq!(received.options[2], hash);
        let queue = UnknownOption::new(6, &[3, 0, 0, 0]);
        let queue = EnhancedPacketOption::Common(CommonOption::Unknown(queue));
        assert_eq!(received.options[3], queue);
        assert_eq!(received.options[4], EnhancedPacketOption::DropCount(3));
        let text = "queue 3, RSS 0x0234abcd, split at 66, rule 5, fault wrong-hash #2";
        assert_eq!(comments(received)[1], text);
        assert_eq!(
            statistics.options[0],
            InterfaceStatisticsOption::IsbIfRecv(1)
        );
    }

    #[test]
    fn a_comment_names_the_fate() {
        let text = |more: serde_json::Value| {
            let mut data =
                json!({"port": "1", "direction": "rx", "time": 1, "length": 0, "bytes": ""});
            let all = data.as_object_mut().expect("an object");
            all.extend(more.as_object().expect("an object").clone());
            match event(json!({"event": "frame", "data": data})) {
                Event::Frame(frame) => about(&frame),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(text(json!({})), "");
        assert_eq!(
            text(json!({"fate": "filtered"})),
            "dropped by the address filter"
        );
        assert_eq!(
            text(json!({"queue": 1, "fate": "no-buffer"})),
            "queue 1, dropped: no receive buffer"
        );
        assert_eq!(
            text(json!({"queue": 1, "fate": "placed"})),
            "queue 1, not split"
        );
        assert_eq!(
            text(json!({"queue": 1, "redirected": 4, "fate": "redirected",
                "faults": [{"id": 9, "action": "wrong-queue"}]})),
            "queue 1, fault wrong-queue #9, put into queue 4"
        );
    }

    #[test]
    fn only_pairs_of_digits_are_bytes() {
        assert_eq!(bytes("0aF0").expect("bytes"), [0x0a, 0xf0]);
        assert!(bytes("0").is_err() && bytes("xx").is_err() && bytes("+1").is_err());
    }
}
