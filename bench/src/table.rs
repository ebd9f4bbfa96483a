//! What a run prints: a table of a few lines that a person can read.

use std::fmt::Write;

use crate::report::grouped;
use crate::result::{Distribution, RunResult};
use crate::workload::Pattern;

/// A broker's figure above this part of the load generator's own limit may be that limit.
const NEAR_CEILING: f64 = 0.8;

/// The table of a run.
pub fn of_run(run: &RunResult) -> String {
    let mut text = String::new();
    head(run, &mut text);
    rates(run, &mut text);
    distributions(run, &mut text);
    counts(run, &mut text);
    for warning in warnings(run) {
        line(&mut text, &format!("  ! {warning}"));
    }
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("strings take everything");
}

fn head(run: &RunResult, text: &mut String) {
    let (workload, target) = (&run.workload, &run.target);
    let version = target.version.as_ref().map_or(String::new(), |version| format!(" {version}"));
    let round = if run.round > 0 { format!(", round {}", run.round + 1) } else { String::new() };
    line(
        text,
        &format!(
            "{}: {}{version} over {}, {}, {} publishers, {} consumers, {} queues, {:.1} s{round}",
            workload.name,
            target.name,
            target.transport,
            workload.size,
            workload.publishers,
            workload.consumers,
            workload.queues,
            run.seconds
        ),
    );
}

fn rates(run: &RunResult, text: &mut String) {
    let asked = run.offered_hz.map_or("as many as go".into(), |rate| format!("{} msg/s", grouped(rate, 0)));
    let reached = format!("{} msg/s", grouped(run.published_hz, 0));
    let consumed = format!("{} msg/s", grouped(run.consumed_hz, 0));
    let megabytes = run.consumed_hz * run.workload.size.mean() / 1e6;
    line(text, &format!("  asked {asked}   published {reached}   consumed {consumed}, {megabytes:.1} MB/s"));
    if let Some(ceiling_hz) = run.ceiling_hz {
        line(text, &format!("  the load generator alone: {} msg/s", grouped(ceiling_hz, 0)));
    }
}

fn distributions(run: &RunResult, text: &mut String) {
    let latency = match run.workload.pattern {
        Pattern::RequestReply => "round trip",
        Pattern::Stream | Pattern::BacklogDrain => "latency",
    };
    let rows: Vec<(&str, &Distribution)> =
        [(latency, &run.latency), ("service time", &run.service_time), ("confirm", &run.confirm_latency)]
            .into_iter()
            .filter_map(|(name, distribution)| Some((name, distribution.as_ref()?)))
            .collect();
    if rows.is_empty() {
        return;
    }
    let columns = ["µs", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean"];
    let mut heads = format!("  {:<14}", columns[0]);
    columns[1..].iter().for_each(|column| write!(heads, "{column:>11}").expect("strings take everything"));
    line(text, &heads);
    for (name, of) in rows {
        let mut row = format!("  {name:<14}");
        for value_ns in
            [of.p50_ns, of.p90_ns, of.p99_ns, of.p999_ns, of.p9999_ns, of.max_ns, of.mean_ns as u64]
        {
            write!(row, "{:>11}", grouped(value_ns as f64 / 1e3, 1)).expect("strings take everything");
        }
        line(text, &row);
    }
}

fn counts(run: &RunResult, text: &mut String) {
    let counts = run.counts;
    let always = [
        ("messages", counts.published),
        ("received", counts.consumed),
        ("lost", counts.lost),
        ("duplicated", counts.duplicated),
        ("out of order", counts.out_of_order),
    ];
    let sometimes =
        [("confirmed", counts.confirmed), ("refused", counts.refused), ("left in queues", counts.left)];
    let shown = always.into_iter().chain(sometimes.into_iter().filter(|(_, count)| *count > 0));
    let words: Vec<String> =
        shown.map(|(name, count)| format!("{name} {}", grouped(count as f64, 0))).collect();
    line(text, &format!("  {}", words.join("   ")));
}

/// What to distrust of a run.
pub fn warnings(run: &RunResult) -> Vec<String> {
    let mut warnings = Vec::new();
    if !run.kept_schedule {
        warnings.push(
            "the schedule could not be kept: the latency is that of the rate that was asked for, and \
                       grows with the length of the run"
                .into(),
        );
    }
    let ceiling_hz = run.ceiling_hz.unwrap_or(f64::INFINITY);
    if run.published_hz > ceiling_hz {
        warnings.push(
            "more than the load generator could do alone when its ceiling was measured: others disturb this \
                       machine, measure again"
                .into(),
        );
    } else if run.published_hz > NEAR_CEILING * ceiling_hz {
        warnings.push(
            "within 20 % of what the load generator itself can do: this may be its limit, not the broker's; \
                       try --processes 2"
                .into(),
        );
    }
    let waited_ms = run.disturbance.core_wait_ns as f64 / 1e6;
    if run.offered_hz.is_some() && waited_ms > 10.0 * run.seconds {
        warnings.push(format!(
            "others on this machine kept the load generator from running for {waited_ms:.0} ms: the high percentiles \
             are theirs"
        ));
    }
    if run.counts.left > 0 && run.latency.is_some() {
        warnings.push(
            "messages that were left in queues have no latency here, and would have had the longest".into(),
        );
    }
    if run.disturbance.steal_ns as f64 > 1e7 * run.seconds {
        let stolen_ms = run.disturbance.steal_ns / 1_000_000;
        warnings.push(format!("the host of this machine took {stolen_ms} ms of its processors away"));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_results;

    #[test]
    fn a_figure_near_the_ceiling_is_warned_of() {
        let mut run = test_results::run(test_results::workload("x"), "fulmar", 0);
        run.kept_schedule = true;
        (run.published_hz, run.ceiling_hz) = (79.0, Some(100.0));
        assert!(!warnings(&run).iter().any(|warning| warning.contains("20 %")));
        run.published_hz = 81.0;
        assert!(warnings(&run).iter().any(|warning| warning.contains("20 %")));
        assert!(of_run(&run).contains("--processes 2"));
    }

    #[test]
    fn a_schedule_that_was_not_kept_is_told() {
        let mut run = test_results::run(test_results::workload("x"), "fulmar", 0);
        run.kept_schedule = false;
        assert!(of_run(&run).contains("could not be kept"));
    }
}
