//! An idle backend. The test is alone in its process, because it measures the process's CPU time.

mod common;

use std::{os::unix::net::UnixStream, thread, time::Duration};

use common::World;
use rustix::time::{ClockId, clock_gettime};
use zcnic_backend::{FlowControl, StreamAddress, StreamConfig, StreamRole, Wire};
use zcnic_model::{
    Shape,
    frames::{broadcast, pattern},
};

/// CPU time of this process, backend included.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[test]
fn an_idle_backend_uses_no_cpu() {
    let directory = tempfile::tempdir().expect("directory");
    let path = directory.path().join("wire");
    let stream = Wire::Stream(StreamConfig {
        role: StreamRole::Listen,
        address: StreamAddress::Unix(path.clone()),
        flow_control: FlowControl::Pause,
    });
    let streaming = World::wired([stream, Wire::Null]);
    let mut driver = streaming.driver(0, 2);
    driver.bring_up(Shape::SPLIT, 64);
    let _peer = UnixStream::connect(path).expect("connect");

    let worlds = World::connected();
    let mut drivers = [&worlds[0], &worlds[1], &worlds[2]].map(|world| world.drivers(3));
    for [a, b] in &mut drivers {
        a.bring_up(Shape::SPLIT, 64);
        b.bring_up(Shape::SPLIT, 64);
        for _ in 0..20 {
            let frame = broadcast(&pattern(100));
            a.send(0, &frame);
            assert_eq!(b.receive(0).frame, frame);
        }
    }
    // Frames were just moved, so polling has to end first. It may take a thousand times longer than
    // configured: no event reports that nothing happens.
    thread::sleep(Duration::from_millis(100));
    let before = cpu_time();
    thread::sleep(Duration::from_secs(1));
    let used = cpu_time() - before;
    assert!(used < Duration::from_millis(5), "{used:?} in a second");
}
