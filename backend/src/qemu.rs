//! The options for QEMU, or the XML for libvirt, of a guest with these ports.

use std::path::Path;

use zcnic_ctl::client::PORT_NAME;

use crate::{
    args::{OptionsFormat, QemuArgs},
    config::{Mac, PortMode},
};

/// Entries of each ring. QEMU's default of 256 and libvirt's are smaller.
const RING_SIZE: u16 = 1024;

/// A port as QEMU has to present it to the guest.
struct GuestPort<'a> {
    number: usize,
    path: &'a Path,
    mac: Mac,
    /// Queue pairs, a zcnic port's command pair included.
    pairs: u16,
}

impl GuestPort<'_> {
    fn options(&self) -> [[String; 2]; 3] {
        let Self {
            number, mac, pairs, ..
        } = self;
        let path = escape(self.path);
        // Two rings per pair, the configuration's vector, and one for QEMU's control queue.
        let vectors = 2 * pairs + 2;
        [
            option(
                "chardev",
                format!("socket,id=zc{number},path={path},reconnect-ms=500"),
            ),
            option(
                "netdev",
                format!("vhost-user,id=zcnet{number},chardev=zc{number},queues={pairs}"),
            ),
            option(
                "device",
                format!(
                    "virtio-net-pci,netdev=zcnet{number},mq=on,vectors={vectors},\
                     rx_queue_size={RING_SIZE},tx_queue_size={RING_SIZE},disable-legacy=on,\
                     iommu_platform=on,mac={mac}"
                ),
            ),
        ]
    }

    /// The element `<interface>`. libvirt chooses the number of vectors by itself, and disables the
    /// legacy interface of a non-transitional device.
    fn interface(&self) -> String {
        let Self { mac, pairs, .. } = self;
        let path = quote_xml(self.path);
        format!(
            "\
<interface type='vhostuser'>
  <mac address='{mac}'/>
  <source type='unix' path='{path}' mode='client'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <model type='virtio-non-transitional'/>
  <driver queues='{pairs}' rx_queue_size='{RING_SIZE}' tx_queue_size='{RING_SIZE}' iommu='on'/>
</interface>
"
        )
    }
}

/// The options, one per entry: name and value.
#[must_use]
pub fn options(args: &QemuArgs) -> Vec<[String; 2]> {
    let mut options = Vec::new();
    if !args.devices_only {
        let memory = memory(args);
        options.extend([
            option("machine", "q35,memory-backend=mem".into()),
            option("m", memory.clone()),
            option(
                "object",
                format!("memory-backend-memfd,id=mem,size={memory},share=on"),
            ),
        ]);
    }
    options.extend(ports(args).flat_map(|port| port.options()));
    if let Some(control) = &args.control {
        let path = escape(control);
        options.extend([
            option(
                "chardev",
                format!("socket,id=zcctl,path={path},reconnect-ms=500"),
            ),
            option("device", "virtio-serial-pci,id=zcserial".into()),
            option(
                "device",
                format!("virtserialport,bus=zcserial.0,chardev=zcctl,name={PORT_NAME}"),
            ),
        ]);
    }
    options
}

/// The text that `zcnic qemu-args` prints, without a line feed at its end.
#[must_use]
pub fn render(args: &QemuArgs) -> String {
    let shell = |separator: &str| {
        let options = options(args);
        let options = options
            .iter()
            .map(|[name, value]| format!("{name} {}", quote(value)));
        options.collect::<Vec<_>>().join(separator)
    };
    match args.format {
        OptionsFormat::Shell => shell(" \\\n"),
        OptionsFormat::Line => shell(" "),
        OptionsFormat::Json => serde_json::json!(options(args).concat()).to_string(),
        OptionsFormat::Libvirt if args.devices_only => devices(args).trim_end().to_owned(),
        OptionsFormat::Libvirt => domain(args),
    }
}

fn option(name: &str, value: String) -> [String; 2] {
    [format!("-{name}"), value]
}

fn ports(args: &QemuArgs) -> impl Iterator<Item = GuestPort<'_>> {
    args.ports.iter().enumerate().map(|(number, port)| {
        let plain = port.mode == PortMode::Plain;
        let base = args
            .mac
            .unwrap_or(if plain { Mac::PLAIN } else { Mac::ZCNIC });
        GuestPort {
            number,
            path: &port.path,
            mac: base.plus(number),
            // A zcnic port's last pair carries commands.
            pairs: if plain { args.queues } else { args.queues + 1 },
        }
    })
}

