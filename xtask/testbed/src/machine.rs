//! QEMU's command line for a guest.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{
    acceleration::Acceleration, control, provision::cache::Cache, sandbox::Sandbox, share::Share,
};

/// The guest's memory, in MiB.
const MEMORY: u32 = 2048;

/// A zcnic port as QEMU sees it.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Distinguishes sockets and ids; one less than the MAC's last byte.
    pub index: u8,
    /// Number of queue pairs, the command pair included.
    pub pairs: u16,
}

impl Port {
    /// Returns the socket on which the backend serves it.
    pub fn socket(self, sandbox: &Sandbox) -> PathBuf {
        sandbox.path(&format!("port{}.sock", self.index))
    }

    /// Returns its MAC address, whose prefix makes zcnic.ko take the device.
    pub fn mac(self) -> String {
        format!("5a:43:4e:00:00:{:02x}", self.index + 1)
    }

    fn arguments(self, sandbox: &Sandbox) -> Vec<String> {
        let Self { index, pairs } = self;
        let (socket, mac) = (self.socket(sandbox), self.mac());
        // One vector per ring and one for configuration changes; the control queue has none.
        let vectors = 2 * pairs + 2;
        vec![
            "-chardev".to_owned(),
            format!(
                "socket,id=port{index},path={},reconnect-ms=500",
                socket.display()
            ),
            "-netdev".to_owned(),
            format!("vhost-user,id=net{index},chardev=port{index},queues={pairs}"),
            "-device".to_owned(),
            format!(
                "virtio-net-pci,id=nic{index},netdev=net{index},mac={mac},mq=on,vectors={vectors},\
                 rx_queue_size=1024,tx_queue_size=1024,disable-legacy=on,iommu_platform=on"
            ),
        ]
    }
}

/// A guest before it boots.
#[derive(Debug)]
pub struct Machine {
    /// How QEMU runs its processors.
    pub acceleration: Acceleration,
    /// Number of processors.
    pub processors: u32,
    /// The kernel's image, in the cache.
    pub vmlinuz: PathBuf,
    /// The initrd, in the cache.
    pub initrd: PathBuf,
    /// Serial number and image of each read-only disk, in the cache.
    pub disks: Vec<(String, PathBuf)>,
    /// Directories of the host.
    pub shares: Vec<Share>,
    /// Its zcnic ports.
    pub ports: Vec<Port>,
    /// Words added to the kernel's command line.
    pub kernel_arguments: Vec<String>,
}

impl Machine {
    /// Returns QEMU's arguments. QEMU's working directory must be the cache's root.
    ///
    /// # Errors
    ///
    /// If a file is not in the cache.
    pub fn arguments(&self, sandbox: &Sandbox, cache: &Cache) -> Result<Vec<OsString>> {
        let inside = |path: &Path| -> Result<String> {
            let relative = path.strip_prefix(cache.root()).with_context(|| {
                format!(
                    "{} is not in the cache, where QEMU could read it",
                    path.display()
                )
            })?;
            Ok(relative.display().to_string())
        };
        let (accelerator, processor) = match self.acceleration {
            Acceleration::Kvm { .. } => ("kvm", "host"),
            Acceleration::Tcg => ("tcg,thread=multi", "max"),
        };
        let mut command_line = vec![
            "console=ttyS0".to_owned(),
            // A guest that panics reboots at once, and QEMU ends with it (-no-reboot).
            "panic=-1".to_owned(),
            // All processors of a guest have one clock. Besides, one boot of Linux 7.3 in some
            // seventy hangs with the watchdog: it waits, interrupts off, for a processor that
            // stop_machine() holds until the first one leaves, and its time limit counts jiffies,
            // which do not advance meanwhile.
            "tsc=nowatchdog".to_owned(),
            // DMA_API_DEBUG checks our ports only: udmabuf maps its own buffers in segments longer
            // than its device allows.
            "dma_debug_driver=virtio-pci".to_owned(),
        ];
        command_line.extend(self.kernel_arguments.iter().cloned());

        let memory = format!("memory-backend-memfd,id=memory,size={MEMORY}M,share=on");
        let mut arguments: Vec<String> = ["-nodefaults", "-no-user-config", "-no-reboot"]
            .map(str::to_owned)
            .to_vec();
        let mut add = |option: &str, value: String| {
            arguments.extend([option.to_owned(), value]);
        };
        add("-display", "none".to_owned());
        add("-machine", "q35,memory-backend=memory".to_owned());
        add("-object", memory);
        add("-m", format!("{MEMORY}M"));
        add("-accel", accelerator.to_owned());
        add("-cpu", processor.to_owned());
        add("-smp", self.processors.to_string());
        add("-kernel", inside(&self.vmlinuz)?);
        add("-initrd", inside(&self.initrd)?);
        add("-append", command_line.join(" "));
        for (index, (serial, image)) in self.disks.iter().enumerate() {
            let image = inside(image)?;
            add(
                "-drive",
                format!("if=none,id=disk{index},file={image},format=raw,readonly=on"),
            );
            add(
                "-device",
                format!("virtio-blk-pci,drive=disk{index},serial={serial}"),
            );
        }
        let socket = |name: &str| {
            let path = sandbox.path(&format!("{name}.sock"));
            format!("socket,id={name},path={}", path.display())
        };
        add(
            "-chardev",
            format!(
                "file,id=console,path={}",
                sandbox.path("console.log").display()
            ),
        );
        add("-serial", "chardev:console".to_owned());
        add("-chardev", socket("qmp"));
        add("-mon", "chardev=qmp,mode=control".to_owned());
        add("-chardev", socket("agent"));
        add(
            "-device",
            "virtio-serial-pci,id=serial,max_ports=3".to_owned(),
        );
        add(
            "-device",
            "virtserialport,bus=serial.0,nr=1,chardev=agent,name=org.zcnic.agent".to_owned(),
        );
        if !self.ports.is_empty() {
            // QEMU reconnects to a backend that was killed and started again.
            let path = sandbox.path(control::SOCKET);
            let path = path.display();
            add(
                "-chardev",
                format!("socket,id=control,path={path},reconnect-ms=500"),
            );
            add(
                "-device",
                "virtserialport,bus=serial.0,nr=2,chardev=control,name=zcnic.control".to_owned(),
            );
        }
        for (index, share) in self.shares.iter().enumerate() {
            arguments.extend(share.arguments(index));
        }
        for port in &self.ports {
            arguments.extend(port.arguments(sandbox));
        }
        Ok(arguments.into_iter().map(OsString::from).collect())
    }
}
