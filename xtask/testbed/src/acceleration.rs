//! Whether the host's hardware runs the guest's processors.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

/// How the guest's processors are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acceleration {
    /// By the host's hardware; the group that may open /dev/kvm, if not everybody may.
    Kvm { group: Option<u32> },
    /// By QEMU's own translation.
    Tcg,
}

impl Acceleration {
    /// KVM only where a stock kernel really boots under it: on a nested KVM without vmx or svm QEMU
    /// opens /dev/kvm and then dies at the guest's first steps.
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
            // Only root may, and QEMU won't be root.
            _ => Self::Tcg,
        }
    }

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm { .. } => "KVM",
            Self::Tcg => "TCG (no usable KVM here)",
        }
    }
}
