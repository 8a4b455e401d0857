//! Options of an instance, and the buffers that it hands out.

/// Kind of memory that the device writes payload to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Memory {
    /// Anonymous memory: pages, or with larger buffers huge pages.
    Anonymous,
    /// Anonymous memory of huge pages.
    HugePages,
    /// A dmabuf, which the kernel can't read: of pages, or with larger buffers of huge pages.
    Dmabuf,
}

/// Sizes and features of an instance.
#[derive(Debug, Clone)]
pub struct Options {
    /// Bytes per buffer (`None`: a page).
    pub buf_len: Option<u32>,
    /// Kind of receive memory.
    pub memory: Memory,
    /// Bytes of receive memory.
    pub area_bytes: usize,
    /// Entries of the refill ring. A buffer may be in it once per fragment.
    pub refill_entries: u32,
    /// Completions that may wait before the kernel ends a request with ENOSPC.
    pub completions: u32,
    /// Whether the kernel notifies of copies and of failed allocations (from 7.2.12 and 7.3 on).
    pub notifications: bool,
}

impl Default for Options {
    /// Receive memory for a full 1024-entry ring of 16 KiB buffers twice over, or 8192 pages, and
    /// more entries of the refill ring than that.
    fn default() -> Self {
        Self {
            buf_len: None,
            memory: Memory::Anonymous,
            area_bytes: 32 << 20,
            refill_entries: 16 << 10,
            completions: 4096,
            notifications: false,
        }
    }
}

impl Options {
    /// Whether buffers are larger than a page, which takes physically contiguous memory.
    pub(super) fn large(&self) -> bool {
        self.buf_len.is_some_and(|len| len != 4096)
    }

    pub(super) fn huge(&self) -> bool {
        self.large() || self.memory == Memory::HugePages
    }
}

/// Source of the data.
#[derive(Debug, Clone)]
pub enum Target {
    /// A receive queue of an interface in our network namespace.
    Queue {
        /// Interface name.
        interface: String,
        /// Receive queue.
        queue: u32,
    },
    /// No device (`ZCRX_REG_NODEV`): everything is copied. Exercises this layer, not a NIC.
    NoDevice,
}

/// A piece of received data, which [`Zcrx::recycle`](super::Zcrx::recycle) returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Buffer {
    /// Number of the area, in the order in which areas were added.
    pub area: u16,
    /// Byte offset in the area.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}
