//! Cables, wires and switches on the command line.

use std::{num::NonZeroU64, path::PathBuf, str::FromStr, time::Duration};

use thiserror::Error;

use crate::config::{
    CableShape, FLOWS, FlowControl, Generate, MAX_TAP_QUEUES, Pace, ReplayConfig, SIZES,
    StreamAddress, StreamConfig, StreamRole, TapConfig, Wire,
};

/// A cable on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CableArg {
    /// Names of the ports.
    pub ends: [String; 2],
    /// How frames are treated that find no receive buffer.
    pub flow_control: FlowControl,
    /// Its properties, if it has any.
    pub shape: Option<CableShape>,
}

/// A wire on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireArg {
    /// Name of the port.
    pub port: String,
    /// The wire.
    pub wire: Wire,
}

/// A switch on the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SwitchArg {
    /// Its name, if one was given.
    pub name: Option<String>,
    /// Names of its ports.
    pub ports: Vec<String>,
}

/// Why the value of `--cable`, `--wire` or `--switch` is invalid.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WireOptionError {
    /// Not a cable.
    #[error("{0:?} is not of the form A:B[,pause][,rate=BITS][,delay=TIME][,loss=P][,seed=NUMBER]")]
    Cable(String),
    /// Not a property of a cable.
    #[error(
        "a cable takes pause, rate=BITS (such as 100M), delay=TIME (up to 60s, such as 5ms), \
         loss=P (0 to 1) and seed=NUMBER, each once, not {0:?}"
    )]
    Property(String),
    /// Not a wire.
    #[error(
        "{0:?} is not of the form PORT=WIRE; wires are loopback, null, generate, stream, tap and \
         pcap"
    )]
    Wire(String),
    /// Not a parameter of a generator.
    #[error(
        "generate takes size= ({least} to {most}), flows= (1 to {flows}) and seed=, not {0:?}",
        least = SIZES.start(), most = SIZES.end(), flows = FLOWS.end()
    )]
    Generate(String),
    /// Not the parameters of a stream.
    #[error(
        "stream takes one of connect=ADDRESS and listen=ADDRESS, and pause, not {0:?}; ADDRESS is \
         unix:PATH or tcp:IP:PORT, such as tcp:127.0.0.1:1234"
    )]
    Stream(String),
    /// Not the parameters of a tap.
    #[error(
        "tap takes ifname=NAME (of up to 15 characters), queues= (1 to {MAX_TAP_QUEUES}) and \
         pause, not {0:?}"
    )]
    Tap(String),
    /// Not the parameters of a replay.
    #[error(
        "pcap takes file=FILE, rate= (recorded, line, frames per second such as 1000pps, or bits \
         per second such as 10M) and loop, not {0:?}"
    )]
    Pcap(String),
    /// Not a switch.
    #[error("{0:?} is not of the form [NAME=]PORT,PORT[,PORT...] with at least two ports")]
    Switch(String),
}

impl FromStr for CableArg {
    type Err = WireOptionError;

    fn from_str(text: &str) -> Result<Self, WireOptionError> {
        let wrong = || WireOptionError::Cable(text.to_owned());
        let mut words = text.split(',');
        let ends = words.next().unwrap_or_default();
        let (a, b) = ends.split_once(':').ok_or_else(wrong)?;
        if a.is_empty() || b.is_empty() || b.contains(':') {
            return Err(wrong());
        }
        let mut flow_control = None;
        let (mut rate, mut delay, mut loss, mut seed) = (None, None, None, None);
        for word in words {
            let set = match word.split_once('=') {
                None if word == "pause" => set_once(&mut flow_control, Some(FlowControl::Pause)),
                Some(("rate", value)) => set_once(&mut rate, bits(value)),
                Some(("delay", value)) => set_once(&mut delay, time(value)),
                Some(("loss", value)) => set_once(&mut loss, millionths(value)),
                Some(("seed", value)) => set_once(&mut seed, value.parse().ok()),
                _ => None,
            };
            set.ok_or_else(|| WireOptionError::Property(word.to_owned()))?;
        }
        let shaped = rate.is_some() || delay.is_some() || loss.is_some();
        if seed.is_some() && loss.is_none() {
            return Err(WireOptionError::Property("seed= without loss=".to_owned()));
        }
        Ok(Self {
            ends: [a.to_owned(), b.to_owned()],
            flow_control: flow_control.unwrap_or_default(),
            shape: shaped.then(|| CableShape {
                rate,
                delay: delay.unwrap_or_default(),
                loss: loss.unwrap_or_default(),
                seed: seed.unwrap_or(1),
            }),
        })
    }
}

impl FromStr for WireArg {
    type Err = WireOptionError;

