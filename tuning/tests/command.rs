//! `fulmar tune` as it is typed: what it says and how it exits.

mod fake;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use clap::{Args, Command, FromArgMatches};
use fake::{FakeHost, assert_golden, tests};
use fulmar_tuning::command::{Answer, answer};
use fulmar_tuning::{TuneArgs, run};

/// A host, with a directory for the broker's state.
struct Setup {
    host: FakeHost,
    state: tempfile::TempDir,
}

impl Setup {
    fn new(host: FakeHost) -> Setup {
        Setup { host, state: tempfile::tempdir().unwrap() }
    }

    /// The answer, with the names of directories that differ each time made the same.
    fn tune(&self, line: &str) -> Answer {
        let answer = answer(parsed(&format!("{line} --root {}", self.root())), self.state.path(), 80);
        let named = |text: String| {
            text.replace(self.root(), "ROOT").replace(self.state.path().to_str().unwrap(), "STATE")
        };
        Answer { text: named(answer.text), complaint: answer.complaint.map(named), ..answer }
    }

    fn root(&self) -> &str {
        self.host.directory().to_str().unwrap()
    }
}

fn parsed(line: &str) -> TuneArgs {
    tried(line).unwrap()
}

fn tried(line: &str) -> Result<TuneArgs, clap::Error> {
    let command = TuneArgs::augment_args(Command::new("tune"));
    let matches = command.try_get_matches_from(["tune"].into_iter().chain(line.split_whitespace()))?;
    TuneArgs::from_arg_matches(&matches)
}

/// What stands on standard output of a command without a host.
fn said(line: &str, state: &Path) -> Answer {
    answer(parsed(line), state, 80)
}

#[test]
fn check_exits_by_what_differs() {
    let setup = Setup::new(FakeHost::named("laptop"));
    assert_eq!(setup.tune("check --profile latency").status, 1);
    assert_eq!(setup.tune("check --profile shared").status, 0);
    assert_eq!(setup.tune("check --only clocksource").status, 0);
    assert_eq!(setup.tune("check --only thp,clocksource").status, 1);
}

#[test]
fn what_cannot_be_meant_is_wrong_use() {
    let setup = Setup::new(FakeHost::named("laptop"));
    for (line, named) in [
        ("check --nic eth9", "there are: lo, wlp0s20f3"),
        ("check --nic ../../etc", "there are: lo, wlp0s20f3"),
        ("check --cpus 7-8", "no CPU 8 here; there are: 0-7"),
        ("undo --undo-file /nonexistent/undo.json", "no undo file"),
    ] {
        let answer = setup.tune(line);
        assert_eq!((answer.status, answer.text.as_str()), (2, ""), "{line}");
        let complaint = answer.complaint.unwrap();
        assert!(complaint.contains(named), "{line}: {complaint}");
    }
    for line in [
        "",
        "check --profile fast",
        "check --only nosuch",
        "check --cpus x",
        "files --force",
        "undo --dry-run",
    ] {
        assert_eq!(tried(line).unwrap_err().exit_code(), 2, "{line}");
    }
    let missing = answer(parsed("check --root /nonexistent"), setup.state.path(), 80);
    assert_eq!(missing.status, 2);
}

#[test]
fn the_program_exits_with_the_status_of_the_answer() {
    let state = tempfile::tempdir().unwrap();
    let exits = |line: &str| run(parsed(line), state.path());
    assert_eq!(exits("undo --undo-file /nonexistent/undo.json"), ExitCode::from(2));
    assert_eq!(exits("undo"), ExitCode::SUCCESS);
}

#[test]
fn applying_and_taking_back_reads_as_agreed() {
    for name in ["laptop", "roce"] {
        let setup = Setup::new(FakeHost::named(name));
        let said: Vec<String> =
            ["undo", "apply --dry-run", "apply", "apply --only vm.swappiness thp", "undo", "undo"]
                .iter()
                .map(|line| {
                    let answer = setup.tune(line);
                    format!("$ fulmar tune {line}\n{}[exit {}]\n\n", answer.text, answer.status)
                })
                .collect();
        assert_golden(&tests().join(format!("golden/{name}.apply.txt")), &said.concat());
    }
}

#[test]
fn what_was_changed_since_is_told_and_forced() {
    let setup = Setup::new(FakeHost::described("/proc/sys/vm/swappiness = 60"));
    assert_eq!(setup.tune("apply").status, 0);
    fs::write(setup.host.path("/proc/sys/vm/swappiness"), "30\n").unwrap();
    let refused = setup.tune("undo");
    assert_eq!(refused.status, 1);
    assert!(refused.text.contains("30 now, but 1 was set"), "{}", refused.text);
    let forced = setup.tune("undo --force");
    assert_eq!((forced.status, forced.text.as_str()), (0, "vm.swappiness: 30 → 60\n"));
}

#[test]
fn an_undo_file_that_cannot_be_kept_stops_it() {
    let setup = Setup::new(FakeHost::described("/proc/sys/vm/swappiness = 60"));
    fs::write(setup.state.path().join("file"), "").unwrap();
    let undo_file = setup.state.path().join("file/undo.json");
    let answer = setup.tune(&format!("apply --undo-file {}", undo_file.display()));
    assert_ne!(answer.status, 0);
    assert!(answer.complaint.unwrap().contains("undo file STATE/file/undo.json"));
    assert_eq!(fs::read_to_string(setup.host.path("/proc/sys/vm/swappiness")).unwrap(), "60\n");
}

#[test]
fn every_item_is_listed() {
    let state = tempfile::tempdir().unwrap();
    let list = said("list", state.path());
    assert_golden(&tests().join("golden/list.txt"), &list.text);
    assert_eq!(list.status, 0);
}

#[test]
fn files_are_printed_or_written() {
    let state = tempfile::tempdir().unwrap();
    let printed = said("files --profile throughput", state.path());
    assert!(printed.text.contains("##### tuned/fulmar-throughput/tuned.conf\n[main]\n"));
    let out = state.path().join("out");
    let written = said(&format!("files --profile shared --out {}", out.display()), state.path());
    assert_eq!(written.status, 0, "{written:?}");
    assert!(out.join("systemd/system/fulmar.service").exists());
    fs::write(out.join("sysctl.d/60-fulmar.conf"), "mine").unwrap();
    assert_eq!(said(&format!("files --profile shared --out {}", out.display()), state.path()).status, 1);
}
