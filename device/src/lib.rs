//! The NIC itself: steering, split, offloads and queues, without IO.