    fn from_str(text: &str) -> Result<Self, WireOptionError> {
        let wrong = || WireOptionError::Wire(text.to_owned());
        let (port, wire) = text.split_once('=').ok_or_else(wrong)?;
        if port.is_empty() {
            return Err(wrong());
        }
        let (kind, parameters) = match wire.split_once(',') {
            Some((kind, parameters)) => (kind, Some(parameters)),
            None => (wire, None),
        };
        let words = || parameters.into_iter().flat_map(|text| text.split(','));
        let wire = match kind {
            "loopback" if parameters.is_none() => Wire::Loopback,
            "null" if parameters.is_none() => Wire::Null,
            "generate" => Wire::Generate(generate(words())?),
            "stream" => Wire::Stream(stream(words())?),
            "tap" => Wire::Tap(tap(words())?),
            "pcap" => Wire::Replay(replay(words())?),
            _ => return Err(wrong()),
        };
        Ok(Self {
            port: port.to_owned(),
            wire,
        })
    }
}

impl FromStr for SwitchArg {
    type Err = WireOptionError;

    fn from_str(text: &str) -> Result<Self, WireOptionError> {
        let (name, ports) = match text.split_once('=') {
            Some((name, ports)) => (Some(name.to_owned()), ports),
            None => (None, text),
        };
        let ports: Vec<_> = ports.split(',').map(str::to_owned).collect();
        let named = name.as_ref().is_none_or(|name| !name.is_empty());
        if !named || ports.len() < 2 || ports.iter().any(String::is_empty) {
            return Err(WireOptionError::Switch(text.to_owned()));
        }
        Ok(Self { name, ports })
    }
}

fn generate<'t>(words: impl Iterator<Item = &'t str>) -> Result<Generate, WireOptionError> {
    let mut generate = Generate::default();
    let mut set = |word: &str| {
        let (key, value) = word.split_once('=')?;
        match key {
            "size" => generate.size = value.parse().ok().filter(|size| SIZES.contains(size))?,
            "flows" => generate.flows = value.parse().ok().filter(|flows| FLOWS.contains(flows))?,
            "seed" => generate.seed = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    };
    for word in words {
        set(word).ok_or_else(|| WireOptionError::Generate(word.to_owned()))?;
    }
    Ok(generate)
}

fn stream<'t>(words: impl Iterator<Item = &'t str>) -> Result<StreamConfig, WireOptionError> {
    let (mut end, mut flow_control) = (None, None);
    for word in words {
        let set = match word.split_once('=') {
            None if word == "pause" => set_once(&mut flow_control, Some(FlowControl::Pause)),
            Some(("connect", to)) => {
                let address = address(to);
                set_once(&mut end, address.map(|to| (StreamRole::Connect, to)))
            }
            Some(("listen", at)) => {
                let address = address(at);
                set_once(&mut end, address.map(|at| (StreamRole::Listen, at)))
            }
            _ => None,
        };
        set.ok_or_else(|| WireOptionError::Stream(word.to_owned()))?;
    }
    let (role, address) = end.ok_or_else(|| WireOptionError::Stream(String::new()))?;
    Ok(StreamConfig {
        role,
        address,
        flow_control: flow_control.unwrap_or_default(),
    })
}

fn address(text: &str) -> Option<StreamAddress> {
    match text.split_once(':')? {
        ("unix", path) if !path.is_empty() => Some(StreamAddress::Unix(PathBuf::from(path))),
        ("tcp", address) => Some(StreamAddress::Tcp(address.parse().ok()?)),
        _ => None,
    }
}

fn tap<'t>(words: impl Iterator<Item = &'t str>) -> Result<TapConfig, WireOptionError> {
    let (mut name, mut queues, mut flow_control) = (None, None, None);
    let is_name = |name: &str| {
        (1..16).contains(&name.len())
            && !name.starts_with('.')
            && name
                .bytes()
                .all(|c| c.is_ascii_graphic() && !b"/:%".contains(&c))
    };
    for word in words {
        let set = match word.split_once('=') {
            None if word == "pause" => set_once(&mut flow_control, Some(FlowControl::Pause)),
            Some(("ifname", value)) => {
                set_once(&mut name, is_name(value).then(|| value.to_owned()))
            }
            Some(("queues", value)) => {
                let count = value.parse().ok();
                set_once(
                    &mut queues,
                    count.filter(|n| (1..=MAX_TAP_QUEUES).contains(n)),
                )
            }
            _ => None,
        };
        set.ok_or_else(|| WireOptionError::Tap(word.to_owned()))?;
    }
    Ok(TapConfig {
        name: name.ok_or_else(|| WireOptionError::Tap(String::new()))?,
        queues: queues.unwrap_or(1),
        flow_control: flow_control.unwrap_or_default(),
    })
}

