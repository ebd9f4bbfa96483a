//! `fulmar bench regress`: what changed between two results, beyond the noise.
//!
//! 1. Runs match by workload, target and transport; a workload that is called the same and is not the same is refused,
//!    and so are results of different hosts unless told otherwise.
//! 2. With enough rounds a side, a figure changed if the Mann–Whitney test says so at the level and the medians are
//!    apart by the threshold. The test asks only how the rounds are ordered: it needs no assumption of how they are
//!    spread, and one wild round weighs no more than any other. A bootstrap of medians promises more than three to ten
//!    rounds can tell.
//! 3. With fewer, no test can tell chance from change. Then a figure changed if the medians are apart by the tolerance
//!    and no round of one side reaches the other side.
//! 4. Losing, refusing, doubling or reordering messages is worse, whatever the noise.

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use fulmar_tuning::HostFacts;
use serde::Serialize;

use crate::BenchError;
use crate::columns::{aligned, spread};
use crate::group::{Section, sections};
use crate::metric::{Better, Metric, faults, metrics};
use crate::page::is_noisy;
use crate::plot::scale::digits;
use crate::plot::text::clean;
use crate::result::{ResultFile, RunResult};
use crate::statistics::{Summary, least_probability, mann_whitney};

/// Exit status where something is worse.
const WORSE: u8 = 1;
/// Exit status where results cannot be compared.
const NOT_COMPARABLE: u8 = 2;

/// Options of `fulmar bench regress`.
#[derive(Clone, Debug, Args)]
pub struct RegressArgs {
    /// What it was.
    #[arg(value_name = "BASE.json")]
    base: PathBuf,
    /// What it is now.
    #[arg(value_name = "NEW.json")]
    new: PathBuf,
    #[command(flatten)]
    limits: Limits,
    /// Compare results of different hosts.
    #[arg(long)]
    any_host: bool,
}

/// From when on a difference counts.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Args)]
pub struct Limits {
    /// Least change of a median that counts, in percent, however sure it is.
    #[arg(long = "threshold", value_name = "PERCENT", default_value_t = 5.0, value_parser = percent)]
    #[serde(rename = "threshold_percent")]
    pub threshold: f64,
    /// Least change that counts where the rounds are too few for a test, in percent.
    #[arg(long = "tolerance", value_name = "PERCENT", default_value_t = 33.0, value_parser = percent)]
    #[serde(rename = "tolerance_percent")]
    pub tolerance: f64,
    /// Probability of taking noise for a change in one figure, with enough rounds for a test.
    #[arg(long, value_name = "PROBABILITY", default_value_t = 0.05, value_parser = probability)]
    pub level: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { threshold: 5.0, tolerance: 33.0, level: 0.05 }
    }
}

/// What became of the figures.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    limits: Limits,
    /// One for each figure of each matched group.
    changes: Vec<Change>,
    /// What only one of the results has.
    unmatched: Vec<String>,
    /// Where others disturbed the measurement: what changed there may be the machine.
    disturbed: Vec<String>,
    /// Whether something is worse.
    worse: bool,
}

/// A figure on both sides.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    workload: String,
    target: String,
    metric: &'static str,
    unit: &'static str,
    base: Side,
    new: Side,
    /// New to base. None if base is 0.
    ratio: Option<f64>,
    /// Of the test. None where rounds are too few for one.
    probability: Option<f64>,
    verdict: Verdict,
    #[serde(skip)]
    shown: [String; 2],
}

/// A figure over the rounds of one side.
#[derive(Clone, Copy, Debug, Serialize)]
struct Side {
    median: f64,
    least: f64,
    greatest: f64,
    rounds: usize,
}

/// What to think of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Beyond the noise, to the bad.
    Worse,
    /// Beyond the noise, to the good.
    Better,
    /// No difference beyond the noise.
    Same,
    /// Shown only.
    Unjudged,
}

fn percent(text: &str) -> Result<f64, String> {
    in_range(text, 10_000.0, "a percentage, not below 0")
}

fn probability(text: &str) -> Result<f64, String> {
    in_range(text, 1.0, "a probability, from 0 to 1")
}

fn in_range(text: &str, most: f64, what: &str) -> Result<f64, String> {
    text.parse().ok().filter(|value| (0.0..=most).contains(value)).ok_or_else(|| what.to_string())
}

/// Runs the command.
pub fn run(args: &RegressArgs, json: bool) -> ExitCode {
    let compared = ResultFile::read(&args.base)
        .and_then(|base| Ok((base, ResultFile::read(&args.new)?)))
        .map_err(BenchError::from)
        .and_then(|(base, new)| compare(base, new, args.limits, args.any_host));
    match compared {
        Ok(comparison) => {
            if json {
                println!("{}", comparison.to_json());
            } else {
                print!("{}", comparison.to_text());
            }
            if comparison.worse { ExitCode::from(WORSE) } else { ExitCode::SUCCESS }
        }
        Err(error) => {
            eprintln!("fulmar bench regress: {error}");
            ExitCode::from(NOT_COMPARABLE)
        }
    }
}

