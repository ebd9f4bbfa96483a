//! All items of a host, looked at: as a value, as JSON, as text.

use serde::Serialize;
use textwrap::Options;

use crate::facts::HostFacts;
use crate::host::Host;
use crate::item::{Finding, Group, Item, Remedy, Status};
use crate::items::topology;
use crate::profile::Profile;

/// Version of the JSON form; it grows when a reader of the old one would misread the new one.
pub const SCHEMA: u32 = 1;

/// What looking at a host found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// What the host was held against.
    pub profile: Profile,
    /// CPUs that shards run on, as a list.
    pub shard_cpus: String,
    /// CPUs that would suit shards better, as a list: of the NIC's node, one of each core.
    pub better_cpus: Option<String>,
    /// The interface that clients come through.
    pub nic: Option<String>,
    /// The host.
    pub host: HostFacts,
    /// How many items stand how.
    pub counts: Counts,
    /// Every item.
    pub items: Vec<Checked>,
}

/// How many items stand how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// As wanted.
    pub ok: usize,
    /// Not as wanted.
    pub differs: usize,
    /// Not told by the host.
    pub unknown: usize,
    /// Without a meaning on this host.
    pub not_applicable: usize,
}

/// An item and what was found.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// Its name.
    pub name: &'static str,
    /// Where it stands.
    pub group: Group,
    /// What was found.
    #[serde(flatten)]
    pub finding: Finding,
}

impl Report {
    /// Looks at `items` of a host.
    pub fn of(host: &Host, items: &[&dyn Item]) -> Report {
        let checked =
            |item: &&dyn Item| Checked { name: item.name(), group: item.group(), finding: item.check(host) };
        let items: Vec<Checked> = items.iter().map(checked).collect();
        let count = |status| items.iter().filter(|item| item.finding.status == status).count();
        Report {
            schema: SCHEMA,
            profile: host.profile,
            shard_cpus: host.shards.to_string(),
            better_cpus: topology::better_cpus(host).map(|cpus| cpus.to_string()),
            nic: host.nic.clone(),
            host: HostFacts::read(&host.root),
            counts: Counts {
                ok: count(Status::Ok),
                differs: count(Status::Differs),
                unknown: count(Status::Unknown),
                not_applicable: count(Status::NotApplicable),
            },
            items,
        }
    }

    /// As JSON, with a line feed.
    pub fn json(&self) -> String {
        let json = serde_json::to_string_pretty(self).expect("strings and numbers alone");
        json + "\n"
    }

    /// As text of at most `width` columns, where words allow it. The reasons of what is as wanted are told only when
    /// `verbose`.
    pub fn text(&self, width: usize, verbose: bool) -> String {
        let mut text = self.heading(width);
        for items in self.items.chunk_by(|left, right| left.group == right.group) {
            text += &format!("\n{}\n", items[0].group.title());
            text += &match absent(items).filter(|_| !verbose) {
                Some(line) => wrapped(&label(Status::NotApplicable), &line, TEXT_COLUMN, width),
                None => items.iter().map(|item| item.text(width, verbose)).collect(),
            };
        }
        text + "\n" + &self.ending(width)
    }

