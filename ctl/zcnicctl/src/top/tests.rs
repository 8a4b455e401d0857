use std::time::Instant;

use ratatui::{Terminal, backend::TestBackend};
use serde_json::{Value, json};

use super::*;

/// A sample of two ports, in which `n` scales the counters, `seconds` after the first.
fn sample(start: Instant, seconds: u64, n: u64) -> Sample {
    let parse = |value: Value| value.to_string();
    let status = json!({"ports": [
        {"name": "0", "path": "/a", "connected": true, "link": true, "driver": "zcnic", "rings": [0]},
        {"name": "1", "path": "/b", "connected": true, "link": false, "driver": "plain", "rings": []},
    ], "cables": []});
    let queue = |queue: u16, frames: u64, lost: u64| {
        json!({"queue": queue, "rx-frames": frames, "rx-bytes": 1500 * frames, "rx-split": frames / 2,
            "rx-csum-bad": 0, "rx-no-buffer": lost, "rx-stopped": 0, "rx-too-long": 0,
            "rx-bad-chain": 0, "rx-gro-frames": 0, "rx-gro-bytes": 0, "rx-gro-wire-frames": 0,
            "rx-gro-wire-bytes": 0, "rx-hashed": 0, "tx-frames": 0, "tx-bytes": 0, "tx-errors": 0})
    };
    let port = |name: &str, filtered: u64, queues: Vec<Value>| {
        json!({"name": name, "connections": 1, "rx-filtered": filtered, "rx-rule-drop": 0,
            "rx-pause-timeout": 0, "tx-no-carrier": 0, "queues": queues})
    };
    let stats = json!({"ports": [
        port("0", 0, vec![queue(0, 0, 0), queue(3, 2_000_000 * n, 0)]),
        port("1", 20 * n, vec![queue(0, 10 * n, 7 * n)]),
    ]});
    let faults = json!([
        {"id": 1, "port": "1", "seen": 100 * n, "hits": 5 * n, "voids-recovery": false,
            "rule": {"direction": "rx", "action": {"delay": {"nanoseconds": 5}}}},
        {"id": 9, "port": "0", "seen": 0, "hits": 0, "voids-recovery": false,
            "rule": {"direction": "sideways", "action": "warp"}},
    ]);
    let ledger = |queues: Value| json!({"settings": {"port": "0", "mode": "full", "sanitize": false}, "queues": queues});
    let full = json!([{"queue": 3, "posted": 9, "filled": 8, "unused": 0, "with-device": 1,
        "with-device-most": 2, "out": 4096, "out-most": 5000, "forgotten": 0, "violations": 2,
        "held": [], "distance": []}]);
    let ledgers = json!([ledger(full), ledger(json!([]))]);
    fn from<T: serde::de::DeserializeOwned>(text: &str) -> T {
        serde_json::from_str(text).expect("a result")
    }
    Sample {
        at: start + Duration::from_secs(seconds),
        version: Some("9.9.9".to_owned()),
        status: from(&parse(status)),
        stats: from(&parse(stats)),
        faults: from(&parse(faults)),
        ledgers: from(&parse(ledgers)),
    }
}

fn view() -> View {
    let start = Instant::now();
    let [before, now] = [(0, 1), (2, 2)].map(|(seconds, n)| sample(start, seconds, n));
    View::new("/run/zcnic.ctl".to_owned(), Some(&before), &now)
}

/// What a terminal of this size shows.
fn drawn(view: &View, columns: u16, rows: u16) -> String {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).expect("a terminal");
    terminal
        .draw(|frame| render::render(view, frame.area(), frame.buffer_mut()))
        .expect("drawn");
    lines(terminal.backend().buffer())
}

const FRAME: &str = "\
zcnic 9.9.9  /run/zcnic.ctl
port 0        zcnic     link
port 1        plain     no link        10/s filtered

port     queue    rx/s rx bit/s  drop/s split    tx/s tx bit/s     out    viol
0            0       0        0       0     -       0        0       -       -
0            3   1.00M    12.0G       0   50%       0        0    4096       2
1            0       5    60.0k    3.50   50%       0        0       -       -

fault   port     rule                         hits  hits/s      seen
1       1        rx delay                       10    2.50       200
9       0        -                               0       0         0
";

#[test]
fn a_frame_of_text_shows_everything_in_80_columns() {
    assert_eq!(text(&view()), FRAME);
}

#[test]
fn rules_are_at_the_bottom_of_a_terminal() {
    let frame = drawn(&view(), 80, 24);
    let [top, bottom] =
        [&frame[..], FRAME].map(|text| text.split_at(text.find("fault").expect("rules")));
    assert_eq!(top.1, bottom.1);
    assert_eq!(top.0.trim_end(), bottom.0.trim_end());
    assert_eq!(frame.lines().count(), 24);
}

#[test]
fn a_lost_backend_is_named_above_the_last_frame() {
    let mut view = view();
    view.gone = Some("Can't connect to /run/zcnic.ctl".to_owned());
    let frame = drawn(&view, 80, 24);
    assert!(
        frame.contains("\nWaiting for the backend: Can't connect to /run/zcnic.ctl\n"),
        "{frame}"
    );
    assert!(frame.contains("1.00M"), "{frame}");
}

#[test]
fn busy_queues_come_first_where_not_all_fit() {
    let mut view = view();
    let idle = view.queues[0].clone();
    for queue in 1..100 {
        view.queues.insert(
            0,
            view::QueueLine {
                queue,
                ..idle.clone()
            },
        );
    }
    let frame = drawn(&view, 80, 16);
    let queues: Vec<&str> = frame
        .lines()
        .skip_while(|line| !line.starts_with("port     queue"))
        .collect();
    assert!(
        queues[1].contains("1.00M") && queues[2].contains("60.0k"),
        "{frame}"
    );
    assert!(frame.contains("+96"), "{frame}");
    assert!(frame.contains("rx delay"), "{frame}");
}

#[test]
fn columns_that_do_not_fit_are_left_out() {
    let frame = drawn(&view(), 40, 24);
    assert!(
        frame.contains("\nport     queue    rx/s rx bit/s  drop/s\n"),
        "{frame}"
    );
    assert!(
        frame.contains("\n0            3   1.00M    12.0G       0\n"),
        "{frame}"
    );
}

#[test]
fn every_size_of_a_terminal_is_drawn() {
    let view = view();
    for columns in [1, 3, 20, 79, 200] {
        for rows in [1, 2, 5, 9, 50] {
            drawn(&view, columns, rows);
        }
    }
}

#[test]
fn another_backends_counters_have_no_rate() {
    let start = Instant::now();
    let view = View::new(
        String::new(),
        Some(&sample(start, 0, 5)),
        &sample(start, 1, 1),
    );
    assert_eq!(
        (view.queues[1].rx_frames, view.faults[0].rate),
        (None, None)
    );
    let first = View::new(String::new(), None, &sample(start, 0, 1));
    assert!(
        text(&first).contains("-        -       -"),
        "{}",
        text(&first)
    );
}

#[test]
fn keys_end_the_view() {
    let key = |code, modifiers| Event::Key(KeyEvent::new(code, modifiers));
    assert!(quits(&key(KeyCode::Char('q'), KeyModifiers::NONE)));
    assert!(quits(&key(KeyCode::Esc, KeyModifiers::NONE)));
    assert!(quits(&key(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    assert!(!quits(&key(KeyCode::Char('c'), KeyModifiers::NONE)));
    assert!(!quits(&Event::Resize(80, 24)));
}
