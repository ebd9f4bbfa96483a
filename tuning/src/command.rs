//! `fulmar tune`: what is asked, what is answered, how it exits.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::apply::{self, Applied, ItemApplied};
use crate::cpus::CpuSet;
use crate::files::{self, FileWritten, Placement};
use crate::host::{Host, is_file_name};
use crate::item::{Change, Item, Remedy};
use crate::items;
use crate::profile::Profile;
use crate::report::{Report, wrapped};
use crate::root::Root;
use crate::undo::{self, Entry, Undo, Undone};

/// Exit status when something differs, or could not be done.
const DIFFERS: u8 = 1;

/// Exit status on wrong use.
const WRONG_USE: u8 = 2;

/// Looks at the host that a broker runs on, and tunes it.
#[derive(Debug, Args)]
#[command(
    after_help = "Exits with 0 when all is as wanted or was done, 1 when something differs or could not be done, \
                        2 on wrong use."
)]
pub struct TuneArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Tell what is not as the profile wants it, why it matters, and what would change it. Changes nothing.
    #[command(
        after_help = "Exits with 0 when nothing differs, 1 when something does, 2 on wrong use. What the host does \
                            not tell is unknown and does not count as a difference."
    )]
    Check {
        #[command(flatten)]
        host: HostArgs,
        /// Only these items, separated by commas; `fulmar tune list` has their names.
        #[arg(long, value_name = "ITEM", num_args = 1.., value_delimiter = ',', value_parser = item_name)]
        only: Vec<&'static str>,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Give the reasons for what is as wanted, too.
        #[arg(long, short)]
        verbose: bool,
    },
    /// Change what can be changed back, as `check` would have it.
    #[command(
        after_help = "Exits with 0 when all was done, 1 when something was refused, 2 on wrong use. What needs a \
                            reboot or somebody's judgement is printed and left. Changes last until the next boot; \
                            `fulmar tune files` writes what lasts."
    )]
    Apply {
        #[command(flatten)]
        host: HostArgs,
        /// Only these items, separated by commas.
        #[arg(long, value_name = "ITEM", num_args = 1.., value_delimiter = ',', value_parser = item_name)]
        only: Vec<&'static str>,
        /// Say what would be changed and change nothing.
        #[arg(long)]
        dry_run: bool,
        /// Where to keep what was there before [default: tune-undo.json in the directory of the broker's state].
        #[arg(long, value_name = "FILE")]
        undo_file: Option<PathBuf>,
    },
    /// Put back what `apply` changed, the newest change first.
    #[command(
        after_help = "Exits with 0 when all is back, 1 when something is not, 2 on wrong use. What is not back stays \
                            in the undo file."
    )]
    Undo {
        /// What `apply` kept [default: tune-undo.json in the directory of the broker's state].
        #[arg(long, value_name = "FILE")]
        undo_file: Option<PathBuf>,
        /// Put back also what somebody else changed since.
        #[arg(long)]
        force: bool,
        /// Directory with the host's /proc and /sys.
        #[arg(long, value_name = "DIR", default_value = "/")]
        root: PathBuf,
    },
    /// Explain every item in a line.
    List,
    /// Write units for systemd, a tuned profile, sysctl settings, limits and udev rules.
    #[command(after_help = "Paths are those beneath /etc. Without --out the files are printed.")]
    Files {
        /// What the host is tuned for.
        #[arg(long, value_enum, default_value_t)]
        profile: Profile,
        /// CPUs of the shards, for example 2,4-7
        #[arg(long, value_name = "CPUS")]
        cpus: Option<CpuSet>,
        /// Directory to write them to.
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// Replace files that are there with another text.
        #[arg(long, requires = "out")]
        force: bool,
    },
}

