//! Files that make a tuning last: those in the repository, and that they say what `check` goes by.

mod fake;

use std::fs;
use std::path::Path;
use std::process::Command;

use fake::{FakeHost, assert_golden};
use fulmar_tuning::files::{FileWritten, Placement, generate, write};
use fulmar_tuning::host::Host;
use fulmar_tuning::item::{Group, Status};
use fulmar_tuning::items;
use fulmar_tuning::items::settings::SETTINGS;
use fulmar_tuning::profile::Profile;
use fulmar_tuning::report::Report;

fn content(profile: Profile, end: &str) -> String {
    generate(profile, None).into_iter().find(|file| file.path.ends_with(end)).unwrap().content
}

/// The lines `key = value` or `key=value`.
fn assignments(text: &str) -> Vec<(String, String)> {
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']));
    lines
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().trim_start_matches(['<', '>']).to_owned()))
        .collect()
}

#[test]
fn the_repository_has_what_is_generated() {
    for profile in Profile::ALL {
        for file in generate(profile, None) {
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("files/{profile}/{}", file.path));
            assert_golden(&path, &file.content);
        }
    }
}

/// The settings of a server, set as the file says, are as the check of that profile wants them.
fn holds_up(profile: Profile, file: &str, wanted: impl Fn(&str) -> bool) {
    let host = FakeHost::named("server");
    for (key, value) in assignments(&content(profile, file)) {
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.name == key || setting.path() == key) {
            assert!(host.path(&setting.path()).exists(), "{key}");
            fs::write(host.path(&setting.path()), value).unwrap();
        }
    }
    let report = Report::of(&Host::new(host.root(), profile, None, None), &items::all());
    for setting in SETTINGS.iter().filter(|setting| wanted(setting.name)) {
        let item = report.items.iter().find(|item| item.name == setting.name).unwrap();
        assert_ne!(item.finding.status, Status::Differs, "{profile}, {file}: {}", setting.name);
    }
}

#[test]
fn a_host_set_by_the_sysctl_file_passes_the_check() {
    for profile in Profile::ALL {
        holds_up(profile, "sysctl.d/60-fulmar.conf", |name| name.contains('.'));
        holds_up(profile, "tuned.conf", |_| true);
    }
}

#[test]
fn sysctl_files_set_what_the_profile_wants_and_nothing_else() {
    for profile in Profile::ALL {
        let wanted = SETTINGS.iter().filter(|setting| setting.is_sysctl());
        let expected: Vec<(String, String)> = wanted
            .filter_map(|setting| Some((setting.name.to_owned(), setting.wanted(profile).value()?)))
            .collect();
        let file =
            generate(profile, None).into_iter().find(|file| file.path.starts_with("sysctl.d")).unwrap();
        assert_eq!(assignments(&file.content), expected);
    }
}

#[test]
fn no_file_loosens_security() {
    for profile in Profile::ALL {
        for file in generate(profile, None) {
            for word in ["mitigations", "io_uring_disabled", "0666", "CAP_", "SELinux"] {
                assert!(!file.content.contains(word), "{profile}, {}: {word}", file.path);
            }
        }
    }
}

#[test]
fn cpus_are_written_where_they_are_known() {
    let placement = Placement { shards: "2-3,6".parse().unwrap(), all: "0-7".parse().unwrap() };
    let files = generate(Profile::Latency, Some(&placement));
    let cpus = &files.iter().find(|file| file.path.ends_with("cpus.conf")).unwrap().content;
    for line in [
        "\nCPUAffinity=0-7\n",
        "\nEnvironment=FULMAR_CPU_AFFINITY=2-3,6\n",
        "\nEnvironment=FULMAR_SHARDS=3\n",
    ] {
        assert!(cpus.contains(line), "{cpus}");
    }
    let tuned = &files.iter().find(|file| file.path.ends_with("tuned.conf")).unwrap().content;
    assert!(tuned.contains("\n[bootloader]\ncmdline_fulmar=+isolcpus=managed_irq,domain,2-3,6 "), "{tuned}");
}

#[test]
fn a_file_with_another_text_is_left_unless_forced() {
    let directory = tempfile::tempdir().unwrap();
    let files = generate(Profile::Latency, None);
    let results = |force| -> Vec<FileWritten> {
        write(directory.path(), &files, force).unwrap().into_iter().map(|(_, result)| result).collect()
    };
    assert!(results(false).iter().all(|result| *result == FileWritten::Written));
    assert!(results(false).iter().all(|result| *result == FileWritten::AsItWas));
    let service = directory.path().join("systemd/system/fulmar.service");
    fs::write(&service, "mine").unwrap();
    assert_eq!(results(false)[0], FileWritten::LeftAlone);
    assert_eq!(fs::read_to_string(&service).unwrap(), "mine");
    assert_eq!(results(true)[0], FileWritten::Written);
}

/// Where systemd is installed; says so where it is not.
#[test]
fn systemd_takes_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return println!("systemd-analyze is not installed: the units are not verified");
    }
    for profile in Profile::ALL {
        let directory = tempfile::tempdir().unwrap();
        let placement = Placement { shards: "1".parse().unwrap(), all: "0-1".parse().unwrap() };
        write(directory.path(), &generate(profile, Some(&placement)), false).unwrap();
        let service = directory.path().join("systemd/system/fulmar.service");
        // The program need not be installed where this runs.
        let text = fs::read_to_string(&service).unwrap().replace("/usr/bin/fulmar", "/bin/true");
        fs::write(&service, text).unwrap();
        let output =
            Command::new("systemd-analyze").arg("verify").arg("--man=no").arg(&service).output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let ours: Vec<&str> = told.lines().filter(|line| line.contains("fulmar")).collect();
        assert!(output.status.success() && ours.is_empty(), "{profile}: {told}");
    }
}

#[test]
fn each_group_is_in_one_piece() {
    let groups: Vec<Group> = items::all().iter().map(|item| item.group()).collect();
    assert!(groups.is_sorted());
}
