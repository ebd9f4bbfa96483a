//! The parts of the page: each workload by itself, and the steps of a sweep as one.

use super::figures;
use super::warnings::{Misses, Warning, warnings};
use crate::BenchError;
use crate::group::Section;
use crate::plot::Plot;
use crate::plot::scale::thousands;
use crate::plot::text::clean;
use crate::workload::Workload;

/// Rates of one workload from which on it is a sweep.
const SWEEP: usize = 3;

/// A part of the page.
pub enum Part<'s, 'a> {
    /// A workload, as often as it ran against whatever targets.
    Workload(&'s Section<'a>),
    /// The same one at several rates, in the order of these.
    Sweep(Vec<&'s Section<'a>>),
}

/// In the order in which they first appear.
pub fn parts<'s, 'a>(sections: &'s [Section<'a>]) -> Vec<Part<'s, 'a>> {
    let mut parts: Vec<Part> = Vec::new();
    for section in sections {
        let known = |part: &Part| match part {
            Part::Workload(_) => false,
            Part::Sweep(steps) => steps.iter().any(|step| std::ptr::eq(*step, section)),
        };
        if parts.iter().any(known) {
            continue;
        }
        let mut steps: Vec<&Section> = sections.iter().filter(|other| is_step(section, other)).collect();
        parts.push(if steps.len() >= SWEEP {
            steps.sort_by_key(|step| step.workload.rate_hz);
            Part::Sweep(steps)
        } else {
            Part::Workload(section)
        });
    }
    parts
}

/// Whether the two are the same workload at rates of their own.
fn is_step(one: &Section, other: &Section) -> bool {
    let (one, other) = (one.workload, other.workload);
    one.name == other.name
        && one.rate_hz.is_some()
        && other.rate_hz.is_some()
        && figures::load_family(one) == figures::load_family(other)
}

impl Part<'_, '_> {
    /// The workload; of a sweep, that of its lowest step.
    pub fn workload(&self) -> &Workload {
        match self {
            Part::Workload(section) => section.workload,
            Part::Sweep(steps) => steps[0].workload,
        }
    }

    /// The plots of it alone.
    ///
    /// # Errors
    /// A histogram cannot be read.
    pub fn plots(&self) -> Result<Vec<Plot>, BenchError> {
        match self {
            Part::Workload(section) => Ok(figures::of_section(section)?),
            Part::Sweep(steps) => Ok(figures::latency_by_load(steps)),
        }
    }

    /// What to warn of. A sweep goes beyond what can be kept up with.
    pub fn warnings(&self) -> Vec<Warning> {
        match self {
            Part::Workload(section) => warnings(section, Misses::Surprise),
            Part::Sweep(steps) => {
                steps.iter().flat_map(|section| warnings(section, Misses::Expected)).collect()
            }
        }
    }

    /// Its name; with rate and size where another part has the same one.
    pub fn title(&self, all: &[Part]) -> String {
        let workload = self.workload();
        let name = if workload.name.is_empty() { "unnamed" } else { &workload.name };
        let namesakes = all.iter().filter(|other| other.workload().name == workload.name).count();
        let rate = match self {
            Part::Sweep(_) => "at rising rates".to_string(),
            Part::Workload(_) => {
                workload.rate_hz.map_or("flood".into(), |rate_hz| format!("{}/s", thousands(rate_hz as f64)))
            }
        };
        clean(&match (self, namesakes) {
            (Part::Sweep(_), _) => format!("{name}, {rate}"),
            (_, 1) => name.to_string(),
            _ => format!("{name}, {rate}, {}", workload.size),
        })
    }
}

/// Plots over several workloads that differ in one thing alone, beyond those of sweeps.
pub fn across(parts: &[Part]) -> Vec<Plot> {
    let mut singles: Vec<&Section> = Vec::new();
    for part in parts {
        if let Part::Workload(section) = part {
            singles.push(section);
        }
    }
    let mut plots = figures::throughput_by_size(&singles);
    plots.extend(figures::latency_by_load(&singles));
    plots
}