#[derive(Debug, Args)]
struct HostArgs {
    /// What the host is tuned for.
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// CPUs of the shards, as in `fulmar serve --cpu-affinity` [default: what serve chooses; those isolated, if any].
    #[arg(long, value_name = "CPUS")]
    cpus: Option<CpuSet>,
    /// Interface that clients come through [default: that of the default route].
    #[arg(long, value_name = "IFACE")]
    nic: Option<String>,
    /// Directory with the host's /proc and /sys.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

fn item_name(name: &str) -> Result<&'static str, String> {
    items::named(name)
        .map(Item::name)
        .ok_or_else(|| format!("no item '{name}'; `fulmar tune list` has their names"))
}

impl HostArgs {
    fn host(self) -> Result<Host, String> {
        let root = opened(&self.root)?;
        if let Some(nic) = &self.nic
            && (!is_file_name(nic) || !root.exists(&format!("/sys/class/net/{nic}")))
        {
            let there = root.list("/sys/class/net").join(", ");
            return Err(format!("no interface '{nic}' here; there are: {there}"));
        }
        let host = Host::new(root, self.profile, self.cpus.clone(), self.nic);
        match self.cpus {
            Some(cpus) if cpus.is_empty() => Err("--cpus names no CPU".to_owned()),
            Some(cpus) if !host.online.is_empty() && !cpus.is_subset(&host.online) => {
                Err(format!("no CPU {} here; there are: {}", cpus.difference(&host.online), host.online))
            }
            _ => Ok(host),
        }
    }
}

/// The root beneath a directory, by its one true name, since undo files remember it.
fn opened(directory: &Path) -> Result<Root, String> {
    match directory.canonicalize() {
        Ok(directory) if directory.is_dir() => Ok(Root::new(directory)),
        Ok(directory) => Err(format!("{} is not a directory", directory.display())),
        Err(error) => Err(format!("{}: {error}", directory.display())),
    }
}

/// What `fulmar tune` says, and how it exits.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// For standard error, without a line feed; nothing where all went well.
    pub complaint: Option<String>,
    /// Exit status.
    pub status: u8,
}

impl Answer {
    fn of(text: String, fine: bool) -> Answer {
        Answer { text, complaint: None, status: if fine { 0 } else { DIFFERS } }
    }

    fn complaining(self, complaint: impl ToString) -> Answer {
        Answer { complaint: Some(complaint.to_string()), status: DIFFERS, ..self }
    }
}

/// Runs `fulmar tune`. The undo file lies in `state_dir` unless another is named.
pub fn run(args: TuneArgs, state_dir: &Path) -> ExitCode {
    // Columns of the terminal, within what reads well.
    let width = terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0).clamp(40, 120));
    let answer = answer(args, state_dir, width);
    // A reader that has gone away is nobody's fault.
    let _ = io::stdout().write_all(answer.text.as_bytes());
    if let Some(complaint) = answer.complaint {
        eprintln!("fulmar tune: {complaint}");
    }
    ExitCode::from(answer.status)
}

/// What [`run`] says on a terminal of `width` columns.
pub fn answer(args: TuneArgs, state_dir: &Path, width: usize) -> Answer {
    let default = || state_dir.join("tune-undo.json");
    let result = match args.command {
        Command::Check { host, only, json, verbose } => host.host().map(|host| {
            let report = Report::of(&host, &chosen(&only));
            let text = if json { report.json() } else { report.text(width, verbose) };
            Answer::of(text, report.counts.differs == 0)
        }),
        Command::Apply { host, only, dry_run, undo_file } => {
            let undo_file = undo_file.unwrap_or_else(default);
            host.host().and_then(|host| apply(&host, &only, dry_run, &undo_file, width))
        }
        Command::Undo { undo_file: None, root, .. } if !default().exists() => opened(&root)
            .map(|_| Answer::of(format!("Nothing to take back: no {}.\n", default().display()), true)),
        Command::Undo { undo_file, force, root } => {
            opened(&root).and_then(|root| undo(&root, &undo_file.unwrap_or_else(default), force, width))
        }
        Command::List => Ok(Answer::of(list(width), true)),
        Command::Files { profile, cpus, out, force } => Ok(files(profile, cpus, out.as_deref(), force)),
    };
    result.unwrap_or_else(|message| Answer {
        complaint: Some(message),
        status: WRONG_USE,
        ..Answer::default()
    })
}