/// Compares two results.
///
/// # Errors
/// They cannot be compared, and why.
pub fn compare(
    base: ResultFile,
    new: ResultFile,
    limits: Limits,
    any_host: bool,
) -> Result<Comparison, BenchError> {
    if !any_host {
        same_host(&base.host, &new.host)?;
    }
    let (base, new) = ([(String::new(), base)], [(String::new(), new)]);
    let (base, new) = (sections(&base), sections(&new));
    let mut comparison = Comparison {
        limits,
        changes: Vec::new(),
        unmatched: Vec::new(),
        disturbed: Vec::new(),
        worse: false,
    };
    for section in &base {
        comparison.add(section, &new)?;
    }
    let only_new = names(&new).into_iter().filter(|(section, target)| find(&base, section, target).is_none());
    let told = only_new
        .map(|(section, target)| format!("{} of {target}: only in the new result", section.workload.name));
    comparison.unmatched.extend(told);
    if comparison.changes.is_empty() {
        return Err(BenchError::Options(
            "the results have no workload and target in common: nothing to compare".into(),
        ));
    }
    comparison.worse = comparison.changes.iter().any(|change| change.verdict == Verdict::Worse);
    Ok(comparison)
}

/// What decides how fast a host is. Load and the like may differ.
fn same_host(base: &HostFacts, new: &HostFacts) -> Result<(), BenchError> {
    let told = |facts: &HostFacts| {
        let mut facts = facts.clone();
        facts.load_average = None;
        serde_json::to_value(facts).unwrap_or_default()
    };
    let (base, new) = (told(base), told(new));
    let fields = base.as_object().into_iter().flatten();
    let differing: Vec<String> = fields
        .filter(|(key, value)| new.get(key.as_str()) != Some(value))
        .map(|(key, value)| {
            let other = new.get(key).cloned().unwrap_or_default();
            format!("{}: {value} and {other}", key.replace('_', " "))
        })
        .collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(BenchError::Options(format!(
        "the results are of different hosts ({}); --any-host compares them nevertheless",
        differing.join("; ")
    )))
}

/// Targets are the same if they are called the same and are reached the same way: versions and options are what is
/// compared.
fn target(run: &RunResult) -> String {
    let target = &run.target;
    if target.transport == "tcp" {
        target.name.clone()
    } else {
        format!("{} over {}", target.name, target.transport)
    }
}

/// The groups, with all rounds of a target together whatever else tells its runs apart.
fn names<'s, 'a>(sections: &'s [Section<'a>]) -> Vec<(&'s Section<'a>, String)> {
    let mut names: Vec<(&Section, String)> = Vec::new();
    for section in sections {
        for group in &section.groups {
            let name = target(group.rounds[0]);
            if !names.iter().any(|(other, target)| std::ptr::eq(*other, section) && *target == name) {
                names.push((section, name));
            }
        }
    }
    names
}

fn rounds<'a>(section: &Section<'a>, name: &str) -> Vec<&'a RunResult> {
    let groups = section.groups.iter().filter(|group| target(group.rounds[0]) == name);
    groups.flat_map(|group| group.rounds.iter().copied()).collect()
}

/// The rounds of the same workload and target.
fn find<'a>(sections: &[Section<'a>], like: &Section, target: &str) -> Option<Vec<&'a RunResult>> {
    let section = sections.iter().find(|section| section.workload == like.workload)?;
    Some(rounds(section, target)).filter(|rounds| !rounds.is_empty())
}

impl Comparison {
    fn add(&mut self, section: &Section, new: &[Section]) -> Result<(), BenchError> {
        let workload = section.workload;
        let is_changed = |other: &&Section| {
            other.workload.name == workload.name && other.workload.rate_hz == workload.rate_hz
        };
        let same = new.iter().any(|other| other.workload == workload);
        if let (false, Some(_)) = (same, new.iter().find(is_changed)) {
            return Err(BenchError::Options(format!(
                "the workload {:?} is not the same in both results; measure one of them again",
                workload.name
            )));
        }
        for (_, target) in names(std::slice::from_ref(section)) {
            let base = rounds(section, &target);
            match find(new, section, &target) {
                Some(new) => self.judge(&target, &base, &new),
                None => self.unmatched.push(format!("{} of {target}: only in the base", workload.name)),
            }
        }
        Ok(())
    }

    fn judge(&mut self, target: &str, base: &[&RunResult], new: &[&RunResult]) {
        let workload = &base[0].workload;
        let name =
            |change: Change| Change { workload: workload.name.clone(), target: target.into(), ..change };
        for metric in metrics(workload) {
            let values =
                |runs: &[&RunResult]| runs.iter().filter_map(|run| (metric.of)(run)).collect::<Vec<f64>>();
            self.changes.extend(change(metric, &values(base), &values(new), self.limits).map(name));
        }
        self.changes.push(name(fault_change(base, new)));
        let noisy = |runs: &[&RunResult]| runs.iter().filter(|run| is_noisy(run)).count();
        if noisy(base) + noisy(new) > 0 {
            self.disturbed.push(format!(
                "{} of {target}: noisy host in {} of {} rounds of the base and {} of {} new ones; what changed may be the \
                 machine",
                workload.name,
                noisy(base),
                base.len(),
                noisy(new),
                new.len()
            ));
        }
    }

