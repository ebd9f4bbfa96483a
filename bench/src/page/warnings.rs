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

/// Something to know of a group's figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// What it means, the same for all of its kind.
    pub meaning: &'static str,
    /// Whose figures, and how bad it is.
    pub found: String,
}

impl std::fmt::Display for Warning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}. {}", self.found, self.meaning)
    }
}

const MISSED: &str = "The schedule was missed: latencies count from when messages should have left, and so grow with the \
                      length of the run.";
const FAULTS: &str = "Messages did not come as they should.";
const CEILING: &str =
    "Near what the load generator itself can do: the broker may be able to do more than this shows.";
const DISTURBED: &str = "Noisy host: others kept the load generator from running, or the host of this machine took time \
                     away. High percentiles tell of that as well.";

/// What to warn of, over all rounds of each group.
pub fn warnings(section: &Section, misses: Misses) -> Vec<Warning> {
    section.groups.iter().flat_map(|group| of_group(group, misses)).collect()
}

fn of_group(group: &Group, misses: Misses) -> Vec<Warning> {
    let rounds = group.rounds.as_slice();
    let mut found = Vec::new();
    let mut warn = |meaning, test: &dyn Fn(&RunResult) -> bool, told: &dyn Fn(&[&RunResult]) -> String| {
        let which: Vec<&RunResult> = rounds.iter().copied().filter(|run| test(run)).collect();
        if !which.is_empty() {
            found.push(Warning {
                meaning,
                found: format!("{}: {}", name(group, which.len(), misses), told(&which)),
            });
        }
    };
    warn(MISSED, &|run| !run.kept_schedule && misses == Misses::Surprise, &|which| {
        let least = which.iter().map(|run| run.published_hz).fold(f64::INFINITY, f64::min);
        let asked = which[0].offered_hz.map_or(String::new(), |hz| format!(" of {} asked", thousands(hz)));
        format!("{}/s{asked}", thousands(least))
    });
    warn(FAULTS, &|run| faults(run) > 0, &|which| {
        let sum = |read: fn(&RunResult) -> u64| which.iter().map(|run| read(run)).sum::<u64>();
        format!(
            "{} lost, {} refused, {} doubled, {} out of order",
            sum(|run| run.counts.lost),
            sum(|run| run.counts.refused),
            sum(|run| run.counts.duplicated),
            sum(|run| run.counts.out_of_order)
        )
    });
    warn(CEILING, &|run| ceiling_share(run) > NEAR_CEILING, &|which| {
        let most = which.iter().map(|run| ceiling_share(run)).fold(0.0, f64::max);
        format!("{} % of it", digits(100.0 * most))
    });
    warn(DISTURBED, &is_noisy, &|which| {
        let most = which.iter().map(|run| run.disturbance.core_wait_ns).max().unwrap_or(0);
        let steal = which.iter().map(|run| run.disturbance.steal_ns).max().unwrap_or(0);
        format!(
            "up to {} without a core, {} taken away, in {} s",
            duration(most as f64),
            duration(steal as f64),
            digits(which[0].seconds)
        )
    });
    found
}

/// Whose figures, and in how many of the rounds.
fn name(group: &Group, affected: usize, misses: Misses) -> String {
    let workload = &group.rounds[0].workload;
    let rate = match (misses, workload.rate_hz) {
        (Misses::Expected, Some(rate_hz)) => format!(" at {}/s", thousands(rate_hz as f64)),
        _ => String::new(),
    };
    let share = match group.rounds.len() {
        1 => String::new(),
        all => format!(" ({affected} of {all} rounds)"),
    };
    format!("{} in {}{rate}{share}", group.label, workload.name)
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

    fn warned(change: impl Fn(&mut RunResult)) -> Vec<Warning> {
        let mut runs = vec![run(workload("a"), "fulmar", 0), run(workload("a"), "fulmar", 1)];
        change(&mut runs[1]);
        let files = [("x".to_string(), file(runs))];
        sections(&files).iter().flat_map(|section| warnings(section, Misses::Surprise)).collect()
    }

    #[test]
    fn a_clean_run_warns_of_nothing() {
        assert_eq!(warned(|_| ()), []);
    }

    #[test]
    fn each_doubt_is_told_once() {
        for (change, word) in [
            ((|run| run.kept_schedule = false) as fn(&mut RunResult), "schedule was missed"),
            (|run| run.counts.lost = 3, "3 lost"),
            (|run| run.ceiling_hz = Some(12_000.0), "83.3 %"),
            (|run| run.disturbance.core_wait_ns = 60_000_000, "Noisy host"),
            (|run| run.disturbance.steal_ns = 60_000_000, "60 ms taken away"),
        ] {
            let found = warned(change);
            assert_eq!(found.len(), 1, "{found:?}");
            let text = found[0].to_string();
            assert!(text.contains(word) && text.starts_with("fulmar in a (1 of 2 rounds)"), "{text}");
        }
    }

    #[test]
    fn a_flood_may_wait_for_cores() {
        let mut flooded = run(flood("a", 64), "fulmar", 0);
        flooded.disturbance.core_wait_ns = 2_000_000_000;
        assert!(!is_noisy(&flooded));
    }
}
