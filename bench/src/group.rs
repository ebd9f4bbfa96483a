//! Runs sorted for looking at: by workload, and within it by target, with the rounds of each together.
//!
//! 1. A target has the same label and colour wherever it appears.
//! 2. A label says as much as it takes to tell targets apart and no more: `fulmar`, or `fulmar 0.2.0, spin`.
//! 3. The order is that in which runs appear.

use crate::metric::Metric;
use crate::result::{ResultFile, RunResult};
use crate::statistics::Summary;
use crate::workload::Workload;

/// Runs of one workload.
#[derive(Clone, Debug)]
pub struct Section<'a> {
    /// What was asked of all.
    pub workload: &'a Workload,
    /// A group for each target.
    pub groups: Vec<Group<'a>>,
}

/// Rounds of one workload against one target.
#[derive(Clone, Debug)]
pub struct Group<'a> {
    /// Name of the target here.
    pub label: String,
    /// Number of the target, from 0.
    pub colour: usize,
    /// Its runs; at least one.
    pub rounds: Vec<&'a RunResult>,
}

impl Group<'_> {
    /// A figure over the rounds that have it. None if none has.
    pub fn summary(&self, metric: &Metric) -> Option<Summary> {
        Summary::of(self.rounds.iter().filter_map(|run| (metric.of)(run)))
    }
}

/// What of a target or its source may tell it from others of its name.
const TRAITS: usize = 6;

/// A target, as told apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Key {
    name: String,
    traits: [String; TRAITS],
}

impl Key {
    fn of(source: &str, run: &RunResult) -> Key {
        let target = &run.target;
        let traits = [
            target.version.clone().unwrap_or_default(),
            target.protocol.clone(),
            target.transport.clone(),
            target.idle.clone().unwrap_or_default(),
            target.options.clone(),
            source.to_string(),
        ];
        Key { name: target.name.clone(), traits: traits.map(|text| stable(&text)) }
    }

    /// The name and those traits in which others of the name differ.
    fn label(&self, all: &[Key]) -> String {
        let namesakes = || all.iter().filter(|other| other.name == self.name);
        let differs = |n: usize| namesakes().any(|other| other.traits[n] != self.traits[n]);
        // The rest is implied by the first traits that are enough to tell all apart.
        let mut chosen: Vec<usize> = Vec::new();
        for n in (0..TRAITS).filter(|&n| differs(n)) {
            let same = |other: &&Key| {
                *other != self && chosen.iter().all(|&chosen| other.traits[chosen] == self.traits[chosen])
            };
            if namesakes().any(|other| same(&other)) {
                chosen.push(n);
            }
        }
        let told = chosen.into_iter().map(|n| self.traits[n].as_str()).filter(|text| !text.is_empty());
        let told: Vec<&str> = told.collect();
        if told.is_empty() { self.name.clone() } else { format!("{} ({})", self.name, told.join(", ")) }
    }
}

/// Options without what changes with every start: ports on this host.
fn stable(text: &str) -> String {
    let mut words = Vec::new();
    for word in text.split(' ') {
        let ported = word
            .rsplit_once(':')
            .filter(|(host, _)| host.ends_with("127.0.0.1") || host.ends_with("localhost"));
        words.push(match ported {
            Some((host, after)) => {
                format!("{host}:*{}", after.trim_start_matches(|digit: char| digit.is_ascii_digit()))
            }
            None => word.to_string(),
        });
    }
    words.join(" ")
}

/// The runs of some files, each with the name by which to tell it from the others.
pub fn sections<'a>(files: &'a [(String, ResultFile)]) -> Vec<Section<'a>> {
    let several = files.len() > 1;
    let source = |name: &'a str| if several { name } else { "" };
    let all = || files.iter().flat_map(|(name, file)| file.runs.iter().map(move |run| (source(name), run)));
    let mut keys: Vec<Key> = Vec::new();
    for key in all().map(|(source, run)| Key::of(source, run)) {
        if !keys.contains(&key) {
            keys.push(key);
        }
    }
    let mut sections: Vec<Section<'a>> = Vec::new();
    for (source, run) in all() {
        let key = Key::of(source, run);
        let colour = keys.iter().position(|other| *other == key).expect("every key was collected");
        let known = sections.iter().position(|section| *section.workload == run.workload);
        let section = known.unwrap_or_else(|| {
            sections.push(Section { workload: &run.workload, groups: Vec::new() });
            sections.len() - 1
        });
        let groups = &mut sections[section].groups;
        match groups.iter_mut().find(|group| group.colour == colour) {
            Some(group) => group.rounds.push(run),
            None => groups.push(Group { label: key.label(&keys), colour, rounds: vec![run] }),
        }
    }
    sections
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_results::{file, run, workload};

    fn labels(files: &[(String, ResultFile)]) -> Vec<String> {
        sections(files).iter().flat_map(|section| &section.groups).map(|group| group.label.clone()).collect()
    }

    #[test]
    fn rounds_come_together_and_labels_say_what_differs() {
        let runs = ["fulmar", "rabbitmq", "fulmar", "rabbitmq"].map(|name| run(workload("a"), name, 0));
        let files = [("x".to_string(), file(runs.to_vec()))];
        let found = sections(&files);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].groups.iter().map(|group| group.rounds.len()).collect::<Vec<_>>(), [2, 2]);
        assert_eq!(labels(&files), ["fulmar", "rabbitmq"]);
    }

    #[test]
    fn namesakes_are_told_apart_by_the_first_difference() {
        let mut runs =
            [run(workload("a"), "fulmar", 0), run(workload("a"), "fulmar", 0), run(workload("a"), "x", 0)];
        runs[0].target.idle = Some("spin".into());
        runs[1].target.idle = Some("block".into());
        runs[0].target.options = "--idle spin".into();
        runs[1].target.options = "--idle block".into();
        assert_eq!(labels(&[("x".into(), file(runs.to_vec()))]), ["fulmar (spin)", "fulmar (block)", "x"]);
    }

    #[test]
    fn the_same_target_of_two_files_is_two() {
        let runs = vec![run(workload("a"), "fulmar", 0)];
        let files = [("base".to_string(), file(runs.clone())), ("new".to_string(), file(runs))];
        assert_eq!(labels(&files), ["fulmar (base)", "fulmar (new)"]);
    }

    #[test]
    fn ports_do_not_tell_targets_apart() {
        assert_eq!(stable("amqp://guest@127.0.0.1:4711/x --y"), "amqp://guest@127.0.0.1:*/x --y");
        let mut runs = [run(workload("a"), "fulmar", 0), run(workload("a"), "fulmar", 1)];
        runs[1].target.options = "amqp://127.0.0.1:1/".into();
        runs[0].target.options = "amqp://127.0.0.1:2/".into();
        assert_eq!(labels(&[("x".into(), file(runs.to_vec()))]), ["fulmar"]);
    }
}
