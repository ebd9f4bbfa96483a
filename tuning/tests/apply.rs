//! Applying and taking back, on hosts that are directories.

mod fake;

use std::fs;
use std::path::PathBuf;

use fake::FakeHost;
use fulmar_tuning::Root;
use fulmar_tuning::apply::{Applied, ItemApplied, apply};
use fulmar_tuning::host::Host;
use fulmar_tuning::item::{Item, Remedy};
use fulmar_tuning::items;
use fulmar_tuning::profile::Profile;
use fulmar_tuning::report::Report;
use fulmar_tuning::undo::{Undo, UndoError, Undone, undo};

const SWAPPINESS: &str = "/proc/sys/vm/swappiness";
const SOMAXCONN: &str = "/proc/sys/net/core/somaxconn";

/// A host with two settings that differ, and where its undo file is kept.
struct Setup {
    host: FakeHost,
    state: tempfile::TempDir,
}

impl Setup {
    fn new(description: &str) -> Setup {
        Setup { host: FakeHost::described(description), state: tempfile::tempdir().unwrap() }
    }

    fn two_settings() -> Setup {
        Setup::new(&format!("{SWAPPINESS} = 60\n{SOMAXCONN} = 128\n"))
    }

    fn undo_file(&self) -> PathBuf {
        self.state.path().join("deep/tune-undo.json")
    }

    fn root(&self) -> Root {
        self.host.root()
    }

    fn set(&self, path: &str, value: &str) {
        fs::write(self.host.path(path), value).unwrap();
    }

    fn value(&self, path: &str) -> String {
        self.root().read(path).unwrap()
    }

    fn apply(&self, profile: Profile) -> Vec<ItemApplied> {
        let (mut kept, _) = Undo::load_or_new(&self.undo_file(), &self.root()).unwrap();
        let (applied, result) =
            apply(&self.looked_at(profile), &items::all(), Some((&mut kept, &self.undo_file())));
        result.unwrap();
        applied
    }

    fn looked_at(&self, profile: Profile) -> Host {
        Host::new(self.root(), profile, None, None)
    }

    fn undo(&self, force: bool) -> Vec<Undone> {
        let mut kept = Undo::load(&self.undo_file(), &self.root()).unwrap();
        undo(&self.root(), &mut kept, &self.undo_file(), force)
            .unwrap()
            .into_iter()
            .map(|(_, result)| result)
            .collect()
    }
}

#[test]
fn what_was_applied_is_taken_back() {
    let setup = Setup::two_settings();
    assert!(
        setup
            .apply(Profile::Latency)
            .iter()
            .flat_map(|item| &item.changes)
            .all(|(_, result)| result.is_fine())
    );
    assert_eq!((setup.value(SWAPPINESS), setup.value(SOMAXCONN)), ("1".into(), "4096".into()));
    assert_eq!(setup.undo(false), [Undone::Restored("4096".into()), Undone::Restored("1".into())]);
    assert_eq!((setup.value(SWAPPINESS), setup.value(SOMAXCONN)), ("60".into(), "128".into()));
    assert!(!setup.undo_file().exists());
    assert!(matches!(Undo::load(&setup.undo_file(), &setup.root()), Err(UndoError::Missing(_))));
}

#[test]
fn every_reversible_item_of_a_server_comes_and_goes() {
    let host = FakeHost::named("server");
    let setup = Setup { host, state: tempfile::tempdir().unwrap() };
    let before = Report::of(&setup.looked_at(Profile::Latency), &items::all()).json();
    let applied = setup.apply(Profile::Latency);
    let changed: usize = applied.iter().map(|item| item.changes.len()).sum();
    assert!(changed > 200, "{changed}");
    for item in &applied {
        assert_eq!(item.finding.remedy == Remedy::Apply, !item.changes.is_empty(), "{}", item.item);
        assert!(item.changes.iter().all(|(_, result)| *result == Applied::Written), "{}", item.item);
    }
    let after = Report::of(&setup.looked_at(Profile::Latency), &items::all());
    // What is written to an interrupt shows in its effective affinity, which nobody keeps up to date here.
    let left =
        after.items.iter().filter(|item| item.finding.remedy == Remedy::Apply && item.name != "irq-affinity");
    assert_eq!(left.map(|item| item.name).collect::<Vec<_>>(), Vec::<&str>::new());
    assert!(setup.undo(false).iter().all(Undone::is_back));
    assert_eq!(Report::of(&setup.looked_at(Profile::Latency), &items::all()).json(), before);
}

