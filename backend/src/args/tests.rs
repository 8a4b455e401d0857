use clap::{CommandFactory, error::ErrorKind};

use super::*;
use crate::config::{FlowControl, Generate, Wire};

fn config(line: &str) -> Result<Config, ConfigError> {
    let words = std::iter::once("zcnic").chain(line.split_whitespace());
    Cli::try_parse_from(words).expect("options").run.try_into()
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn whole_line() {
    let config = config(
        "--port path=/a --port path=/b,name=eth1,mode=plain --cable 0:eth1,pause --control /c",
    )
    .expect("valid");
    assert_eq!(config.ports[0].name, "0");
    assert_eq!(config.ports[1].mode, PortMode::Plain);
    let cable = CableConfig {
        ends: [0, 1],
        flow_control: FlowControl::Pause,
        shape: None,
    };
    assert_eq!(config.cables, [cable]);
    assert_eq!(config.control, Some("/c".into()));
    assert_eq!(config.workers, WorkersConfig::default());
    assert_eq!(config.wires, []);
    assert!(!config.trust_memory);
    assert_eq!(config.socket_mode, SocketMode::default());
}

#[test]
fn socket_modes_are_octal_and_leave_the_owner_in() {
    let of = |mode: &str| {
        let words = ["zcnic", "--port", "path=/a", "--socket-mode", mode];
        Cli::try_parse_from(words).map(|cli| cli.run.socket_mode.bits())
    };
    assert_eq!(of("660").ok(), Some(0o660));
    for wrong in ["", "066", "68", "1777", "rw", "400"] {
        let error = of(wrong).expect_err(wrong);
        assert_eq!(error.kind(), ErrorKind::ValueValidation, "{wrong}");
    }
}

#[test]
fn wires_and_workers() {
    let line = "--port path=/a --port path=/b,name=eth1 --port path=/c --wire 0=loopback \
                --wire eth1=null --wire 2=generate,flows=7 --workers 2 --poll-us 0 --cpus 1,4-6 \
                --trust-memory";
    let config = config(line).expect("valid");
    assert!(config.trust_memory);
    let generate = Wire::Generate(Generate {
        flows: 7,
        ..Generate::default()
    });
    let wires = [(0, Wire::Loopback), (1, Wire::Null), (2, generate)];
    assert_eq!(
        config.wires,
        wires.map(|(port, wire)| WireConfig { port, wire })
    );
    let workers = WorkersConfig {
        per_port: 2,
        poll: Duration::ZERO,
        cpus: vec![1, 4, 5, 6],
    };
    assert_eq!(config.workers, workers);
}

#[test]
fn switches_have_names_and_ports_without_anything_else() {
    let ports = "--port path=/a --port path=/b,name=eth1 --port path=/c --port path=/d";
    let switched = config(&format!("{ports} --switch 0,eth1,2")).expect("valid");
    let first = SwitchConfig {
        name: "switch0".into(),
        ports: vec![0, 1, 2],
    };
    assert_eq!(switched.switches, [first]);
    let twice = config(&format!("{ports} --switch a=0,1 --switch a=2,3"));
    assert_eq!(twice, Err(ConfigError::SwitchTwice("a".into())));
    let occupied = config(&format!("{ports} --wire 2=null --switch 0,eth1,2"));
    assert_eq!(
        occupied.expect_err("port 2 has a wire").to_string(),
        "--switch 0,eth1,2: port 2 has a cable, wire or switch already"
    );
}

#[test]
fn wrong_wires_and_cpus() {
    for text in ["", "a", "1,", "3-2", "1-", "1024", "0-99999", "-1"] {
        let error = OptionError::Cpus(text.into());
        assert_eq!(text.parse::<CpuList>(), Err(error));
    }
    let ports = "--port path=/a --port path=/b";
    let missing = config(&format!("{ports} --wire 2=null")).expect_err("no port 2");
    assert_eq!(
        missing.to_string(),
        "--wire 2: there is no port 2; ports are 0, 1"
    );
    let twice = config(&format!("{ports} --cable 0:1 --wire 1=null")).expect_err("twice");
    assert_eq!(
        twice.to_string(),
        "--wire 1: port 1 has a cable, wire or switch already"
    );
}

#[test]
fn option_values() {
    for (text, error) in [
        ("/a", OptionError::KeyValue("/a".into())),
        ("path=/a,colour=red", OptionError::Key("colour".into())),
        ("path=/a,path=/b", OptionError::Twice("path")),
        ("path=/a,mode=fast", OptionError::Mode("fast".into())),
        ("name=x", OptionError::NoPath),
        ("path=", OptionError::NoPath),
        ("path=/a,name=a:b", OptionError::Name("a:b".into())),
    ] {
        assert_eq!(text.parse::<PortArg>(), Err(error));
    }
}

#[test]
fn whole_line_errors() {
    assert_eq!(config(""), Err(ConfigError::NoPorts));
    assert_eq!(
        config("--port path=/a --port path=/a"),
        Err(ConfigError::PathTwice("/a".into()))
    );
    assert_eq!(
        config("--port path=/a --control /a"),
        Err(ConfigError::PathTwice("/a".into()))
    );
    let twice = config("--port path=/a --port path=/b,name=0");
    assert_eq!(twice, Err(ConfigError::NameTwice("0".into())));
    let missing = config("--port path=/a --port path=/b --cable 0:2").expect_err("no port 2");
    assert_eq!(
        missing.to_string(),
        "--cable 0:2: there is no port 2; ports are 0, 1"
    );
    let ports = "--port path=/a --port path=/b --port path=/c";
    assert_eq!(
        config(&format!("{ports} --cable 1:1")),
        Err(ConfigError::Loop("1:1".into()))
    );
    let occupied = ConfigError::Occupied {
        option: "--cable 1:2".into(),
        port: "1".into(),
    };
    assert_eq!(
        config(&format!("{ports} --cable 0:1 --cable 1:2")),
        Err(occupied)
    );
}

#[test]
fn queue_count_is_bounded() {
    let words = ["zcnic", "qemu-args", "--port", "path=/a", "--queues", "128"];
    let error = Cli::try_parse_from(words).expect_err("127 data pairs and the command pair");
    assert_eq!(error.kind(), ErrorKind::ValueValidation);
}