fn chosen(only: &[&str]) -> Vec<&'static dyn Item> {
    items::all().into_iter().filter(|item| only.is_empty() || only.contains(&item.name())).collect()
}

fn list(width: usize) -> String {
    let mut text = String::new();
    for (position, items) in items::all().chunk_by(|left, right| left.group() == right.group()).enumerate() {
        text += &format!("{}{}\n", if position > 0 { "\n" } else { "" }, items[0].group().title());
        for item in items {
            // On a narrow terminal a name has a line of its own.
            text += &match width >= 100 {
                true => wrapped(&format!("  {:<36}", item.name()), item.about(), 38, width),
                false => format!("  {}\n{}", item.name(), wrapped(&" ".repeat(6), item.about(), 6, width)),
            };
        }
    }
    text
}

fn apply(host: &Host, only: &[&str], dry_run: bool, path: &Path, width: usize) -> Result<Answer, String> {
    let items = chosen(only);
    let mut text = String::new();
    let (results, kept) = match dry_run {
        true => apply::apply(host, &items, None),
        false => {
            let (mut kept, dropped) =
                Undo::load_or_new(path, &host.root).map_err(|error| error.to_string())?;
            if dropped > 0 {
                text +=
                    &format!("Dropped {dropped} entries of {}: a boot has undone them.\n", path.display());
            }
            apply::apply(host, &items, Some((&mut kept, path)))
        }
    };
    text += &applied_text(&results, (!dry_run).then_some(path), width);
    let fine = results.iter().flat_map(|item| &item.changes).all(|(_, result)| result.is_fine());
    let answer = Answer::of(text, fine);
    Ok(match kept {
        Ok(()) => answer,
        Err(error) => answer.complaining(format!("{error}; stopped, since changes could not be taken back")),
    })
}

fn applied_text(results: &[ItemApplied], undo_file: Option<&Path>, width: usize) -> String {
    let mut text = String::new();
    for result in results {
        let same = |left: &(Change, Applied), right: &(Change, Applied)| {
            (&left.0.found, &left.0.wanted, &left.1) == (&right.0.found, &right.0.wanted, &right.1)
        };
        for ((change, applied), count) in alike(&result.changes, same) {
            let what = what(result.item, &change.path, count);
            let line = format!("{what}: {} → {}{}", change.found, change.wanted, applied.suffix());
            text += &wrapped("", &line, 4, width);
        }
    }
    let with = |wanted: fn(&Applied) -> bool| -> Vec<&str> {
        let has = |result: &&ItemApplied| result.changes.iter().any(|(_, applied)| wanted(applied));
        results.iter().filter(has).map(|result| result.item).collect()
    };
    let needing_root = with(|applied| *applied == Applied::NeedsRoot);
    if !needing_root.is_empty() {
        let line = format!("Root is needed for {}: run this as root.", needing_root.join(", "));
        text += &wrapped("", &line, 4, width);
    }
    for (remedy, heading) in [(Remedy::Reboot, "With the next boot"), (Remedy::ByHand, "By hand")] {
        let left: Vec<&ItemApplied> =
            results.iter().filter(|result| result.finding.remedy == remedy).collect();
        if !left.is_empty() {
            text += &format!("{heading}, not done here:\n");
        }
        for result in left {
            text +=
                &wrapped("  ", &format!("{}: {}", result.item, result.finding.commands.join("; ")), 4, width);
        }
    }
    match undo_file {
        Some(path)
            if !with(|applied| !matches!(applied, Applied::NeedsRoot | Applied::Refused(_))).is_empty() =>
        {
            text += &wrapped("", &format!("What was there before is kept in {}.", path.display()), 4, width);
        }
        _ if results.is_empty() => text += "Nothing to change.\n",
        _ => {}
    }
    text
}

