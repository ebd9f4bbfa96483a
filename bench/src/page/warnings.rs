//! What a reader has to know before believing a figure.

use crate::group::{Group, Section};
use crate::metric::faults;
use crate::plot::scale::{digits, duration, thousands};
use crate::result::RunResult;

/// Part of the load generator's ceiling from which on a figure may be the load generator's own.
const NEAR_CEILING: f64 = 0.8;

/// Part of a run that others may take from it before percentiles tell of them.
const NOISY: f64 = 0.01;

/// What a missed schedule means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misses {
    /// The broker or the load generator did not keep up with what was asked.
    Surprise,
    /// That was to be found out.
    Expected,
}

/// What to warn of, over all rounds of each group.
pub fn warnings(section: &Section, misses: Misses) -> Vec<String> {
    section.groups.iter().flat_map(|group| of_group(group, misses)).collect()
}

fn of_group(group: &Group, misses: Misses) -> Vec<String> {
    let rounds = group.rounds.as_slice();
    let mut found = Vec::new();
    let mut warn = |which: Vec<&RunResult>, text: &dyn Fn(&[&RunResult]) -> String| {
        if !which.is_empty() {
            let workload = &rounds[0].workload;
            let rate = match (misses, workload.rate_hz) {
                (Misses::Expected, Some(rate_hz)) => format!(" at {}/s", thousands(rate_hz as f64)),
                _ => String::new(),
            };
            let name = format!("{} in {}{rate}", group.label, workload.name);
            let share = match rounds.len() {
                1 => String::new(),
                all => format!(" ({} of {all} rounds)", which.len()),
            };
            found.push(format!("{name}{share}: {}", text(&which)));
        }
    };
    let of = |test: &dyn Fn(&RunResult) -> bool| {
        rounds.iter().copied().filter(|run| test(run)).collect::<Vec<_>>()
    };
    warn(of(&|run| !run.kept_schedule && misses == Misses::Surprise), &|which| {
        let least = which.iter().map(|run| run.published_hz).fold(f64::INFINITY, f64::min);
        let asked = which[0].offered_hz.map_or(String::new(), |hz| format!(" of {}", thousands(hz)));
        format!(
            "the schedule was missed, {} messages/s{asked} left. Latencies count from when messages should have left, \
             and so grow with the length of the run.",
            thousands(least)
        )
    });
    warn(of(&|run| faults(run) > 0), &|which| {
        let sum = |read: fn(&RunResult) -> u64| which.iter().map(|run| read(run)).sum::<u64>();
        format!(
            "{} lost, {} refused, {} doubled, {} out of order.",
            sum(|run| run.counts.lost),
            sum(|run| run.counts.refused),
            sum(|run| run.counts.duplicated),
            sum(|run| run.counts.out_of_order)
        )
    });
    warn(of(&|run| ceiling_share(run) > NEAR_CEILING), &|which| {
        let most = which.iter().map(|run| ceiling_share(run)).fold(0.0, f64::max);
        format!(
            "{} % of what the load generator itself can do: the broker may be able to do more than this shows.",
            digits(100.0 * most)
        )
    });
    warn(of(&is_noisy), &|which| {
        let most = which.iter().map(|run| run.disturbance.core_wait_ns).max().unwrap_or(0);
        let steal = which.iter().map(|run| run.disturbance.steal_ns).max().unwrap_or(0);
        format!(
            "noisy host. Load generator without a core for up to {}, {} stolen by the host of this machine, in {} s: high \
             percentiles tell of that as well.",
            duration(most as f64),
            duration(steal as f64),
            digits(which[0].seconds)
        )
    });
    found
}

fn ceiling_share(run: &RunResult) -> f64 {
    run.ceiling_hz.filter(|&hz| hz > 0.0).map_or(0.0, |hz| run.published_hz.max(run.consumed_hz) / hz)
}

/// In a flood the load generator waits for cores in any case, having more threads than it leaves cores.
pub fn is_noisy(run: &RunResult) -> bool {
    let limit_ns = NOISY * 1e9 * run.seconds;
    let waited = run.offered_hz.is_some() && run.disturbance.core_wait_ns as f64 > limit_ns;
    waited || run.disturbance.steal_ns as f64 > limit_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::sections;
    use crate::test_results::{file, flood, run, workload};

    fn warned(change: impl Fn(&mut RunResult)) -> Vec<String> {
        let mut runs = vec![run(workload("a"), "fulmar", 0), run(workload("a"), "fulmar", 1)];
        change(&mut runs[1]);
        let files = [("x".to_string(), file(runs))];
        sections(&files).iter().flat_map(|section| warnings(section, Misses::Surprise)).collect()
    }

    #[test]
    fn a_clean_run_warns_of_nothing() {
        assert_eq!(warned(|_| ()), Vec::<String>::new());
    }

    #[test]
    fn each_doubt_is_told_once() {
        for (change, word) in [
            ((|run| run.kept_schedule = false) as fn(&mut RunResult), "schedule was missed"),
            (|run| run.counts.lost = 3, "3 lost"),
            (|run| run.ceiling_hz = Some(12_000.0), "83.3 %"),
            (|run| run.disturbance.core_wait_ns = 60_000_000, "noisy host"),
            (|run| run.disturbance.steal_ns = 60_000_000, "60 ms stolen"),
        ] {
            let found = warned(change);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(
                found[0].contains(word) && found[0].starts_with("fulmar in a (1 of 2 rounds)"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn a_flood_may_wait_for_cores() {
        let mut flooded = run(flood("a", 64), "fulmar", 0);
        flooded.disturbance.core_wait_ns = 2_000_000_000;
        assert!(!is_noisy(&flooded));
    }
}