fn replay<'t>(words: impl Iterator<Item = &'t str>) -> Result<ReplayConfig, WireOptionError> {
    let (mut file, mut pace, mut repeats) = (None, None, None);
    for word in words {
        let set = match word.split_once('=') {
            None if word == "loop" => set_once(&mut repeats, Some(true)),
            Some(("file", path)) => {
                set_once(&mut file, (!path.is_empty()).then(|| PathBuf::from(path)))
            }
            Some(("rate", "recorded")) => set_once(&mut pace, Some(Pace::Recorded)),
            Some(("rate", "line")) => set_once(&mut pace, Some(Pace::Line)),
            Some(("rate", value)) => {
                let value = match value.strip_suffix("pps") {
                    Some(frames) => bits(frames).map(Pace::Frames),
                    None => bits(value).map(Pace::Bits),
                };
                set_once(&mut pace, value)
            }
            _ => None,
        };
        set.ok_or_else(|| WireOptionError::Pcap(word.to_owned()))?;
    }
    Ok(ReplayConfig {
        file: file.ok_or_else(|| WireOptionError::Pcap(String::new()))?,
        pace: pace.unwrap_or_default(),
        repeats: repeats.unwrap_or_default(),
    })
}

/// Fills `slot` with `value`; `None` if there is no value, or was one.
fn set_once<T>(slot: &mut Option<T>, value: Option<T>) -> Option<()> {
    if slot.is_some() {
        return None;
    }
    *slot = Some(value?);
    Some(())
}

/// A number as written with up to nine decimals, in billionths.
fn billionths(text: &str) -> Option<u64> {
    const DECIMALS: usize = 9;
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let is_number = |part: &str| part.bytes().all(|c| c.is_ascii_digit());
    if whole.is_empty() || decimals.len() > DECIMALS || !is_number(whole) || !is_number(decimals) {
        return None;
    }
    format!("{whole}{decimals:0<DECIMALS$}").parse().ok()
}

/// A number with an optional decimal suffix: k, M or G. At least 1.
fn bits(text: &str) -> Option<NonZeroU64> {
    let (number, factor) = match text.chars().last()? {
        'k' => (text.strip_suffix('k')?, 1_000),
        'M' => (text.strip_suffix('M')?, 1_000_000),
        'G' => (text.strip_suffix('G')?, 1_000_000_000),
        _ => (text, 1),
    };
    let number = u128::from(billionths(number)?) * factor / 1_000_000_000;
    NonZeroU64::new(u64::try_from(number).ok()?)
}

/// A time with its unit, up to a minute.
fn time(text: &str) -> Option<Duration> {
    const LONGEST: Duration = Duration::from_mins(1);
    let units = [
        ("ns", 1),
        ("us", 1_000),
        ("ms", 1_000_000),
        ("s", 1_000_000_000),
    ];
    let (number, unit) = units
        .iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))?;
    let nanoseconds = u128::from(billionths(number)?) * unit / 1_000_000_000;
    let time = Duration::from_nanos(u64::try_from(nanoseconds).ok()?);
    (time <= LONGEST).then_some(time)
}

