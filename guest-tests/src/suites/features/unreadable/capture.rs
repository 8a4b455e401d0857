//! Captures by tcpdump.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};
use pcap_file::pcap::PcapReader;

const FILE: &str = "/tmp/capture.pcap";

/// A frame as it was seen.
#[derive(Debug)]
pub(super) struct Frame {
    /// Bytes on the wire.
    pub(super) wire: usize,
    /// As many of them as could be read.
    pub(super) bytes: Vec<u8>,
}

/// Captures `count` frames that an interface receives and that match, while `send` sends them.
pub(super) fn capture(
    netns: Option<&str>,
    interface: &str,
    filter: &str,
    count: u64,
    send: impl FnOnce() -> Result<()>,
) -> Result<Vec<Frame>> {
    let namespace = netns.map_or(vec![], |name| vec!["ip", "netns", "exec", name]);
    let count = count.to_string();
    let tcpdump = [
        "timeout", "10", "tcpdump", "-n", "-Q", "in", "-s", "0", "-c", &count, "-i", interface,
        "-w", FILE, filter,
    ];
    let words = [&namespace[..], &tcpdump].concat();
    let mut process = Command::new(words[0])
        .args(&words[1..])
        .stderr(Stdio::piped())
        .spawn()
        .context("tcpdump")?;
    let output = process.stderr.take().context("no standard error")?;
    let mut lines = BufReader::new(output).lines();
    let ready = lines.find(|line| matches!(line, Ok(line) if line.contains("listening on")));
    ready.context("tcpdump does not listen")??;
    let sent = send();
    let ended = process.wait()?;
    sent?;
    ensure!(ended.success(), "tcpdump saw less than {count} frames");
    let mut reader = PcapReader::new(File::open(FILE)?)?;
    let mut frames = Vec::new();
    while let Some(packet) = reader.next_packet() {
        let packet = packet?;
        frames.push(Frame {
            wire: packet.orig_len() as usize,
            bytes: packet.data().to_vec(),
        });
    }
    fs::remove_file(FILE)?;
    Ok(frames)
}
