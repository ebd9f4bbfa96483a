//! `fulmar bench compare`, `report` and `regress`, one after the other, as a person runs them.

use std::path::Path;
use std::process::{Command, Output};

fn bench(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fulmar"));
    command.arg("bench").args(arguments).current_dir(directory).env("TMPDIR", directory);
    command.output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn measure(directory: &Path, out: &str) -> Output {
    let options = [
        "compare",
        "latency-1k",
        "small-flood",
        "--with",
        "fulmar,fulmar-0-10",
        "--rounds",
        "2",
        "--ceiling",
        "0",
    ];
    let short = ["--seconds", "0.4", "--warmup", "0.1", "--out", out, "--report", "page.html"];
    bench(directory, &[&options[..], &short].concat())
}

#[test]
fn from_a_comparison_to_a_page_and_a_verdict() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let compared = measure(directory, "one.json");
    let (table, told) = (text(&compared.stdout), text(&compared.stderr));
    assert!(compared.status.success(), "{table}{told}");
    assert!(
        table.contains("latency-1k") && table.contains("p99") && table.contains("small-flood"),
        "{table}"
    );
    assert!(!told.contains("round 1 of"), "progress without a terminal: {told}");
    let page = std::fs::read_to_string(directory.join("page.html")).unwrap();
    assert!(page.contains("<svg") && page.contains("median of 2 rounds"));
    let left = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.file_name());
    let mut left: Vec<String> = left.map(|name| name.to_string_lossy().into_owned()).collect();
    left.sort();
    assert_eq!(left, ["one.json", "page.html"], "something is left behind");

    let reported = bench(directory, &["report", "one.json", "--out", "other.html", "--svg", "plots"]);
    assert!(reported.status.success(), "{}", text(&reported.stderr));
    assert!(directory.join("plots/latency-1k-percentiles.svg").exists());
    assert_eq!(std::fs::read_to_string(directory.join("other.html")).unwrap().len(), page.len());

    let same = bench(directory, &["regress", "one.json", "one.json"]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
    let none = bench(directory, &["regress", "one.json", "missing.json"]);
    assert_eq!(none.status.code(), Some(2));
    assert!(text(&none.stderr).contains("missing.json"));
}

#[test]
fn what_cannot_be_compared_says_why() {
    let directory = tempfile::tempdir().unwrap();
    for (with, why) in [
        ("nats", "no driver"),
        ("kafka", "neither one of fulmar, rabbitmq"),
        ("amqp://127.0.0.1:1/", "refused"),
    ] {
        let refused = bench(directory.path(), &["compare", "latency-1k", "--with", with, "--ceiling", "0"]);
        assert!(!refused.status.success());
        assert!(text(&refused.stderr).contains(why), "{with}: {}", text(&refused.stderr));
    }
}

/// Each nuisance reaches the broker, and those who are served lose nothing by it.
#[test]
fn a_nuisance_is_made_and_told_of() {
    if Command::new("openssl").arg("version").output().is_err() {
        return eprintln!("not tested: openssl, which makes the broker's certificate, is missing");
    }
    for nuisance in ["handshakes", "half-open", "slow-loris", "wrong-passwords", "giant-frames"] {
        let output = Command::new(env!("CARGO_BIN_EXE_fulmar"))
            .args([
                "bench",
                "--json",
                "disturb",
                nuisance,
                "--workload",
                "latency-1k",
                "--rounds",
                "1",
                "--no-control",
            ])
            .args(["--seconds", "0.5", "--warmup", "0", "--rate", "200", "--nuisance-rate", "100"])
            .args(["--nuisance-connections", "20"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{nuisance}: {said}");
        let told: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let figure = |turn: usize, name: &str| told["turns"][turn]["figures"][name]["median"].as_f64();
        assert_eq!(told["turns"][1]["turn"], "disturbed");
        for turn in [0, 1] {
            assert!(
                figure(turn, "p99").unwrap() > 0.0 && figure(turn, "memory, most").unwrap() > 0.0,
                "{told}"
            );
        }
        assert_eq!(figure(0, "nuisance: connections"), None);
        assert!(figure(1, "nuisance: connections").unwrap() > 0.0, "{told}");
        let ended = figure(1, "nuisance: ended").unwrap();
        assert_eq!(ended > 0.0, !["half-open", "slow-loris"].contains(&nuisance), "{told}");
    }
}
