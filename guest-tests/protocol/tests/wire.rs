//! The wire format, to the byte: a change here needs both ends from the same commit.

use std::{collections::BTreeMap, fmt::Debug};

use serde::{Serialize, de::DeserializeOwned};
use zcnic_guest_protocol::{
    agent::{Action, Exec, Payload, Reply, Request, RequestId},
    check::{CheckResult, FoundPool, LogFindings, LogHit},
    event::{CaseEnd, Event, NoResult, ReceiveResult, SendResult, UdpPingResult},
    figure::Figure,
    interface::{FlowSteering, PagePool, PortSetup, QueueStats, Rings, Snapshot},
    selftest::{CaseResult, Outcome, SelftestResults, TestResult},
};

/// Checks that `message` is written as `line`, and that `line` is read as `message`.
#[track_caller]
fn golden<M: Debug + DeserializeOwned + PartialEq + Serialize>(message: &M, line: &str) {
    assert_eq!(serde_json::to_string(message).unwrap(), line);
    assert_eq!(serde_json::from_str::<M>(line).unwrap(), *message);
}

fn pool() -> PagePool {
    PagePool {
        id: 7,
        ifindex: Some(2),
        napi_id: None,
        inflight: 900,
        detach_time: None,
        io_uring_rx_buf_len: Some(4096),
        dmabuf: None,
        outstanding: Some(257),
    }
}

const POOL: &str = r#""id":7,"ifindex":2,"napi_id":null,"inflight":900,"detach_time":null,"io_uring_rx_buf_len":4096,"dmabuf":null,"outstanding":257"#;