    fn heading(&self, width: usize) -> String {
        let host = &self.host;
        let count = |count: Option<u32>, one: &str, many: &str| {
            count.map(|count| format!("{count} {}", if count == 1 { one } else { many }))
        };
        let memory = host.memory_bytes.map(|bytes| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64));
        let facts = [
            host.kernel.as_ref().map(|release| format!("Linux {release}")),
            host.cpu_model.clone(),
            count(host.cpus_online, "CPU", "CPUs"),
            count(host.sockets, "socket", "sockets"),
            count(host.numa_nodes, "NUMA node", "NUMA nodes"),
            memory,
            host.virtualised.filter(|&is| is).map(|_| "virtual machine".to_owned()),
            host.container.as_ref().map(|kind| format!("container: {kind}")),
        ];
        let facts: Vec<String> = facts.into_iter().flatten().collect();
        let facts = if facts.is_empty() { "tells nothing of itself".to_owned() } else { facts.join(", ") };
        let shards = match self.shard_cpus.as_str() {
            "" => "unknown (--cpus names them)".to_owned(),
            cpus => match &self.better_cpus {
                Some(better) => format!("on CPUs {cpus} (--cpus names others, for example {better})"),
                None => format!("on CPUs {cpus} (--cpus names others)"),
            },
        };
        let nic = self.nic.as_ref().map_or("none found (--nic names one)".to_owned(), Clone::clone);
        let lines = [
            ("Host", facts),
            ("Profile", format!("{}: {}", self.profile, self.profile.summary())),
            ("Shards", shards),
            ("NIC", nic),
        ];
        lines.iter().map(|(label, text)| wrapped(&format!("{label:<9}"), text, 9, width)).collect()
    }

    fn ending(&self, width: usize) -> String {
        let Counts { ok, differs, unknown, not_applicable } = self.counts;
        let differ = if differs == 1 { "differs" } else { "differ" };
        let counts =
            format!("{ok} ok, {differs} {differ}, {unknown} unknown, {not_applicable} not applicable");
        let by = |remedy| {
            self.items
                .iter()
                .filter(|item| item.finding.status == Status::Differs && item.finding.remedy == remedy)
                .count()
        };
        let mut text = wrapped("", &counts, 0, width);
        let ways = [
            (by(Remedy::Apply), format!("changed by: fulmar tune apply --profile {}", self.profile)),
            (by(Remedy::ByHand), "to be changed by hand".to_owned()),
            (
                by(Remedy::Reboot),
                "with boot parameters: GRUB_CMDLINE_LINUX in /etc/default/grub, update-grub, reboot"
                    .to_owned(),
            ),
        ];
        for (count, way) in ways.iter().filter(|(count, _)| *count > 0) {
            text += &wrapped(&format!("{count:>3} "), way, 4, width);
        }
        text
    }
}

/// Columns before a command's mark, and before text that goes on.
const MARK_COLUMN: usize = 10;
const TEXT_COLUMN: usize = 13;

/// How the line of an item begins.
fn label(status: Status) -> String {
    format!("  {:<8}", status.word())
}

/// One line for several items that this host has no use for, all for the same reason.
fn absent(items: &[Checked]) -> Option<String> {
    let reason = &items.first()?.finding.found;
    let alike =
        |item: &Checked| item.finding.status == Status::NotApplicable && item.finding.found == *reason;
    (items.len() > 1 && items.iter().all(alike)).then(|| format!("all {} items: {reason}", items.len()))
}

impl Checked {
    fn text(&self, width: usize, verbose: bool) -> String {
        let Finding { status, found, wanted, why, commands, .. } = &self.finding;
        let told = match status {
            Status::Ok => found.clone(),
            Status::Differs => format!("{found}; wanted: {wanted}"),
            Status::Unknown if wanted == crate::item::ANY => found.clone(),
            Status::Unknown => format!("{found}; wanted: {wanted}"),
            Status::NotApplicable => found.clone(),
        };
        let line = format!("{}: {told}", self.name);
        let mut text = wrapped(&label(*status), &line, TEXT_COLUMN, width);
        let explained = *status == Status::Differs || verbose;
        if explained {
            text += &wrapped(&" ".repeat(TEXT_COLUMN), why, TEXT_COLUMN, width);
        }
        if explained || *status == Status::Unknown {
            for command in shortened(commands) {
                text += &wrapped(&format!("{:MARK_COLUMN$} > ", ""), &command, TEXT_COLUMN, width);
            }
        }
        text
    }
}

/// Most commands shown of an item; JSON has all.
const MOST_COMMANDS: usize = 6;

fn shortened(commands: &[String]) -> Vec<String> {
    match commands.len() {
        0..=MOST_COMMANDS => commands.to_vec(),
        all => {
            let more = format!("… and {} more (--json has all)", all - (MOST_COMMANDS - 1));
            commands[..MOST_COMMANDS - 1].iter().cloned().chain([more]).collect()
        }
    }
}

impl Status {
    /// As in a report.
    pub fn word(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Differs => "differs",
            Status::Unknown => "unknown",
            Status::NotApplicable => "n/a",
        }
    }
}

/// Lines of at most `width` columns: the first after `first`, the others after `indent` blanks. Words are kept whole.
pub(crate) fn wrapped(first: &str, text: &str, indent: usize, width: usize) -> String {
    let indent = " ".repeat(indent);
    let options = Options::new(width).initial_indent(first).subsequent_indent(&indent).break_words(false);
    textwrap::fill(text, options.word_splitter(textwrap::WordSplitter::NoHyphenation)) + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_their_width_and_their_words() {
        let text = wrapped("> ", "one two three four", 4, 12);
        assert_eq!(text, "> one two\n    three\n    four\n");
        assert_eq!(wrapped("", "/sys/a-very/long-path", 0, 8), "/sys/a-very/long-path\n");
    }
}