/// The first of those that are alike, with how many there are.
fn alike<T>(all: &[T], same: impl Fn(&T, &T) -> bool) -> Vec<(&T, usize)> {
    let mut groups: Vec<(&T, usize)> = Vec::new();
    for one in all {
        match groups.iter_mut().find(|(first, _)| same(first, one)) {
            Some((_, count)) => *count += 1,
            None => groups.push((one, 1)),
        }
    }
    groups
}

/// An item and what of it is written. The key of a sysctl says both.
fn what(item: &str, path: &str, count: usize) -> String {
    match count {
        1 if path == format!("/proc/sys/{}", item.replace('.', "/")) => item.to_owned(),
        1 => format!("{item}: {path}"),
        _ => format!("{item}: {count} files like {path}"),
    }
}

impl Applied {
    fn suffix(&self) -> String {
        match self {
            Applied::Written => String::new(),
            Applied::WouldBeWritten => " (not done)".to_owned(),
            Applied::Took(value) => format!(", but it took {value}"),
            Applied::Unverified => ", but it cannot be read back".to_owned(),
            Applied::NeedsRoot => ": needs root".to_owned(),
            Applied::Refused(reason) => format!(": refused, {reason}"),
        }
    }
}

fn undo(root: &Root, path: &Path, force: bool, width: usize) -> Result<Answer, String> {
    let mut kept = Undo::load(path, root).map_err(|error| error.to_string())?;
    let mut text = String::new();
    if !kept.is_of_this_boot(root) {
        text += "A boot lies between: it has put back what was not made to last.\n";
    }
    let results = match undo::undo(root, &mut kept, path, force) {
        Ok(results) => results,
        Err(error) => return Ok(Answer::of(text, false).complaining(error)),
    };
    let same = |left: &(Entry, Undone), right: &(Entry, Undone)| {
        (&left.0.item, &left.0.before, &left.1) == (&right.0.item, &right.0.before, &right.1)
    };
    for ((entry, result), count) in alike(&results, same) {
        text += &wrapped("", &undone_text(entry, count, result), 4, width);
    }
    if !kept.entries.is_empty() {
        text += &wrapped("", &format!("What is not back stays in {}.", path.display()), 4, width);
    }
    Ok(Answer::of(text, kept.entries.is_empty()))
}

fn undone_text(entry: &Entry, count: usize, result: &Undone) -> String {
    let Entry { item, path, before, after, .. } = entry;
    let told = match result {
        Undone::Restored(from) => format!("{from} → {before}"),
        Undone::AlreadyBack => format!("{before}, already back"),
        Undone::ChangedSince(now) => {
            format!("{now} now, but {after} was set: changed since, left alone; --force puts {before} back")
        }
        Undone::Unreadable => format!("cannot be read; {before} is not put back"),
        Undone::Failed(reason) => format!("{before} is not back: {reason}"),
    };
    format!("{}: {told}", what(item, path, count))
}

fn files(profile: Profile, cpus: Option<CpuSet>, out: Option<&Path>, force: bool) -> Answer {
    let online = Host::new(Root::default(), profile, None, None).online;
    let placement = cpus.filter(|cpus| !cpus.is_empty());
    let placement = placement.map(|shards| Placement { all: online.union(&shards), shards });
    let generated = files::generate(profile, placement.as_ref());
    let Some(out) = out else {
        let texts = generated.iter().map(|file| format!("##### {}\n{}", file.path, file.content));
        return Answer::of(texts.collect::<Vec<_>>().join("\n"), true);
    };
    let written = match files::write(out, &generated, force) {
        Ok(written) => written,
        Err((path, error)) => return Answer::default().complaining(format!("{}: {error}", path.display())),
    };
    let told = |result: &FileWritten| match result {
        FileWritten::Written => "written",
        FileWritten::AsItWas => "as it was",
        FileWritten::LeftAlone => "has another text, left alone; --force replaces it",
    };
    let text =
        written.iter().map(|(path, result)| format!("{}: {}\n", path.display(), told(result))).collect();
    Answer::of(text, written.iter().all(|(_, result)| *result != FileWritten::LeftAlone))
}
