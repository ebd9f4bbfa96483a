use std::sync::LazyLock;

use super::*;
use crate::test_results::{file, noise, run, workload};
use crate::workload::Workload;

/// Rounds whose latencies are `factor` times the usual and vary by a tenth.
fn side(rounds: u32, seed: u64, factor: f64) -> ResultFile {
    static TYPICAL: LazyLock<RunResult> = LazyLock::new(|| run(workload("a"), "fulmar", 0));
    let draws = noise(seed).skip(10);
    let rounds = (0..rounds).zip(draws).map(|(round, draw)| {
        let mut run = RunResult { round, ..TYPICAL.clone() };
        let latency = run.latency.as_mut().unwrap();
        let scaled = |value_ns: u64| (value_ns as f64 * factor * (0.9 + 0.2 * draw)) as u64;
        for value_ns in [&mut latency.p50_ns, &mut latency.p90_ns, &mut latency.p99_ns, &mut latency.p999_ns]
        {
            *value_ns = scaled(*value_ns);
        }
        run
    });
    file(rounds.collect())
}

fn compared(base: ResultFile, new: ResultFile) -> Comparison {
    compare(base, new, Limits::default(), false).unwrap()
}

fn verdict(comparison: &Comparison, metric: &str) -> Verdict {
    comparison.changes.iter().find(|change| change.metric == metric).unwrap().verdict
}

#[test]
fn noise_is_seldom_taken_for_a_change() {
    let wrong = (0..200)
        .filter(|seed| compared(side(6, 2 * seed + 1, 1.0), side(6, 2 * seed + 2, 1.0)).worse)
        .count();
    // One in twenty is the level of the test, half of it to the bad, and the threshold is beyond most of them.
    assert!(wrong <= 10, "{wrong} of 200 found worse");
}

#[test]
fn a_fifth_slower_is_found_with_enough_rounds() {
    let found = (0..100)
        .filter(|seed| compared(side(6, 2 * seed + 1, 1.0), side(6, 2 * seed + 2, 1.2)).worse)
        .count();
    assert!(found >= 95, "{found} of 100 found worse");
    let comparison = compared(side(6, 1, 1.0), side(6, 2, 1.2));
    assert_eq!(verdict(&comparison, "p99"), Verdict::Worse);
    assert_eq!(verdict(&comparison, "memory, most"), Verdict::Same);
    assert_eq!(verdict(&comparison, "max"), Verdict::Unjudged);
    let back = compared(side(6, 2, 1.2), side(6, 1, 1.0));
    assert!(!back.worse);
    assert_eq!(verdict(&back, "p99"), Verdict::Better);
}

#[test]
fn one_round_has_a_tolerance_and_three_must_not_overlap() {
    for rounds in [1, 3] {
        assert!(!compared(side(rounds, 1, 1.0), side(rounds, 2, 1.15)).worse);
        assert!(compared(side(rounds, 1, 1.0), side(rounds, 2, 1.7)).worse);
        let text = compared(side(rounds, 1, 1.0), side(rounds, 2, 1.7)).to_text();
        assert!(text.contains("too few rounds for a test"), "{text}");
    }
    let mut mixed = side(3, 1, 1.7);
    mixed.runs[0] = side(1, 1, 0.9).runs.remove(0);
    assert!(!compared(side(3, 2, 1.0), mixed).worse, "one round is as good as before");
}

#[test]
fn a_sure_change_below_the_threshold_is_none() {
    let limits = Limits { threshold: 30.0, ..Limits::default() };
    assert!(!compare(side(8, 1, 1.0), side(8, 2, 1.2), limits, false).unwrap().worse);
}

#[test]
fn losing_messages_is_worse_whatever_the_noise() {
    let mut new = side(1, 1, 1.0);
    new.runs[0].counts.lost = 1;
    let comparison = compared(side(1, 1, 1.0), new.clone());
    assert!(comparison.worse);
    assert_eq!(verdict(&comparison, "messages at fault"), Verdict::Worse);
    assert!(!compared(new.clone(), new).worse);
}

