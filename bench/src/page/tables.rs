//! The tables of the page.

use maud::{Markup, html};
use serde_json::Value;

use super::figures::{typical_round, written};
use crate::group::{Group, Section};
use crate::metric::{Better, Metric, faults, metrics};
use crate::plot::scale::{bytes, digits, duration, thousands};
use crate::plot::text::clean;
use crate::result::{ResultFile, RunResult};

/// Medians, spreads and ratios: a row for each figure, a column for each target.
pub fn figures(section: &Section) -> Markup {
    let groups = &section.groups;
    let rows: Vec<&Metric> = metrics(section.workload)
        .filter(|metric| groups.iter().any(|group| group.summary(metric).is_some()))
        .collect();
    html! {
        div.scroll { table {
            thead { tr {
                th { (rounds(section)) }
                @for group in groups { th { (clean(&group.label)) } }
                @for group in &groups[1..] { th { (clean(&group.label)) " / " (clean(&groups[0].label)) } }
            } }
            tbody {
                @for metric in rows { tr {
                    th scope="row" { (metric.name) }
                    @for group in groups { (cell(metric, group)) }
                    @for group in &groups[1..] { td { (ratio(metric, group, &groups[0])) } }
                } }
                tr {
                    th scope="row" { "messages at fault" }
                    @for group in groups { (fault_cell(group)) }
                    @for _ in &groups[1..] { td {} }
                }
            }
        } }
    }
}

fn rounds(section: &Section) -> String {
    let counts: Vec<usize> = section.groups.iter().map(|group| group.rounds.len()).collect();
    match counts.iter().max() {
        Some(1) | None => "one round".into(),
        Some(most) if counts.iter().all(|count| count == most) => format!("median of {most} rounds"),
        _ => "median of rounds".into(),
    }
}

fn cell(metric: &Metric, group: &Group) -> Markup {
    let Some(found) = group.summary(metric) else { return html! { td { "–" } } };
    let [median, least, greatest] =
        [found.median, found.least, found.greatest].map(|value| written(metric, value));
    html! {
        td {
            (median)
            // As far as three digits tell.
            @if least != greatest { small { (least) " to " (greatest) } }
        }
    }
}

fn ratio(metric: &Metric, group: &Group, first: &Group) -> String {
    let medians = (group.summary(metric), first.summary(metric));
    let (Some(own), Some(first)) = medians else { return String::new() };
    if first.median > 0.0 { format!("× {}", digits(own.median / first.median)) } else { String::new() }
}

fn fault_cell(group: &Group) -> Markup {
    let found: u64 = group.rounds.iter().map(|run| faults(run)).sum();
    html! { td class=[(found > 0).then_some("bad")] { (found) } }
}

/// Steps of a sweep: a row for each rate and target.
pub fn steps(steps: &[&Section]) -> Markup {
    let rows =
        || steps.iter().flat_map(|section| section.groups.iter().map(move |group| (section.workload, group)));
    // Those that can be relied on; the others stand with every run.
    let metrics: Vec<&Metric> = metrics(steps[0].workload)
        .filter(|metric| metric.better != Better::Neither)
        .filter(|metric| rows().any(|(_, group)| group.summary(metric).is_some()))
        .collect();
    html! {
        div.scroll { table {
            thead { tr {
                th { "rate asked" } th { "target" } th { "schedule" }
                @for metric in &metrics { th { (metric.name) } }
                th { "messages at fault" }
            } }
            tbody { @for (workload, group) in rows() {
                @let kept = group.rounds.iter().all(|run| run.kept_schedule);
                tr {
                    td { (thousands(workload.rate_hz.unwrap_or(0) as f64)) "/s" }
                    td { (clean(&group.label)) }
                    td { @if kept { "kept" } @else { "missed" } }
                    @for metric in &metrics { (cell(metric, group)) }
                    (fault_cell(group))
                }
            } }
        } }
    }
}

/// What a search for the highest rate found.
pub fn found(file: &ResultFile) -> Markup {
    html! {
        @if let Some(sweep) = file.sweep {
            section {
                h2 { "Highest rate" }
                p {
                    @if let Some(highest_hz) = sweep.highest_hz {
                        (thousands(highest_hz as f64)) " messages/s"
                    } @else {
                        "Not even the lowest rate"
                    }
                    " with p99 of " (duration(sweep.limit_p99_ns as f64)) " at most."
                }
            }
        }
    }
}