/// A probability from 0 to 1, in millionths.
fn millionths(text: &str) -> Option<u32> {
    let value = billionths(text)? / 1_000;
    u32::try_from(value)
        .ok()
        .filter(|value| *value <= 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(text: &str) -> Result<Wire, WireOptionError> {
        text.parse().map(|WireArg { wire, .. }| wire)
    }

    fn shape(text: &str) -> CableShape {
        let cable: CableArg = text.parse().expect("a cable");
        cable.shape.expect("properties")
    }

    #[test]
    fn cables_have_properties() {
        let plain: CableArg = "a:b".parse().expect("a cable");
        assert_eq!((plain.flow_control, plain.shape), (FlowControl::Drop, None));
        let paused: CableArg = "0:1,pause".parse().expect("a cable");
        assert_eq!(
            (paused.flow_control, paused.shape),
            (FlowControl::Pause, None)
        );
        let expected = CableShape {
            rate: NonZeroU64::new(2_500_000_000),
            delay: Duration::from_micros(1500),
            loss: 12_500,
            seed: 9,
        };
        assert_eq!(
            shape("0:1,rate=2.5G,delay=1.5ms,loss=0.0125,seed=9,pause"),
            expected
        );
        assert_eq!(shape("0:1,loss=1").loss, 1_000_000);
        assert_eq!(shape("0:1,delay=60s").delay, Duration::from_secs(60));
        for text in ["0", "0:", ":1", "0:1:2"] {
            let error = WireOptionError::Cable(text.into());
            assert_eq!(text.parse::<CableArg>(), Err(error));
        }
        for word in [
            "slow",
            "",
            "rate=0",
            "rate=",
            "rate=-1",
            "rate=1T",
            "rate=1e9",
            "delay=5",
            "delay=61s",
            "delay=.5s",
            "loss=1.1",
            "loss=x",
            "loss=1%",
            "seed=x",
            "pause=1",
        ] {
            let error = WireOptionError::Property(word.into());
            assert_eq!(format!("0:1,{word}").parse::<CableArg>(), Err(error));
        }
        assert!("0:1,delay=1s,delay=2s".parse::<CableArg>().is_err());
        assert!("0:1,rate=1M,seed=2".parse::<CableArg>().is_err());
    }

    #[test]
    fn streams_have_one_address() {
        let expected = StreamConfig {
            role: StreamRole::Connect,
            address: StreamAddress::Unix("/run/passt".into()),
            flow_control: FlowControl::Pause,
        };
        let text = "0=stream,connect=unix:/run/passt,pause";
        assert_eq!(wire(text), Ok(Wire::Stream(expected)));
        let Ok(Wire::Stream(listens)) = wire("0=stream,listen=tcp:[::1]:99") else {
            panic!("a stream");
        };
        assert_eq!(listens.role, StreamRole::Listen);
        assert_eq!(listens.address.to_string(), "tcp:[::1]:99");
        for (parameters, blamed) in [
            ("", ""),
            (",connect=/run/passt", "connect=/run/passt"),
            (",connect=tcp:localhost:1", "connect=tcp:localhost:1"),
            (",connect=tcp:127.0.0.1", "connect=tcp:127.0.0.1"),
            (",listen=unix:", "listen=unix:"),
            (",connect=unix:/a,listen=unix:/b", "listen=unix:/b"),
            (",pause", ""),
        ] {
            let error = WireOptionError::Stream(blamed.into());
            assert_eq!(wire(&format!("0=stream{parameters}")), Err(error));
        }
    }

    #[test]
    fn taps_have_names_that_the_kernel_takes() {
        let expected = TapConfig {
            name: "zc0".into(),
            queues: 4,
            flow_control: FlowControl::Drop,
        };
        assert_eq!(wire("0=tap,ifname=zc0,queues=4"), Ok(Wire::Tap(expected)));
        for word in [
            "ifname=",
            "ifname=sixteen-letters-",
            "ifname=a/b",
            "ifname=tap%d",
            "ifname=..",
            "ifname=a b",
            "queues=0",
            "queues=17",
            "pause=1",
        ] {
            let error = WireOptionError::Tap(word.into());
            assert_eq!(wire(&format!("0=tap,{word}")), Err(error));
        }
        assert_eq!(wire("0=tap"), Err(WireOptionError::Tap(String::new())));
    }

    #[test]
    fn replays_have_a_pace() {
        let pace = |parameters: &str| match wire(&format!("0=pcap,file=/a{parameters}")) {
            Ok(Wire::Replay(replay)) => Ok((replay.pace, replay.repeats)),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error),
        };
        let number = |value| NonZeroU64::new(value).expect("not zero");
        assert_eq!(pace(""), Ok((Pace::Recorded, false)));
        assert_eq!(pace(",rate=line,loop"), Ok((Pace::Line, true)));
        assert_eq!(pace(",rate=2kpps"), Ok((Pace::Frames(number(2000)), false)));
        assert_eq!(
            pace(",rate=1.5M"),
            Ok((Pace::Bits(number(1_500_000)), false))
        );
        for word in ["rate=fast", "rate=0pps", "loop=2", "file=/b", "x"] {
            assert_eq!(
                pace(&format!(",{word}")),
                Err(WireOptionError::Pcap(word.into()))
            );
        }
        assert_eq!(wire("0=pcap"), Err(WireOptionError::Pcap(String::new())));
    }

    #[test]
    fn other_wires_have_the_parameters_of_their_kind() {
        let expected = Generate {
            size: 1500,
            flows: 7,
            seed: 3,
        };
        let text = "2=generate,flows=7,size=1500,seed=3";
        assert_eq!(wire(text), Ok(Wire::Generate(expected)));
        for text in ["0", "0=", "=null", "0=cable", "0=null,x", "0=loopback,"] {
            assert_eq!(wire(text), Err(WireOptionError::Wire(text.into())));
        }
        for word in [
            "",
            "size",
            "size=59",
            "size=9217",
            "flows=0",
            "seed=x",
            "x=1",
        ] {
            let error = WireOptionError::Generate(word.into());
            assert_eq!(wire(&format!("0=generate,{word}")), Err(error));
        }
    }

    #[test]
    fn switches_have_at_least_two_ports() {
        let named: SwitchArg = "lan=a,b,2".parse().expect("a switch");
        assert_eq!(named.name.as_deref(), Some("lan"));
        assert_eq!(named.ports, ["a", "b", "2"]);
        for text in ["", "a", "a,", "=a,b", "lan=a"] {
            let error = WireOptionError::Switch(text.into());
            assert_eq!(text.parse::<SwitchArg>(), Err(error));
        }
    }
}