#[test]
fn rates_are_worse_when_they_fall() {
    let with_rate = |hz: f64| {
        let mut file = side(5, 1, 1.0);
        for (n, run) in file.runs.iter_mut().enumerate() {
            run.published_hz = hz + n as f64;
        }
        file
    };
    assert_eq!(verdict(&compared(with_rate(10_000.0), with_rate(8_000.0)), "rate reached"), Verdict::Worse);
    assert_eq!(verdict(&compared(with_rate(8_000.0), with_rate(10_000.0)), "rate reached"), Verdict::Better);
    assert_eq!(verdict(&compared(with_rate(0.0), with_rate(0.0)), "rate reached"), Verdict::Same);
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let refused = |base, new| compare(base, new, Limits::default(), false).unwrap_err().to_string();
    let mut other_host = side(1, 1, 1.0);
    other_host.host.kernel = Some("6.1".into());
    let error = refused(side(1, 1, 1.0), other_host.clone());
    assert!(error.contains("kernel") && error.contains("--any-host"), "{error}");
    assert!(compare(side(1, 1, 1.0), other_host, Limits::default(), true).is_ok());

    let mut other_load = side(1, 1, 1.0);
    other_load.host.load_average = Some([3.0, 2.0, 1.0]);
    assert!(compare(side(1, 1, 1.0), other_load, Limits::default(), false).is_ok());

    let mut other_workload = side(1, 1, 1.0);
    other_workload.runs[0].workload.publishers = 2;
    assert!(refused(side(1, 1, 1.0), other_workload).contains("\"a\" is not the same"));

    let nothing = file(vec![run(workload("b"), "fulmar", 0)]);
    assert!(refused(side(1, 1, 1.0), nothing).contains("nothing to compare"));
}

#[test]
fn versions_and_options_of_a_target_are_what_is_compared() {
    let mut new = side(2, 1, 1.0);
    new.runs[0].target.version = Some("2".into());
    new.runs[1].target.options = "--idle spin".into();
    let comparison = compared(side(2, 1, 1.0), new);
    assert!(comparison.unmatched.is_empty());
    assert_eq!(comparison.changes[0].new.rounds, 2);
}

#[test]
fn what_only_one_side_has_is_told() {
    let mut base = side(1, 1, 1.0);
    base.runs.push(run(Workload { rate_hz: Some(5), ..workload("old") }, "fulmar", 0));
    let mut new = side(1, 1, 1.0);
    new.runs.push(run(workload("a"), "rabbitmq", 0));
    let text = compared(base, new).to_text();
    assert!(text.contains("old of fulmar: only in the base"), "{text}");
    assert!(text.contains("a of rabbitmq: only in the new result"), "{text}");
}

#[test]
fn the_table_and_the_json_name_the_verdict() {
    let comparison = compared(side(6, 1, 1.0), side(6, 2, 1.5));
    let text = comparison.to_text();
    let p99 = text.lines().find(|line| line.trim_start().starts_with("p99 ")).unwrap();
    assert!(p99.contains("µs [") && p99.ends_with("WORSE"), "{text}");
    assert!(!text.contains("noisy"), "{text}");
    let json: serde_json::Value = serde_json::from_str(&comparison.to_json()).unwrap();
    assert_eq!(json["worse"], true);
    let changes = json["changes"].as_array().unwrap();
    let p99 = changes.iter().find(|change| change["metric"] == "p99").unwrap();
    assert_eq!(
        (&p99["verdict"], &p99["unit"], &p99["base"]["rounds"]),
        (&"worse".into(), &"ns".into(), &6.into())
    );
}

#[test]
fn a_noisy_host_is_told_beside_the_verdict() {
    let mut new = side(6, 2, 1.5);
    new.runs[3].disturbance.core_wait_ns = 900_000_000;
    let comparison = compared(side(6, 1, 1.0), new);
    assert!(comparison.worse);
    let text = comparison.to_text();
    assert!(
        text.contains("a of fulmar: noisy host in 0 of 6 rounds of the base and 1 of 6 new ones"),
        "{text}"
    );
}