/// Every run with its circumstances, folded away.
pub fn runs(sections: &[&Section]) -> Markup {
    let groups = || sections.iter().flat_map(|section| &section.groups);
    let runs = || groups().flat_map(|group| group.rounds.iter().map(move |run| (group, *run)));
    let mut targets: Vec<String> = groups().map(target).collect();
    targets.sort();
    targets.dedup();
    html! {
        details {
            summary { "Every run: counts and disturbances" }
            div.scroll { table {
                thead { tr {
                    th { "target" } th { "asked" } th { "round" } th { "published/s" } th { "consumed/s" } th { "schedule" }
                    th { "p50" } th { "p99" } th { "max" }
                    th { "lost" } th { "refused" } th { "doubled" } th { "out of order" } th { "left in queues" }
                    th { "generator without a core" } th { "stolen" } th { "load average" } th { "generator's ceiling" }
                    th { "began" }
                } }
                tbody { @for (group, run) in runs() { (run_row(group, run)) } }
            } }
            @for target in targets { p.soft { (target) } }
        }
    }
}

fn run_row(group: &Group, run: &RunResult) -> Markup {
    let counts = &run.counts;
    let latency = |read: fn(&crate::result::Distribution) -> u64| {
        run.latency.as_ref().map_or("–".into(), |found| duration(read(found) as f64))
    };
    let schedule = match (run.offered_hz, run.kept_schedule) {
        (None, _) => "none",
        (Some(_), true) => "kept",
        (Some(_), false) => "missed",
    };
    let shown = group.rounds.len() > 1 && std::ptr::eq(typical_round(group), run);
    html! {
        tr {
            td { (clean(&group.label)) @if shown { small { "shown over time" } } }
            td { (run.offered_hz.map_or("flood".into(), |hz| format!("{}/s", thousands(hz)))) }
            td { (run.round + 1) }
            td { (thousands(run.published_hz)) }
            td { (thousands(run.consumed_hz)) }
            td class=[(!run.kept_schedule).then_some("bad")] { (schedule) }
            td { (latency(|found| found.p50_ns)) }
            td { (latency(|found| found.p99_ns)) }
            td { (latency(|found| found.max_ns)) }
            @for count in [counts.lost, counts.refused, counts.duplicated, counts.out_of_order] {
                td class=[(count > 0).then_some("bad")] { (count) }
            }
            td { (counts.left) }
            td { (duration(run.disturbance.core_wait_ns as f64)) }
            td { (duration(run.disturbance.steal_ns as f64)) }
            td { (digits(run.disturbance.load_average)) }
            td { (run.ceiling_hz.map_or("–".into(), |hz| format!("{}/s", thousands(hz)))) }
            td { (clean(&run.started_at)) }
        }
    }
}

/// What a target is, in one line.
fn target(group: &Group) -> String {
    let target = &group.rounds[0].target;
    let version = target.version.as_deref().unwrap_or("of unknown version");
    let idle = target.idle.as_ref().map_or(String::new(), |idle| format!(", idle {idle}"));
    let options = if target.options.is_empty() { "without options" } else { &target.options };
    clean(&format!(
        "{}: {} {version}, {} over {}{idle}, {options}",
        group.label, target.name, target.protocol, target.transport
    ))
}

/// The host of a file, whatever facts there are of it.
pub fn host(several: bool, name: &str, file: &ResultFile) -> Markup {
    let facts = serde_json::to_value(&file.host).unwrap_or(Value::Null);
    let facts: Vec<(String, String)> = match facts {
        Value::Object(facts) => facts
            .iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(key, value)| (key.replace('_', " ").replace(" bytes", ""), fact(key, value)))
            .collect(),
        _ => Vec::new(),
    };
    html! {
        @if several { h3 { (clean(name)) } }
        @if facts.is_empty() { p.soft { "Nothing is known of it." } }
        dl { @for (key, value) in facts { dt { (clean(&key)) } dd { (clean(&value)) } } }
    }
}

fn fact(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => "none".into(),
        Value::String(text) => text.clone(),
        Value::Bool(true) => "yes".into(),
        Value::Bool(false) => "no".into(),
        Value::Number(number) if key.ends_with("_bytes") => bytes(number.as_f64().unwrap_or(f64::NAN)),
        Value::Array(values) => values.iter().map(|value| fact(key, value)).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}
