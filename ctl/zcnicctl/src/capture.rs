//! Writes the frames that a port sends and receives to a pcapng file.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result};
use pcap_file::{
    DataLink,
    pcapng::{
        PcapNgWriter,
        blocks::{
            enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption},
            interface_description::{
                InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
            },
        },
    },
};
use zcnic_ctl::protocol::{event::Frame, fault::Direction};

/// A file of frames.
pub(crate) struct Recording<W: Write> {
    file: PcapNgWriter<W>,
    /// Frames missed since the last one.
    lost: u64,
}

impl<W: Write> Recording<W> {
    /// Begins a file with the frames of a port, the first `length` bytes of each.
    pub(crate) fn new(file: W, port: &str, length: u32) -> Result<Self> {
        let mut file = PcapNgWriter::new(file)?;
        let mut interface = InterfaceDescriptionBlock::new(DataLink::ETHERNET, length);
        interface.options = vec![
            InterfaceDescriptionOption::IfName(format!("zcnic port {port}").into()),
            InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
        ];
        file.write_pcapng_block(interface)?;
        Ok(Self { file, lost: 0 })
    }

    /// Records that `count` frames were missed.
    pub(crate) fn lost(&mut self, count: u64) {
        self.lost += count;
    }

    /// Adds a frame and flushes the file.
    pub(crate) fn add(&mut self, frame: &Frame) -> Result<()> {
        // Direction flags of pcapng.
        let direction = match frame.direction {
            Direction::Rx => 1,
            Direction::Tx | Direction::Command => 2,
        };
        let mut options = vec![EnhancedPacketOption::Flags(direction)];
        if self.lost > 0 {
            options.push(EnhancedPacketOption::DropCount(self.lost));
            self.lost = 0;
        }
        self.file.write_pcapng_block(EnhancedPacketBlock {
            interface_id: 0,
            timestamp: Duration::from_nanos(frame.time),
            original_len: frame.length,
            data: bytes(&frame.bytes)?.into(),
            options,
        })?;
        self.file.get_mut().flush()?;
        Ok(())
    }
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

    use super::*;

    #[test]
    fn captures_are_read_back() {
        let mut file = Vec::new();
        let mut recording = Recording::new(&mut file, "0", 64).expect("a file");
        let mut frame = Frame {
            port: "0".to_owned(),
            direction: Direction::Rx,
            time: 1_700_000_000_123_456_789,
            length: 1514,
            bytes: "00ff10a5".to_owned(),
        };
        recording.add(&frame).expect("added");
        recording.lost(3);
        frame.direction = Direction::Tx;
        recording.add(&frame).expect("added");
        let mut reader = PcapNgReader::new(&file[..]).expect("a file");
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            if let (Block::EnhancedPacket(packet), _) = block.expect("a block") {
                packets.push(packet.into_owned());
            }
        }
        assert_eq!(packets.len(), 2);
        assert_eq!(&*packets[0].data, [0x00, 0xff, 0x10, 0xa5]);
        assert_eq!(packets[0].original_len, 1514);
        assert_eq!(packets[0].timestamp, Duration::from_nanos(frame.time));
        assert_eq!(packets[0].options, [EnhancedPacketOption::Flags(1)]);
        let lost = [
            EnhancedPacketOption::Flags(2),
            EnhancedPacketOption::DropCount(3),
        ];
        assert_eq!(packets[1].options, lost);
    }

    #[test]
    fn only_pairs_of_digits_are_bytes() {
        assert_eq!(bytes("0aF0").expect("bytes"), [0x0a, 0xf0]);
        assert!(bytes("0").is_err() && bytes("xx").is_err() && bytes("+1").is_err());
    }
}
