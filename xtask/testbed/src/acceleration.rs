//! Whether the host's hardware runs the guest's processors.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// How QEMU runs the guest's processors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// By the host's KVM.
    Kvm {
        /// The group that may open `/dev/kvm`; None if everybody may.
        group: Option<u32>,
    },
    /// By QEMU's translator.
    Tcg,
}

impl Acceleration {
    /// Chooses KVM only where the processor reports vmx or svm and `/dev/kvm` opens. On a nested
    /// KVM without them QEMU opens `/dev/kvm` and then dies at the guest's first instructions.
    pub fn probe() -> Self {
        let device = Path::new("/dev/kvm");
        let features = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let hardware = features
            .lines()
            .find(|line| line.starts_with("flags"))
            .is_some_and(|line| line.split(' ').any(|flag| flag == "vmx" || flag == "svm"));
        let opens = fs::File::options()
            .read(true)
            .write(true)
            .open(device)
            .is_ok();
        if !hardware || !opens {
            return Self::Tcg;
        }
        match fs::metadata(device) {
            Ok(meta) if meta.mode() & 0o006 == 0o006 => Self::Kvm { group: None },
            Ok(meta) if meta.mode() & 0o060 == 0o060 => Self::Kvm {
                group: Some(meta.gid()),
            },
            // Only root may open it, and QEMU does not run as root.
            _ => Self::Tcg,
        }
    }

    /// A name for reports and progress lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm { .. } => "KVM",
            Self::Tcg => "TCG (no usable KVM here)",
        }
    }
}