#[test]
fn the_newest_change_goes_first() {
    let setup = Setup::two_settings();
    setup.apply(Profile::Latency);
    let mut kept = Undo::load(&setup.undo_file(), &setup.root()).unwrap();
    let order: Vec<String> = kept.entries.iter().map(|entry| entry.path.clone()).collect();
    let results = undo(&setup.root(), &mut kept, &setup.undo_file(), false).unwrap();
    let undone: Vec<String> = results.into_iter().map(|(entry, _)| entry.path).rev().collect();
    assert_eq!(undone, order);
}

#[test]
fn a_second_apply_keeps_the_first_values() {
    let setup = Setup::two_settings();
    setup.apply(Profile::Throughput);
    assert_eq!(setup.value(SWAPPINESS), "10");
    setup.apply(Profile::Latency);
    assert_eq!(setup.value(SWAPPINESS), "1");
    assert!(setup.apply(Profile::Latency).is_empty());
    assert!(setup.undo(false).iter().all(Undone::is_back));
    assert_eq!((setup.value(SWAPPINESS), setup.value(SOMAXCONN)), ("60".into(), "128".into()));
}

#[test]
fn a_dry_run_writes_nothing() {
    let setup = Setup::two_settings();
    let (applied, _) = apply(&setup.looked_at(Profile::Latency), &items::all(), None);
    let results: Vec<&Applied> =
        applied.iter().flat_map(|item| &item.changes).map(|(_, result)| result).collect();
    assert_eq!(results, [&Applied::WouldBeWritten, &Applied::WouldBeWritten]);
    assert_eq!((setup.value(SWAPPINESS), setup.value(SOMAXCONN)), ("60".into(), "128".into()));
    assert!(!setup.undo_file().exists());
}

#[test]
fn what_cannot_be_written_is_told_and_the_rest_goes_on() {
    // Whoever runs this may be root, for whom permissions mean nothing. A file that is not there refuses everybody, one
    // that is always full refuses late.
    let setup = Setup::two_settings();
    let full = "/proc/sys/vm/full";
    std::os::unix::fs::symlink("/dev/full", setup.host.path(full)).unwrap();
    for path in ["/proc/sys/vm/missing", full] {
        setup.set(SOMAXCONN, "128");
        let blocked = Blocked { item: items::named("vm.swappiness").unwrap(), path };
        let (mut kept, _) = Undo::load_or_new(&setup.undo_file(), &setup.root()).unwrap();
        let items: [&dyn Item; 2] = [&blocked, items::named("net.core.somaxconn").unwrap()];
        let host = setup.looked_at(Profile::Latency);
        let (applied, result) = apply(&host, &items, Some((&mut kept, &setup.undo_file())));
        assert!(result.is_ok());
        assert!(matches!(applied[0].changes[0].1, Applied::Refused(_)), "{:?}", applied[0]);
        assert_eq!(applied[1].changes[0].1, Applied::Written);
        assert_eq!(kept.entries.iter().map(|entry| entry.path.as_str()).collect::<Vec<_>>(), [SOMAXCONN]);
        assert_eq!(kept, Undo::load(&setup.undo_file(), &setup.root()).unwrap());
    }
}

/// An item whose file is gone between looking and writing.
struct Blocked {
    item: &'static dyn Item,
    path: &'static str,
}

impl Item for Blocked {
    fn name(&self) -> &'static str {
        self.item.name()
    }

    fn group(&self) -> fulmar_tuning::item::Group {
        self.item.group()
    }

    fn about(&self) -> &'static str {
        self.item.about()
    }

    fn check(&self, host: &Host) -> fulmar_tuning::item::Finding {
        let mut finding = self.item.check(host);
        finding.changes[0].path = self.path.to_owned();
        finding
    }
}

#[test]
fn what_takes_another_value_is_told_and_taken_back_all_the_same() {
    // A device that swallows what is written and reads as nothing: as a kernel that adjusts a value.
    let setup = Setup::two_settings();
    let path = setup.host.path(SWAPPINESS);
    let swallowing = Blocked { item: items::named("vm.swappiness").unwrap(), path: "/proc/sys/vm/null" };
    std::os::unix::fs::symlink("/dev/null", path.with_file_name("null")).unwrap();
    let (mut kept, _) = Undo::load_or_new(&setup.undo_file(), &setup.root()).unwrap();
    let (applied, _) =
        apply(&setup.looked_at(Profile::Latency), &[&swallowing], Some((&mut kept, &setup.undo_file())));
    assert_eq!(applied[0].changes[0].1, Applied::Took(String::new()));
    let entry = &Undo::load(&setup.undo_file(), &setup.root()).unwrap().entries[0];
    assert_eq!((entry.before.as_str(), entry.after.as_str()), ("60", ""));
}

