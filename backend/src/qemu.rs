//! The QEMU options for a configuration.

use std::path::Path;

use zcnic_ctl::client::PORT_NAME;

use crate::{
    args::QemuArgs,
    config::{Mac, PortMode},
};

/// The options, one per entry: name and value.
#[must_use]
pub fn options(args: &QemuArgs) -> Vec<[String; 2]> {
    let mut options = Vec::new();
    let mut add = |name: &str, value: String| options.push([format!("-{name}"), value]);
    add("machine", "q35,memory-backend=mem".into());
    add("m", args.memory.clone());
    add(
        "object",
        format!("memory-backend-memfd,id=mem,size={},share=on", args.memory),
    );
    for (number, port) in args.ports.iter().enumerate() {
        let plain = port.mode == PortMode::Plain;
        // A zcnic port's last pair carries commands.
        let pairs = if plain { args.queues } else { args.queues + 1 };
        // Two rings per pair, the configuration's vector, and one for QEMU's control queue.
        let vectors = 2 * pairs + 2;
        let base = args
            .mac
            .unwrap_or(if plain { Mac::PLAIN } else { Mac::ZCNIC });
        let mac = base.plus(number);
        let path = escape(&port.path);
        add(
            "chardev",
            format!("socket,id=zc{number},path={path},reconnect-ms=500"),
        );
        add(
            "netdev",
            format!("vhost-user,id=zcnet{number},chardev=zc{number},queues={pairs}"),
        );
        add(
            "device",
            format!(
                "virtio-net-pci,netdev=zcnet{number},mq=on,vectors={vectors},rx_queue_size=1024,\
                 tx_queue_size=1024,disable-legacy=on,iommu_platform=on,mac={mac}"
            ),
        );
    }
    if let Some(control) = &args.control {
        let path = escape(control);
        add(
            "chardev",
            format!("socket,id=zcctl,path={path},reconnect-ms=500"),
        );
        add("device", "virtio-serial-pci,id=zcserial".into());
        add(
            "device",
            format!("virtserialport,bus=zcserial.0,chardev=zcctl,name={PORT_NAME}"),
        );
    }
    options
}

/// The options as lines of one shell command.
#[must_use]
pub fn render(args: &QemuArgs) -> String {
    let lines: Vec<String> = options(args)
        .iter()
        .map(|[name, value]| format!("{name} {}", quote(value)))
        .collect();
    lines.join(" \\\n")
}

/// Commas separate QEMU's suboptions; a doubled one is a comma.
fn escape(path: &Path) -> String {
    path.display().to_string().replace(',', ",,")
}

fn quote(value: &str) -> String {
    let harmless = |c: char| c.is_ascii_alphanumeric() || "-_./,=:+@%".contains(c);
    if value.chars().all(harmless) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn rendered(line: &str) -> String {
        let words = ["zcnic", "qemu-args"]
            .into_iter()
            .chain(line.split_whitespace());
        match Cli::try_parse_from(words).expect("options").command {
            Some(Command::QemuArgs(args)) => render(&args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn two_ports() {
        let expected = "\
-machine q35,memory-backend=mem \\
-m 2G \\
-object memory-backend-memfd,id=mem,size=2G,share=on \\
-chardev socket,id=zc0,path=/run/a.sock,reconnect-ms=500 \\
-netdev vhost-user,id=zcnet0,chardev=zc0,queues=9 \\
-device virtio-net-pci,netdev=zcnet0,mq=on,vectors=20,rx_queue_size=1024,tx_queue_size=1024,disable-legacy=on,iommu_platform=on,mac=5a:43:4e:00:00:01 \\
-chardev socket,id=zc1,path='/run/b c.sock',reconnect-ms=500 \\";
        let ports = "--queues 8 --port path=/run/a.sock --port path=/run/b";
        let rendered = rendered(ports);
        assert_eq!(
            rendered.lines().take(6).collect::<Vec<_>>(),
            expected.lines().take(6).collect::<Vec<_>>()
        );
        assert!(rendered.ends_with("mac=5a:43:4e:00:00:02"));
    }

    #[test]
    fn the_guest_gets_the_control_socket() {
        let rendered = rendered("--port path=/a --control /run/zcnic.ctl");
        assert!(rendered.ends_with(
            "-chardev socket,id=zcctl,path=/run/zcnic.ctl,reconnect-ms=500 \\\n\
             -device virtio-serial-pci,id=zcserial \\\n\
             -device virtserialport,bus=zcserial.0,chardev=zcctl,name=zcnic.control"
        ));
    }

    #[test]
    fn plain_port_is_not_for_the_zcnic_driver() {
        let plain = rendered("--port path=/a,mode=plain --queues 4");
        assert!(
            plain.contains("queues=4 ") && plain.contains("vectors=10,"),
            "{plain}"
        );
        assert!(!plain.contains("mac=5a:43:4e"));
        assert!(
            rendered("--port path=/a,mode=plain --mac 5a:43:4e:00:00:07").ends_with("4e:00:00:07")
        );
    }

    #[test]
    fn quoting() {
        assert_eq!(quote("a=b,c"), "a=b,c");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