/// The elements for `<devices>` of a libvirt domain (https://libvirt.org/formatdomain.html).
fn devices(args: &QemuArgs) -> String {
    let mut devices: String = ports(args).map(|port| port.interface()).collect();
    if let Some(control) = &args.control {
        let path = quote_xml(control);
        devices.push_str(&format!(
            "\
<channel type='unix'>
  <source mode='connect' path='{path}'>
    <reconnect enabled='yes' timeout='1'/>
  </source>
  <target type='virtio' name='{PORT_NAME}'/>
</channel>
"
        ));
    }
    devices
}

/// The guest's memory with its unit: without one QEMU's -m counts MiB, and its memory object bytes.
fn memory(args: &QemuArgs) -> String {
    let unit = if args.memory.ends_with(char::is_alphabetic) {
        ""
    } else {
        "M"
    };
    format!("{}{unit}", args.memory)
}

/// A libvirt domain without disks. A vhost-user interface needs the guest's memory in a shared file.
fn domain(args: &QemuArgs) -> String {
    let memory = memory(args);
    let digits = memory.trim_end_matches(char::is_alphabetic);
    let unit = &memory[digits.len()..];
    let devices = devices(args);
    let devices: String = devices
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    format!(
        "\
<domain type='kvm'>
  <name>zcnic</name>
  <memory unit='{unit}'>{digits}</memory>
  <vcpu>4</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
  </os>
  <memoryBacking>
    <source type='memfd'/>
    <access mode='shared'/>
  </memoryBacking>
  <devices>
{devices}  </devices>
</domain>"
    )
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

/// A path as the value of an XML attribute in single quotes.
fn quote_xml(path: &Path) -> String {
    path.display()
        .to_string()
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('\'', "&apos;")
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
    fn one_line_for_a_program_that_takes_options_as_one_argument() {
        let rendered = rendered("--port path=/a --format line --devices-only");
        assert_eq!(rendered.lines().count(), 1);
        assert!(
            rendered.starts_with("-chardev socket,id=zc0,path=/a,"),
            "{rendered}"
        );
        assert!(!rendered.contains("memory"), "{rendered}");
    }

    #[test]
    fn memory_without_a_unit_is_in_mebibytes_everywhere() {
        let rendered = rendered("--port path=/a --memory 512");
        assert!(rendered.contains("-m 512M "), "{rendered}");
        assert!(rendered.contains(",size=512M,"), "{rendered}");
    }

    #[test]
    fn json_has_the_words_that_a_shell_would_make() {
        let arguments = "--port path=/it's --control /a,b";
        let json = rendered(&format!("{arguments} --format json"));
        let words: Vec<String> = serde_json::from_str(&json).expect("JSON");
        assert_eq!(words[..2], ["-machine", "q35,memory-backend=mem"]);
        let shell = std::process::Command::new("sh")
            .arg("-c")
            .arg(format!(
                "for word in {}; do echo \"$word\"; done",
                rendered(arguments)
            ))
            .output()
            .expect("sh");
        let printed = String::from_utf8(shell.stdout).expect("text");
        assert_eq!(printed.lines().collect::<Vec<_>>(), words);
    }

    #[test]
    fn libvirt_gets_a_domain_or_its_interfaces() {
        let arguments = "--port path=/a&b --port path=/b --control /c --memory 3G --format libvirt";
        let domain = rendered(arguments);
        assert!(domain.starts_with("<domain type='kvm'>"), "{domain}");
        for part in [
            "<memory unit='G'>3</memory>",
            "<access mode='shared'/>",
            "<source type='unix' path='/a&amp;b' mode='client'>",
            "<mac address='5a:43:4e:00:00:02'/>",
            "<driver queues='5' rx_queue_size='1024' tx_queue_size='1024' iommu='on'/>",
            "<target type='virtio' name='zcnic.control'/>",
        ] {
            assert_eq!(
                domain.matches(part).count(),
                if part.starts_with("<driver") { 2 } else { 1 }
            );
        }
        let devices = rendered(&format!("{arguments} --devices-only"));
        assert!(
            devices.starts_with("<interface type='vhostuser'>"),
            "{devices}"
        );
        assert!(devices.ends_with("</channel>"), "{devices}");
    }

    #[test]
    fn quoting() {
        assert_eq!(quote("a=b,c"), "a=b,c");
        assert_eq!(quote("it's"), r"'it'\''s'");
    }
}
