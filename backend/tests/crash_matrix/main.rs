//! The crash matrix without a guest: the backend, a frontend or a control client is killed or
//! paused at a random time of its work. Afterwards frames flow again, every buffer is returned, and
//! the backend has the descriptors and threads that it had at first.
//!
//! `cargo xtask crash` runs it with more seeds and points, by these variables of the environment:
//! `ZCNIC_CRASH_POINTS` (names with commas in between, or `all`), `ZCNIC_CRASH_SEEDS` (how many, by
//! default one), `ZCNIC_CRASH_SEED` (the first), and `ZCNIC_CRASH_REPORT` (a file that gets a line of
//! JSON per point and seed).

mod point;
mod process;
mod work;

use std::{
    any::Any,
    env,
    ffi::OsString,
    fs::File,
    io::{Read, Write, stdin},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use libtest_mimic::{Arguments, Failed, Trial};
use serde_json::json;
use zcnic_ctl::{Client, LedgerMode, LedgerSet};
use zcnic_model::{
    Driver,
    vhost_user::{Frontend, PATIENCE, used_indices},
};

use point::{Blow, Moment, Point, Victim};
use process::{Backend, Other};
use work::{Worker, assert_steered, configure, connect};

/// The blow falls at most this long after the work has begun.
const LATEST: Duration = Duration::from_millis(30);
/// A thread with this name may panic while the backend is down.
const ORPHAN: &str = "orphan";

fn main() -> ExitCode {
    let words: Vec<OsString> = env::args_os().collect();
    if let [_, role, path, moment] = &words[..]
        && let Some(Ok(moment)) = moment.to_str().map(str::parse)
    {
        return act(role == "frontend", Path::new(path), moment);
    }
    quiet_orphans();
    let named = env::var("ZCNIC_CRASH_POINTS").ok();
    let points = Point::all().filter(|point| match named.as_deref() {
        None => point.is_short(),
        Some("all") => true,
        Some(names) => names.split(',').any(|name| name == point.to_string()),
    });
    let trials = points.map(|point| Trial::test(point.to_string(), move || try_seeds(point)));
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

/// A panic of an [`ORPHAN`] is judged by the thread that joins it.
fn quiet_orphans() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if thread::current().name() != Some(ORPHAN) {
            usual(panic);
        }
    }));
}

/// The part of a frontend or control client, until standard input is closed.
fn act(is_frontend: bool, path: &Path, moment: Moment) -> ExitCode {
    static ENDS: AtomicBool = AtomicBool::new(false);
    thread::spawn(|| {
        let _ = stdin().read(&mut [0]);
        ENDS.store(true, Ordering::Relaxed);
    });
    let goes_on = || !ENDS.load(Ordering::Relaxed);
    let ready = || println!("ready");
    if !is_frontend {
        if let Err(error) = work::control(path, moment, ready, goes_on) {
            eprintln!("{error:?}");
            return ExitCode::FAILURE;
        }
        return ExitCode::SUCCESS;
    }
    let mut worker = Worker::new(path, moment);
    ready();
    while goes_on() {
        worker.round();
    }
    ExitCode::SUCCESS
}

fn number(name: &str) -> u64 {
    let value = env::var(name).ok();
    value.map_or(1, |text| text.parse().expect(name))
}

fn try_seeds(point: Point) -> Result<(), Failed> {
    let first = number("ZCNIC_CRASH_SEED");
    for seed in first..first + number("ZCNIC_CRASH_SEEDS") {
        let result = catch_unwind(|| try_point(point, seed));
        let error = result.as_ref().err().map(|panic| text_of(&**panic));
        let seconds = result.map_or(0.0, |time| time.as_secs_f64());
        let line = json!({
            "point": point.to_string(),
            "seed": seed,
            "seconds": seconds,
            "error": error,
        });
        if let Some(path) = env::var_os("ZCNIC_CRASH_REPORT") {
            let mut file = File::options().append(true).create(true).open(path)?;
            // One write per line, since points run side by side.
            file.write_all(format!("{line}\n").as_bytes())?;
        }
        if let Some(error) = error {
            return Err(format!("seed {seed}: {error}").into());
        }
    }
    Ok(())
}