    /// A line for each figure; those that changed are marked.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let same =
            |one: &Change, other: &Change| one.workload == other.workload && one.target == other.target;
        for changes in self.changes.chunk_by(same) {
            let (first, rounds) =
                (&changes[0], changes.last().map(|faults| (faults.base.rounds, faults.new.rounds)));
            let (base, new) = rounds.unwrap_or_default();
            let title = clean(&format!("{} of {}", first.workload, first.target));
            writeln!(text, "{title}, {base} and {new} rounds").expect("strings take everything");
            let head = ["", "base", "new", "ratio", "chance", ""].map(str::to_string).to_vec();
            let rows: Vec<Vec<String>> =
                std::iter::once(head).chain(changes.iter().map(Change::row)).collect();
            text += &aligned(&rows);
        }
        for note in self.unmatched.iter().chain(&self.disturbed) {
            writeln!(text, "{}", clean(note)).expect("strings take everything");
        }
        text + &self.summary()
    }

    fn summary(&self) -> String {
        let count = |verdict| self.changes.iter().filter(|change| change.verdict == verdict).count();
        let tested = self.changes.iter().any(|change| change.probability.is_some());
        let how = if tested {
            format!(
                "Mann–Whitney at {}, medians {} % apart",
                self.limits.level,
                digits(self.limits.threshold)
            )
        } else {
            format!("too few rounds for a test: medians {} % apart", digits(self.limits.tolerance))
        };
        let (worse, better) = (count(Verdict::Worse), count(Verdict::Better));
        format!("{worse} worse, {better} better, {} the same ({how})\n", count(Verdict::Same))
    }

    fn to_json(&self) -> String {
        serde_json::to_string(self).expect("it has no keys but text")
    }
}

fn change(metric: &Metric, base: &[f64], new: &[f64], limits: Limits) -> Option<Change> {
    let sides = (Summary::of(base.iter().copied())?, Summary::of(new.iter().copied())?);
    let tested = least_probability(base.len(), new.len()) <= limits.level;
    let probability = tested.then(|| mann_whitney(base, new));
    let (old, now) = (sides.0.median, sides.1.median);
    let apart = now > 0.0 && old > 0.0 || now != old;
    let far =
        |percent: f64| apart && (now.max(old) / now.min(old).max(f64::MIN_POSITIVE) - 1.0) * 100.0 >= percent;
    let overlap = sides.0.least <= sides.1.greatest && sides.1.least <= sides.0.greatest;
    let changed = match probability {
        Some(probability) => probability <= limits.level && far(limits.threshold),
        None => !overlap && far(limits.tolerance),
    };
    let verdict = match metric.better {
        Better::Neither => Verdict::Unjudged,
        _ if !changed => Verdict::Same,
        Better::Higher if now > old => Verdict::Better,
        Better::Lower if now < old => Verdict::Better,
        _ => Verdict::Worse,
    };
    Some(Change {
        workload: String::new(),
        target: String::new(),
        metric: metric.name,
        unit: metric.unit(),
        base: Side::from(sides.0),
        new: Side::from(sides.1),
        ratio: (old > 0.0).then(|| now / old),
        probability: probability.filter(|_| metric.better != Better::Neither),
        verdict,
        shown: [sides.0, sides.1].map(|side| spread(metric, side)),
    })
}

/// Any more of them is worse.
fn fault_change(base: &[&RunResult], new: &[&RunResult]) -> Change {
    let side = |runs: &[&RunResult]| {
        Summary::of(runs.iter().map(|run| faults(run) as f64)).expect("there are rounds")
    };
    let sum = |runs: &[&RunResult]| runs.iter().map(|run| faults(run)).sum::<u64>();
    let verdict = match (sum(base), sum(new)) {
        (0, 1..) => Verdict::Worse,
        (1.., 0) => Verdict::Better,
        (0, 0) => Verdict::Same,
        // How many is chance; that there are some is known.
        _ => Verdict::Unjudged,
    };
    Change {
        workload: String::new(),
        target: String::new(),
        metric: "messages at fault",
        unit: "messages",
        base: side(base).into(),
        new: side(new).into(),
        ratio: None,
        probability: None,
        verdict,
        shown: [sum(base).to_string(), sum(new).to_string()],
    }
}

impl Change {
    /// As cells of a table.
    fn row(&self) -> Vec<String> {
        let verdict = match self.verdict {
            Verdict::Worse => "WORSE",
            Verdict::Better => "better",
            Verdict::Same => "",
            Verdict::Unjudged => "(not judged)",
        };
        let [base, new] = self.shown.clone();
        let ratio = self.ratio.map_or(String::new(), digits);
        let chance = self.probability.map_or(String::new(), |probability| format!("{probability:.3}"));
        vec![self.metric.into(), base, new, ratio, chance, verdict.into()]
    }
}

impl From<Summary> for Side {
    fn from(found: Summary) -> Side {
        Side { median: found.median, least: found.least, greatest: found.greatest, rounds: found.rounds }
    }
}

#[cfg(test)]
mod tests;