#[test]
fn a_file_that_is_gone_stays_in_the_undo_file() {
    let setup = Setup::two_settings();
    setup.apply(Profile::Latency);
    fs::remove_file(setup.host.path(SOMAXCONN)).unwrap();
    assert_eq!(setup.undo(false), [Undone::Unreadable, Undone::Restored("1".into())]);
    assert_eq!(setup.value(SWAPPINESS), "60");
    assert_eq!(Undo::load(&setup.undo_file(), &setup.root()).unwrap().entries.len(), 1);
}

#[test]
fn what_somebody_else_changed_since_is_left_unless_forced() {
    let setup = Setup::two_settings();
    setup.apply(Profile::Latency);
    setup.set(SWAPPINESS, "30");
    assert_eq!(setup.undo(false), [Undone::Restored("4096".into()), Undone::ChangedSince("30".into())]);
    assert_eq!(setup.value(SWAPPINESS), "30");
    assert_eq!(setup.undo(true), [Undone::Restored("30".into())]);
    assert_eq!(setup.value(SWAPPINESS), "60");
}

#[test]
fn what_is_back_already_counts_as_back() {
    let setup = Setup::two_settings();
    setup.apply(Profile::Latency);
    setup.set(SWAPPINESS, "60");
    assert_eq!(setup.undo(false), [Undone::Restored("4096".into()), Undone::AlreadyBack]);
}

#[test]
fn nothing_is_written_without_an_undo_file() {
    let setup = Setup::two_settings();
    // A file stands where its directory should be.
    fs::write(setup.state.path().join("deep"), "").unwrap();
    let mut kept = Undo::new(&setup.root());
    let (applied, result) =
        apply(&setup.looked_at(Profile::Latency), &items::all(), Some((&mut kept, &setup.undo_file())));
    assert!(applied.iter().all(|item| item.changes.is_empty()));
    assert!(matches!(result, Err(UndoError::Io { .. })));
    assert_eq!((setup.value(SWAPPINESS), setup.value(SOMAXCONN)), ("60".into(), "128".into()));
}

#[test]
fn a_foreign_undo_file_is_refused_and_left_alone() {
    let setup = Setup::two_settings();
    fs::create_dir_all(setup.undo_file().parent().unwrap()).unwrap();
    let other_root = tempfile::tempdir().unwrap();
    setup.apply(Profile::Latency);
    let ours = fs::read_to_string(setup.undo_file()).unwrap();
    let hostile = ours.replace(SWAPPINESS, "/etc/passwd");
    let escaping = ours.replace(SWAPPINESS, "/proc/../etc/passwd");
    let later = ours.replace("\"schema\": 1", "\"schema\": 2");
    for text in ["", "{}", "[1, 2]", "not JSON", &hostile, &escaping, &later] {
        fs::write(setup.undo_file(), text).unwrap();
        let loaded = Undo::load_or_new(&setup.undo_file(), &setup.root());
        assert!(matches!(loaded, Err(UndoError::Foreign { .. })), "{text}");
        assert_eq!(fs::read_to_string(setup.undo_file()).unwrap(), text);
    }
    fs::write(setup.undo_file(), &ours).unwrap();
    assert!(matches!(
        Undo::load(&setup.undo_file(), &Root::new(other_root.path())),
        Err(UndoError::Foreign { .. })
    ));
}

#[test]
fn entries_of_an_earlier_boot_are_dropped() {
    let setup = Setup::new(&format!("{SWAPPINESS} = 60\n/proc/sys/kernel/random/boot_id = one\n"));
    setup.apply(Profile::Latency);
    setup.set("/proc/sys/kernel/random/boot_id", "two");
    setup.set(SWAPPINESS, "40");
    let (kept, dropped) = Undo::load_or_new(&setup.undo_file(), &setup.root()).unwrap();
    assert_eq!((kept.entries.len(), dropped), (0, 1));
    setup.apply(Profile::Latency);
    assert_eq!(Undo::load(&setup.undo_file(), &setup.root()).unwrap().entries[0].before, "40");
}