/// Strikes once, and returns the time from the blow, or from the end of the pause, until frames
/// flow as before.
fn try_point(point: Point, seed: u64) -> Duration {
    let mut random = fastrand::Rng::with_seed(seed);
    let delay = Duration::from_micros(random.u64(..LATEST.as_micros() as u64));
    let mut backend = Backend::start();
    keep_ledgers(&backend);
    let (took, drivers) = match point.victim {
        Victim::Backend => strike_backend(&mut backend, point, delay),
        Victim::Frontend => strike_frontend(&backend, point, delay),
        Victim::Client => strike_client(&backend, point, delay),
    };
    close(&backend, drivers);
    took
}

/// The message of a panic.
fn text_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or(panic.downcast_ref::<&str>().copied());
    text.unwrap_or("a panic").to_owned()
}

fn keep_ledgers(backend: &Backend) {
    let mut client = Client::connect(&backend.control()).expect("control");
    for port in ["0", "1"] {
        let settings = LedgerSet::new(port, LedgerMode::Full);
        client.ledger_set(&settings).expect("a ledger");
    }
}

/// Checks that frames flow in both directions.
fn assert_flow(drivers: &mut [Driver<Frontend>; 2]) {
    let [a, b] = drivers;
    assert_steered(a, b, 0xee);
    assert_steered(b, a, 0xdd);
}

/// Stops all queues, which returns all buffers, and disconnects.
fn close(backend: &Backend, drivers: [Driver<Frontend>; 2]) {
    let mut client = Client::connect(&backend.control()).expect("control");
    for (port, mut driver) in drivers.into_iter().enumerate() {
        for queue in 0..driver.data_pairs() {
            driver.stop_transmit(queue).expect("a stop");
            driver.stop_receive(queue).expect("a stop");
        }
        let ledger = client.ledger(&port.to_string()).expect("a ledger");
        assert!(!ledger.queues.is_empty(), "the ledger saw no queue");
        for queue in ledger.queues {
            let stop = queue.last_stop;
            assert_eq!(queue.with_device, 0, "buffers of {queue:?}");
            assert_eq!(queue.violations, 0, "violations of {queue:?}");
            assert!(stop.is_none_or(|stop| stop.clean), "the stop of {queue:?}");
        }
    }
    drop(client);
    backend.assert_idle();
}