#[test]
fn requests() {
    let request = |action| Request { id: 1, action };
    let exec = Exec {
        argv: vec!["ls".to_owned(), "-l".to_owned()],
        ..Exec::default()
    };
    golden(
        &request(Action::Exec(exec.clone())),
        r#"{"exec":["ls","-l"],"id":1}"#,
    );
    golden(
        &request(Action::Exec(Exec {
            stdin: true,
            cwd: Some("/usr".to_owned()),
            env: BTreeMap::from([("NAME".to_owned(), "value".to_owned())]),
            timeout: Some(60.0),
            tty: Some([24, 80]),
            ..exec
        })),
        r#"{"cwd":"/usr","env":{"NAME":"value"},"exec":["ls","-l"],"id":1,"stdin":true,"timeout":60.0,"tty":[24,80]}"#,
    );
    golden(
        // The bytes themselves follow the line.
        &request(Action::Input(Payload(vec![0; 5]))),
        r#"{"id":1,"input":5}"#,
    );
    golden(
        &request(Action::Size([24, 80])),
        r#"{"id":1,"size":[24,80]}"#,
    );
    golden(&request(Action::Credit(4096)), r#"{"credit":4096,"id":1}"#);
    golden(&request(Action::Kill(9)), r#"{"id":1,"kill":9}"#);
    golden(&request(Action::PowerOff), r#"{"id":1,"poweroff":true}"#);
}

#[test]
fn wrong_requests_are_refused_and_have_an_id() {
    for (line, reason) in [
        (
            r#"{"id":1}"#,
            "needs one of credit, exec, input, kill, poweroff, size",
        ),
        (r#"{"id":1,"exec":[]}"#, "needs one of credit, exec"),
        (r#"{"id":1,"poweroff":false}"#, "needs one of credit, exec"),
        (
            r#"{"id":1,"execute":["ls"]}"#,
            "unknown field `execute`, expected one of",
        ),
        (r#"{"id":1,"kill":"TERM"}"#, "invalid type"),
    ] {
        let error = serde_json::from_str::<Request>(line).unwrap_err();
        assert!(error.to_string().contains(reason), "{line}: {error}");
        assert_eq!(serde_json::from_str::<RequestId>(line).unwrap().id, 1);
    }
    assert!(serde_json::from_str::<Request>(r#"{"exec":["ls"]}"#).is_err());
}

#[test]
fn replies() {
    let text = "x".to_owned();
    let bytes = || Payload(vec![0]);
    let ready = Reply::Ready {
        kernel: "7.3.4".to_owned(),
        ready: true,
    };
    golden(&ready, r#"{"kernel":"7.3.4","ready":true}"#);
    assert_eq!(ready.id(), None);
    for (reply, line) in [
        (
            Reply::Stdout {
                id: 1,
                stdout: bytes(),
            },
            r#"{"id":1,"stdout":1}"#,
        ),
        (
            Reply::Stderr {
                id: 1,
                stderr: bytes(),
            },
            r#"{"id":1,"stderr":1}"#,
        ),
        (Reply::Credit { credit: 9, id: 1 }, r#"{"credit":9,"id":1}"#),
        (Reply::Exit { exit: 0, id: 1 }, r#"{"exit":0,"id":1}"#),
        (Reply::Signal { id: 1, signal: 9 }, r#"{"id":1,"signal":9}"#),
        (
            Reply::Error {
                error: text.clone(),
                id: Some(1),
            },
            r#"{"error":"x","id":1}"#,
        ),
    ] {
        golden(&reply, line);
        assert_eq!(reply.id(), Some(1));
    }
    golden(
        &Reply::Error {
            error: text,
            id: None,
        },
        r#"{"error":"x"}"#,
    );
    for wrong in [r#"{"id":1}"#, r#"{"id":1,"exit":0,"more":1}"#, "7"] {
        assert!(serde_json::from_str::<Reply>(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn events() {
    type Plain = Event<NoResult>;
    golden(
        &Plain::Listening { port: 4433 },
        r#"{"event":"listening","port":4433}"#,
    );
    golden(
        &Plain::Connected {
            peer: "192.0.2.2:1".to_owned(),
        },
        r#"{"event":"connected","peer":"192.0.2.2:1"}"#,
    );
    golden(
        &Plain::Progress { bytes: 5 },
        r#"{"event":"progress","bytes":5}"#,
    );
    golden(&Plain::Held, r#"{"event":"held"}"#);
    golden(
        &Plain::Line {
            text: "* does".to_owned(),
        },
        r#"{"event":"line","text":"* does"}"#,
    );
    golden(
        &Plain::Echoing { zero_copy: true },
        r#"{"event":"echoing","zero_copy":true}"#,
    );
    golden(
        &Plain::Stalled { bytes: 5 },
        r#"{"event":"stalled","bytes":5}"#,
    );
}

#[test]
fn results_of_streams() {
    let mut received = ReceiveResult {
        ok: true,
        error: None,
        interface: Some("eth0".to_owned()),
        queue: Some(3),
        bytes_verified: 5,
        bytes_copied: Some(0),
        copies: Some(0),
        rx_buf_len: Some(4096),
        completions: 2,
        requests: 1,
        page_pool: vec![pool()],
        kernel: "7.3.4".to_owned(),
        seconds: 0.5,
    };
    golden(
        &Event::Result(received.clone()),
        &format!(
            r#"{{"event":"result","ok":true,"interface":"eth0","queue":3,"bytes_verified":5,"bytes_copied":0,"copies":0,"rx_buf_len":4096,"completions":2,"requests":1,"page_pool":[{{{POOL}}}],"kernel":"7.3.4","seconds":0.5}}"#
        ),
    );
    assert_eq!(received.io_uring_pool(), Some(&pool()));
    assert!(!received.ended_early());
    received = ReceiveResult {
        ok: false,
        error: Some("the stream ended after 5 of 9 bytes".to_owned()),
        interface: None,
        queue: None,
        bytes_copied: None,
        copies: None,
        rx_buf_len: None,
        page_pool: Vec::new(),
        ..received
    };
    golden(
        &Event::Result(received.clone()),
        r#"{"event":"result","ok":false,"error":"the stream ended after 5 of 9 bytes","interface":null,"queue":null,"bytes_verified":5,"bytes_copied":null,"copies":null,"rx_buf_len":null,"completions":2,"requests":1,"page_pool":[],"kernel":"7.3.4","seconds":0.5}"#,
    );
    assert!(received.ended_early() && received.io_uring_pool().is_none());
    golden(
        &Event::Result(SendResult {
            ok: false,
            error: Some("x".to_owned()),
            bytes_sent: 5,
            seconds: 1.0,
        }),
        r#"{"event":"result","ok":false,"error":"x","bytes_sent":5,"seconds":1.0}"#,
    );
    golden(
        &Event::Result(UdpPingResult {
            datagrams: 3,
            bytes_verified: 99,
        }),
        r#"{"event":"result","datagrams":3,"bytes_verified":99}"#,
    );
}

#[test]
fn ends_of_cases() {
    let mut end = CaseEnd {
        case: "copy-fallback".to_owned(),
        error: None,
        seconds: 0.25,
    };
    golden(
        &Event::Result(end.clone()),
        r#"{"event":"result","case":"copy-fallback","error":null,"seconds":0.25}"#,
    );
    end.error = Some("x".to_owned());
    golden(
        &Event::Result(end),
        r#"{"event":"result","case":"copy-fallback","error":"x","seconds":0.25}"#,
    );
}

#[test]
fn selftests() {
    let case = |outcome| CaseResult {
        name: "a.py:b".to_owned(),
        outcome,
        seconds: 0.5,
        detail: String::new(),
    };
    golden(
        &SelftestResults {
            tests: vec![TestResult {
                test: "drivers/net/a.py".to_owned(),
                seconds: 1.5,
                cases: vec![case(Outcome::Pass), case(Outcome::Xfail)],
            }],
        },
        r#"{"tests":[{"test":"drivers/net/a.py","seconds":1.5,"cases":[{"name":"a.py:b","outcome":"pass","seconds":0.5,"detail":""},{"name":"a.py:b","outcome":"xfail","seconds":0.5,"detail":""}]}]}"#,
    );
    golden(
        &[Outcome::Fail, Outcome::Skip].to_vec(),
        r#"["fail","skip"]"#,
    );
}

#[test]
fn checks() {
    let log = LogFindings {
        hits: vec![LogHit {
            seq: 3,
            usec: 4,
            classes: vec!["bug".to_owned()],
            line: "BUG: x".to_owned(),
        }],
        context: vec!["BUG: x".to_owned()],
        lost: 0,
        next_seq: 5,
    };
    assert!(!log.is_good() && LogFindings::default().is_good());
    golden(
        &CheckResult {
            ok: false,
            problems: vec!["kernel log: BUG: x".to_owned()],
            log,
            page_pools: vec![FoundPool {
                netns: Some("peer".to_owned()),
                posted: Some(256),
                pool: pool(),
            }],
        },
        &format!(
            r#"{{"ok":false,"problems":["kernel log: BUG: x"],"log":{{"hits":[{{"seq":3,"usec":4,"classes":["bug"],"line":"BUG: x"}}],"context":["BUG: x"],"lost":0,"next_seq":5}},"page_pools":[{{"netns":"peer","posted":256,{POOL}}}]}}"#
        ),
    );
}

#[test]
fn interfaces() {
    golden(
        &Snapshot {
            rings: Some(Rings {
                rx: Some(256),
                tx: Some(256),
                tcp_data_split: Some(true),
                hds_thresh: Some(0),
                hds_thresh_max: None,
            }),
            queues: Some(vec![QueueStats {
                queue: 1,
                rx: true,
                packets: Some(2),
                bytes: Some(3),
                alloc_fail: None,
                hw_drops: Some(0),
            }]),
            page_pools: Vec::new(),
        },
        r#"{"rings":{"rx":256,"tx":256,"tcp_data_split":true,"hds_thresh":0,"hds_thresh_max":null},"queues":[{"queue":1,"rx":true,"packets":2,"bytes":3,"alloc_fail":null,"hw_drops":0}],"page_pools":[]}"#,
    );
    golden(&FlowSteering { rules: [8, 9] }, r#"{"rules":[8,9]}"#);
    golden(
        &vec![PortSetup {
            netns: None,
            interface: "eth0".to_owned(),
            mac: "5a:43:4e:00:00:01".to_owned(),
            driver: Some("zcnic".to_owned()),
            addresses: vec!["192.0.2.1/24".to_owned(), "2001:db8::1/64".to_owned()],
        }],
        r#"[{"netns":null,"interface":"eth0","mac":"5a:43:4e:00:00:01","driver":"zcnic","addresses":["192.0.2.1/24","2001:db8::1/64"]}]"#,
    );
}

#[test]
fn figures() {
    golden(
        &Figure {
            name: "guest_epoll".to_owned(),
            unit: "bytes/CPU s".to_owned(),
            a: vec![1.5],
            b: vec![2.0],
            again: vec![1e9],
            counters: BTreeMap::from([("bytes".to_owned(), 5)]),
        },
        r#"{"name":"guest_epoll","unit":"bytes/CPU s","a":[1.5],"b":[2.0],"again":[1000000000.0],"counters":{"bytes":5}}"#,
    );
}
