//! Targets that read text: `ktap`, `scenario` and `topology`.

use std::collections::BTreeSet;

use zcnic_backend::fuzzing::Input;
use zcnic_ctl::protocol::scenario::Scenario;
use zcnic_guest::checks::ktap::{self as reader, Report};
use zcnic_guest_protocol::selftest::Outcome;
use zcnic_results::{
    ktap as writer,
    program::ProgramRun,
    report::{Case, Outcome as Ended},
};
use zcnic_testbed::topology::Topology;

/// Reads output of selftests; and writes results with any names and details, and reads these.
///
/// # Panics
///
/// The reader takes an output for complete that has no result, or does not find what our own writer
/// wrote.
pub(crate) fn ktap(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let report = reader::parse(&text);
    assert!(
        !report.cases.is_empty() || !report.problems.is_empty(),
        "neither results nor problems"
    );
    assert!(
        report.cases.len() <= 2 * text.lines().count() + 1,
        "more cases than lines"
    );

    let runs = runs(&mut Input::new(bytes));
    let expected: Vec<Ended> = runs
        .iter()
        .flat_map(|run| &run.cases)
        .map(|case| case.outcome)
        .collect();
    if expected.is_empty() {
        return;
    }
    let written = writer::write(&runs, &[format!("kernel: {text}")]);
    let Report { cases, problems } = reader::parse(&written);
    let found: Vec<Ended> = cases.iter().map(|case| ended(case.outcome)).collect();
    assert_eq!(
        (found, problems),
        (expected, Vec::new()),
        "results that were written:\n{written}"
    );
}

fn ended(outcome: Outcome) -> Ended {
    match outcome {
        Outcome::Pass => Ended::Pass,
        Outcome::Fail => Ended::Fail,
        Outcome::Skip => Ended::Skip,
        Outcome::Xfail => Ended::Xfail,
    }
}

/// Up to three programs with one to four cases each.
fn runs(input: &mut Input<'_>) -> Vec<ProgramRun> {
    let text = |input: &mut Input<'_>| String::from_utf8_lossy(input.counted(60)).into_owned();
    (0..input.below(4))
        .map(|_| ProgramRun {
            name: text(input),
            round: None,
            seconds: 0.0,
            cases: (0..=input.below(4))
                .map(|_| Case {
                    outcome: [Ended::Pass, Ended::Fail, Ended::Skip, Ended::Xfail][input.below(4)],
                    name: text(input),
                    seconds: 0.0,
                    detail: text(input),
                })
                .collect(),
        })
        .collect()
}

/// Reads a scenario file, and sends its rules as zcnicctl does.
///
/// # Panics
///
/// The backend would read another rule than the file has.
pub(crate) fn scenario(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(scenario) = toml::from_str::<Scenario>(text) else {
        return;
    };
    let ports = scenario.ports.len();
    let requests = scenario.requests();
    assert_eq!(requests.len(), ports, "a request for each port");
    for request in requests {
        let Ok(line) = serde_json::to_string(&request) else {
            let odd = |number: f64| !number.is_finite();
            let mut rules = request.rules.iter();
            assert!(
                rules.any(|rule| rule.probability.is_some_and(odd)),
                "a rule can't be sent"
            );
            continue;
        };
        let read = serde_json::from_str(&line).expect("a rule that was sent can be read");
        assert_eq!(request, read, "{line}");
    }
}

/// Reads a topology file.
///
/// # Panics
///
/// Two ports have one address or one place, or the backend gets other ports than the guests.
pub(crate) fn topology(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let Ok(topology) = text.parse::<Topology>() else {
        return;
    };
    let ports: Vec<_> = topology.ports().into_iter().flatten().collect();
    assert!(!ports.is_empty() && !topology.connections.is_empty());
    let macs: BTreeSet<String> = ports.iter().map(|port| port.mac.to_string()).collect();
    assert_eq!(macs.len(), ports.len(), "one address per port");
    assert_eq!(
        topology.wiring().ports.len(),
        ports.len(),
        "the backend's ports"
    );
    for guest in &topology.guests {
        let places = guest
            .ports
            .iter()
            .map(|port| (&port.interface.netns, &port.interface.interface));
        assert_eq!(
            places.collect::<BTreeSet<_>>().len(),
            guest.ports.len(),
            "one place per port"
        );
    }
}