/// Works on ports while `blow` runs, which no worker may notice unless it `may_fail`. Returns the
/// drivers, unless they were lost with a connection.
fn work_during(
    paths: &[PathBuf; 2],
    moments: &[Moment],
    may_fail: bool,
    blow: impl FnOnce(),
) -> Vec<Option<Driver<Frontend>>> {
    let ends = AtomicBool::new(false);
    let rounds = [const { AtomicU64::new(0) }; 2];
    thread::scope(|scope| {
        let threads: Vec<_> = moments
            .iter()
            .enumerate()
            .map(|(port, &moment)| {
                let (path, ends, rounds) = (&paths[port], &ends, &rounds[port]);
                let work = move || {
                    let mut worker = Worker::new(path, moment);
                    rounds.store(1, Ordering::Relaxed);
                    let worked = catch_unwind(AssertUnwindSafe(|| {
                        while !ends.load(Ordering::Relaxed) {
                            worker.round();
                            rounds.fetch_add(1, Ordering::Relaxed);
                        }
                    }));
                    if let Err(panic) = worked
                        && !may_fail
                    {
                        panic!("port {port}: {}", text_of(&*panic));
                    }
                    worker.into_driver()
                };
                let named = thread::Builder::new().name(ORPHAN.to_owned());
                named.spawn_scoped(scope, work).expect("a thread")
            })
            .collect();
        let begun = || {
            rounds[..moments.len()]
                .iter()
                .all(|it| it.load(Ordering::Relaxed) > 0)
        };
        while !begun() && !threads.iter().any(thread::ScopedJoinHandle::is_finished) {
            thread::sleep(Duration::from_millis(1));
        }
        blow();
        // Work that the blow does not end goes on before anything else is done.
        let rounds_now = || rounds.each_ref().map(|it| it.load(Ordering::Relaxed));
        let (start, at_blow) = (Instant::now(), rounds_now());
        let held_up = || {
            let mut pairs = rounds_now().into_iter().zip(at_blow).take(moments.len());
            pairs.any(|(now, before)| now <= before)
        };
        while !may_fail && held_up() && start.elapsed() < PATIENCE {
            thread::sleep(Duration::from_millis(1));
        }
        let held_up = !may_fail && held_up();
        ends.store(true, Ordering::Relaxed);
        let joined = threads.into_iter().map(|thread| {
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        let drivers = joined.collect();
        assert!(!held_up, "a port is held up");
        drivers
    })
}

type Recovered = (Duration, [Driver<Frontend>; 2]);

fn strike_backend(backend: &mut Backend, point: Point, delay: Duration) -> Recovered {
    let mut struck = Instant::now();
    let is_kill = point.blow == Blow::Kill;
    let paths = backend.ports();
    // A port that was paused while it waited for a frontend to leave refuses the next one, which
    // has to connect again.
    let may_fail = is_kill || point.moment == Moment::Teardown;
    let worked = work_during(&paths, &[point.moment; 2], may_fail, || {
        thread::sleep(delay);
        backend.process.strike(point.blow);
        struck = Instant::now();
    });
    if is_kill {
        backend.restart();
        keep_ledgers(backend);
    }
    let mut ports = worked.into_iter().zip(&paths).map(|(driver, path)| {
        let Some(mut driver) = driver else {
            return connect(path);
        };
        if is_kill {
            driver.backend_died();
            let (_, pairs, frontend) = driver.parts();
            let used = used_indices(pairs);
            frontend.reconnect(path, |ring| used[ring]);
        }
        configure(&mut driver);
        driver
    });
    let mut drivers = [(); 2].map(|()| ports.next().expect("two ports"));
    drop(ports);
    assert_flow(&mut drivers);
    (struck.elapsed(), drivers)
}

fn strike_frontend(backend: &Backend, point: Point, delay: Duration) -> Recovered {
    let [_, path] = backend.ports();
    let mut struck = Instant::now();
    let mut victim = Other::start("frontend", &path, point.moment);
    let mut worked = work_during(&backend.ports(), &[Moment::Traffic], false, || {
        thread::sleep(delay);
        victim.0.strike(point.blow);
        struck = Instant::now();
    });
    let neighbour = worked.remove(0);
    if point.blow == Blow::Pause {
        let end = victim.finish();
        // A handshake that was paused for too long was ended by the backend.
        assert!(end.is_ok() || point.moment == Moment::Teardown, "{end:?}");
    }
    let mut drivers = [neighbour.expect("it kept its connection"), connect(&path)];
    assert_flow(&mut drivers);
    (struck.elapsed(), drivers)
}

fn strike_client(backend: &Backend, point: Point, delay: Duration) -> Recovered {
    let mut struck = Instant::now();
    let mut victim = Other::start("client", &backend.control(), point.moment);
    let worked = work_during(&backend.ports(), &[Moment::Traffic; 2], false, || {
        thread::sleep(delay);
        victim.0.strike(point.blow);
        struck = Instant::now();
    });
    if point.blow == Blow::Pause {
        let end = victim.finish();
        // A client that does not read what it captures loses its connection.
        let captures = matches!(point.moment, Moment::Traffic | Moment::Bind);
        assert!(end.is_ok() || captures, "{end:?}");
    }
    let mut client = Client::connect(&backend.control()).expect("control");
    // Rules of a client outlive it.
    client.fault_remove_all("1").expect("rules");
    let mut ports = worked.into_iter();
    let mut drivers = [(); 2].map(|()| ports.next().flatten().expect("it kept its connection"));
    assert_flow(&mut drivers);
    (struck.elapsed(), drivers)
}
