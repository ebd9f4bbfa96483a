use super::*;
use crate::result::{RunResult, Sweep};
use crate::test_results::{file, flood, run, scaled_run, workload};

fn page_of(runs: Vec<RunResult>) -> String {
    page(&vec![("x".to_string(), file(runs))]).unwrap()
}

#[test]
fn a_page_has_each_workload_and_target_and_needs_nothing_else() {
    let runs = ["a", "b"].into_iter().flat_map(|name| {
        (0..3).flat_map(move |round| {
            [run(workload(name), "fulmar", round), scaled_run(workload(name), "rabbitmq", round, 4.0)]
        })
    });
    let html = page_of(runs.collect());
    assert_eq!(html.matches("<svg").count(), 6, "three plots of each workload");
    assert_eq!(html.matches("<h1>fulmar, rabbitmq</h1>").count(), 1);
    assert!(html.contains("median of 3 rounds") && html.contains("rabbitmq / fulmar"));
    for outside in ["http://", "https://", "<script", "<link", "@import", "url(", "src="] {
        let found = html.replace("http://www.w3.org/2000/svg", "");
        assert!(!found.contains(outside), "{outside}");
    }
}

#[test]
fn hostile_names_stay_text() {
    let evil = "</style><script>alert(1)</script>\"'&\u{0}";
    let mut bad = run(workload(evil), evil, 0);
    bad.workload.description = evil.into();
    bad.target.version = Some(evil.into());
    bad.target.options = evil.into();
    bad.started_at = evil.into();
    bad.kept_schedule = false;
    let mut other = bad.clone();
    other.target.idle = Some(evil.into());
    let html = page(&vec![(evil.to_string(), file(vec![bad, other])), ("y".into(), file(vec![]))]).unwrap();
    assert!(!html.contains("<script") && !html.contains('\u{0}'));
    assert_eq!(html.matches("</style>").count(), 1);
    assert!(html.contains("&lt;script&gt;alert(1)"));
}

#[test]
fn warnings_come_first() {
    let mut missed = run(workload("a"), "fulmar", 0);
    missed.kept_schedule = false;
    let html = page_of(vec![missed]);
    assert!(html.find("The schedule was missed").unwrap() < html.find("<svg").unwrap());
    assert!(!page_of(vec![run(workload("a"), "fulmar", 0)]).contains("Before you believe it"));
}

#[test]
fn a_sweep_has_one_plot_and_no_plots_of_its_steps() {
    let step = |rate_hz| {
        let mut step = run(Workload { rate_hz: Some(rate_hz), ..workload("sweep") }, "fulmar", 0);
        step.kept_schedule = rate_hz < 4_000;
        step
    };
    let sweep = Some(Sweep { limit_p99_ns: 1_000_000, highest_hz: Some(2_345) });
    let result = ResultFile { sweep, ..file(vec![step(4_000), step(1_000), step(2_000)]) };
    let html = page(&vec![("x".to_string(), result)]).unwrap();
    assert!(html.contains("2.35k messages/s with p99 of 1 ms at most."));
    assert_eq!(html.matches("<svg").count(), 1);
    assert!(html.contains("Latency by offered load") && html.contains("sweep, at rising rates"));
    assert!(html.find("<td>1k/s").unwrap() < html.find("<td>4k/s").unwrap());
    assert!(!html.contains("The schedule was missed"), "a sweep goes beyond what can be kept up with");
}

#[test]
fn nothing_makes_a_page_too() {
    assert!(page_of(vec![]).contains("No runs"));
    let mut empty = run(flood("a", 64), "", 0);
    empty.intervals.clear();
    empty.published_hz = f64::NAN;
    assert!(!page_of(vec![empty]).contains("NaN"));
}

#[test]
fn plots_of_the_same_name_have_files_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let step = |rate_hz| run(Workload { rate_hz: Some(rate_hz), ..workload("../a") }, "fulmar", 0);
    let written =
        write_plots(&vec![("x".to_string(), file(vec![step(1_000), step(2_000)]))], folder.path()).unwrap();
    let mut names: Vec<_> = written.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert!(
        names.contains(&"---a-percentiles.svg") && names.contains(&"---a-percentiles-2.svg"),
        "{names:?}"
    );
    assert_eq!(names.len(), 7);
    names.dedup();
    assert_eq!(names.len(), 7);
    for path in written {
        roxmltree::Document::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    }
}

#[test]
fn files_of_one_name_are_called_by_their_paths() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["one", "two"].map(|name| {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        folder.path().join(name).join("result.json")
    });
    for path in &paths {
        file(vec![]).write(path).unwrap();
    }
    let names = read(&paths).unwrap().into_iter().map(|(name, _)| name);
    assert!(names.zip(&paths).all(|(name, path)| name == path.display().to_string()));
    assert_eq!(read(&paths[..1]).unwrap()[0].0, "result");
}
