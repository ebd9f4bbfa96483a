//! What `fulmar tune check` says of several hosts, held against files in the repository.

mod fake;

use std::collections::HashSet;
use std::fs;

use fake::{FakeHost, assert_golden, tests};
use fulmar_tuning::host::Host;
use fulmar_tuning::item::Status;
use fulmar_tuning::items;
use fulmar_tuning::profile::Profile;
use fulmar_tuning::report::Report;
use fulmar_tuning::{CpuSet, Root};

const HOSTS: &[&str] = &["laptop", "server", "roce", "container"];

fn report(host: &FakeHost, profile: Profile, cpus: Option<&str>) -> Report {
    let cpus: Option<CpuSet> = cpus.map(|cpus| cpus.parse().unwrap());
    Report::of(&Host::new(host.root(), profile, cpus, None), &items::all())
}

fn status_of(report: &Report, name: &str) -> Status {
    report.items.iter().find(|item| item.name == name).unwrap().finding.status
}

#[test]
fn reports_are_as_they_were_agreed() {
    for name in HOSTS {
        let host = FakeHost::named(name);
        for profile in Profile::ALL {
            let text = report(&host, profile, None).text(80, false);
            assert_golden(&tests().join(format!("golden/{name}.{profile}.txt")), &text);
        }
        let latency = report(&host, Profile::Latency, None);
        assert_golden(&tests().join(format!("golden/{name}.latency.json")), &latency.json());
    }
}

#[test]
fn lines_keep_to_the_width_where_words_allow_it() {
    for name in HOSTS {
        let host = FakeHost::named(name);
        for width in [40, 80, 120] {
            let text = report(&host, Profile::Latency, None).text(width, true);
            for line in text.lines().filter(|line| line.chars().count() > width) {
                let words = line
                    .split_whitespace()
                    .filter(|&word| word != ">" && !["ok", "differs", "unknown", "n/a"].contains(&word));
                assert_eq!(words.count(), 1, "{name}, {width} columns: {line}");
            }
        }
    }
}

#[test]
fn each_item_gives_a_reason() {
    for name in HOSTS {
        let host = FakeHost::named(name);
        for profile in Profile::ALL {
            for item in report(&host, profile, None).items {
                assert!(item.finding.why.ends_with('.'), "{name}, {profile}, {}", item.name);
                assert!(!item.finding.found.is_empty(), "{name}, {profile}, {}", item.name);
            }
        }
    }
}

#[test]
fn a_host_without_files_is_unknown_not_an_error() {
    let host = FakeHost::described("");
    for profile in Profile::ALL {
        let report = report(&host, profile, None);
        assert_eq!(report.counts.differs, 0, "{}", report.text(80, false));
        assert_eq!(report.counts.ok, 0, "{}", report.text(80, false));
    }
}

/// Every kind of file of a host, one at a time, is missing, empty, odd, not text.
#[test]
fn odd_files_never_stop_a_check() {
    for name in ["container", "roce"] {
        let host = FakeHost::named(name);
        let mut paths = Vec::new();
        files_beneath(host.directory(), &mut paths);
        // Of those that differ in numbers alone, one will do.
        let mut seen = HashSet::new();
        paths.retain(|path| seen.insert(path.to_str().unwrap().replace(|c: char| c.is_ascii_digit(), "")));
        for path in paths {
            let before = fs::read(&path).unwrap();
            for odd in
                [&b"\n"[..], b"-1\n", b"99999999999999999999999\n", b"[\n", b"\xff\xff", b"a:b:c\n", b"0-\n"]
            {
                fs::write(&path, odd).unwrap();
                report(&host, Profile::Latency, None).text(80, true);
            }
            fs::remove_file(&path).unwrap();
            report(&host, Profile::Throughput, None).text(80, true);
            fs::write(&path, before).unwrap();
        }
    }
}

fn files_beneath(directory: &std::path::Path, paths: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            files_beneath(&entry.path(), paths);
        } else if kind.is_file() {
            paths.push(entry.path());
        }
    }
}

#[test]
fn the_host_that_runs_this_can_be_checked() {
    for profile in Profile::ALL {
        let host = Host::new(Root::default(), profile, None, None);
        let report = Report::of(&host, &items::all());
        assert_eq!(report.items.len(), items::all().len());
        report.text(80, true);
    }
}

#[test]
fn shards_on_isolated_cores_alone_share_none() {
    let host = FakeHost::named("server");
    fs::write(host.path("/sys/devices/system/cpu/isolated"), "20-23,52-55\n").unwrap();
    let report = report(&host, Profile::Latency, Some("20-23"));
    assert_eq!(status_of(&report, "isolation"), Status::Ok);
    assert_eq!(status_of(&report, "smt"), Status::Ok);
    assert_eq!(status_of(&report, "numa"), Status::Ok);
}

#[test]
fn isolated_cores_are_taken_for_the_shards() {
    let report = report(&FakeHost::named("roce"), Profile::Latency, None);
    assert_eq!(report.shard_cpus, "8-31");
}

#[test]
fn shards_are_on_cpus_that_the_broker_may_use() {
    let host = FakeHost::described(
        "/sys/devices/system/cpu/online = 0-7\n/proc/self/status = Cpus_allowed:\t3c\\nCpus_allowed_list:\t2-5",
    );
    assert_eq!(report(&host, Profile::Latency, None).shard_cpus, "3-5");
}

#[test]
fn mitigations_off_differ_only_where_others_share_the_host() {
    let host = FakeHost::named("server");
    assert_eq!(status_of(&report(&host, Profile::Shared, None), "mitigations"), Status::Differs);
    assert_eq!(status_of(&report(&host, Profile::Latency, None), "mitigations"), Status::Ok);
    for name in HOSTS {
        let host = FakeHost::named(name);
        for profile in Profile::ALL {
            let commands =
                report(&host, profile, None).items.into_iter().flat_map(|item| item.finding.commands);
            assert_eq!(
                commands.filter(|command| command.starts_with("boot parameter mitigations=off")).count(),
                0
            );
        }
    }
}
