//! From runs to plots: one function a plot, none where its data are missing.

use hdrhistogram::Histogram;

use crate::group::{Group, Section};
use crate::metric::Metric;
use crate::plot::scale::{Quantity, thousands};
use crate::plot::{Axis, Curve, Line, Plot, Point};
use crate::result::{Distribution, Interval, ResultError, RunResult};
use crate::statistics::Summary;
use crate::workload::{Size, Workload};

/// Points of a percentile curve for each nine.
const POINTS_A_NINE: usize = 16;

/// Intervals that make a curve over time.
const LEAST_INTERVALS: usize = 3;

/// What of a thing is a curve: its name, how it is drawn, how it is read.
type Part<Thing, Value> = (&'static str, Line, fn(&Thing) -> Value);

/// Plots of one workload.
///
/// # Errors
/// A histogram cannot be read.
pub fn of_section(section: &Section) -> Result<Vec<Plot>, ResultError> {
    let plots = [
        Some(by_percentile(section)?),
        latency_over_time(section),
        rate_over_time(section),
        memory_over_time(section),
    ];
    Ok(plots.into_iter().flatten().filter(|plot| !plot.is_empty()).collect())
}

/// What is asked for, but for the rate.
pub fn load_family(workload: &Workload) -> Workload {
    Workload { rate_hz: None, ..unnamed(workload) }
}

/// What is asked for, but for the size.
fn size_family(workload: &Workload) -> Workload {
    Workload { size: Size::Fixed(0), ..unnamed(workload) }
}

/// What is asked for, without what it is called and how long it takes.
fn unnamed(workload: &Workload) -> Workload {
    Workload {
        name: String::new(),
        description: String::new(),
        messages: None,
        seconds: 1.0,
        warmup_s: 0.0,
        ..workload.clone()
    }
}

fn by_percentile(section: &Section) -> Result<Plot, ResultError> {
    let mut curves = Vec::new();
    for group in &section.groups {
        let histograms = group.rounds.iter().filter_map(|run| run.latency.as_ref());
        let histograms: Vec<Histogram<u64>> =
            histograms.filter_map(|latency| latency.to_histogram().transpose()).collect::<Result<_, _>>()?;
        curves.push(Curve { points: percentile_points(&histograms), ..curve(group) });
    }
    Ok(Plot {
        slug: slug(section.workload, "percentiles"),
        title: "Latency by percentile".into(),
        note: String::new(),
        x: Axis::new("percentile of messages", Quantity::Percentile),
        y: Axis::new("latency, log scale", Quantity::LatencyNs),
        curves,
    })
}

/// All rounds taken together, with the least and the greatest of the rounds at each percentile.
fn percentile_points(rounds: &[Histogram<u64>]) -> Vec<Point> {
    let Some(mut whole) = rounds.first().cloned() else { return Vec::new() };
    for round in &rounds[1..] {
        whole.auto(true);
        // Only a value that does not fit could fail, and it grows.
        if whole.add(round).is_err() {
            return Vec::new();
        }
    }
    // Beyond its count a round has nothing to tell but its maximum.
    let fewest = rounds.iter().map(Histogram::len).min().unwrap_or(0).max(1) as f64;
    let steps = (fewest.log10() * POINTS_A_NINE as f64).floor() as usize;
    let places = (0..=steps).map(|step| 10f64.powf(step as f64 / POINTS_A_NINE as f64));
    places
        .map(|place| {
            let share = 1.0 - 1.0 / place;
            let of_rounds = Summary::of(rounds.iter().map(|round| round.value_at_quantile(share) as f64));
            let spread =
                of_rounds.filter(|found| found.rounds > 1).map(|found| (found.least, found.greatest));
            Point { spread, ..Point::new(place, whole.value_at_quantile(share) as f64) }
        })
        .collect()
}

fn latency_over_time(section: &Section) -> Option<Plot> {
    let parts: [Part<Distribution, u64>; 3] = [
        ("max", Line::Dotted, |found| found.max_ns),
        ("p99", Line::Dashed, |found| found.p99_ns),
        ("p50", Line::Solid, |found| found.p50_ns),
    ];
    let curves = section.groups.iter().flat_map(|group| {
        parts.iter().map(|&(what, line, read)| {
            let value = |interval: &Interval| {
                interval.latency.as_ref().filter(|found| found.count > 0).map(|found| read(found) as f64)
            };
            Curve { what: what.into(), line, points: over_time(group, value), ..curve(group) }
        })
    });
    let y = Axis::new("latency, log scale", Quantity::LatencyNs);
    timed_plot(section, "latency-over-time", "Latency over time", y, curves.collect())
}

/// Where the rate is not what was asked for all the time.
fn rate_over_time(section: &Section) -> Option<Plot> {
    let workload = section.workload;
    let missed = section.groups.iter().any(|group| group.rounds.iter().any(|run| !run.kept_schedule));
    if workload.rate_hz.is_some() && workload.slow.is_none() && !missed {
        return None;
    }
    let parts: [Part<Interval, f64>; 2] = [
        ("published", Line::Dotted, |interval| interval.published_hz),
        ("consumed", Line::Solid, |interval| interval.consumed_hz),
    ];
    let curves = section.groups.iter().flat_map(|group| {
        parts.iter().map(|&(what, line, read)| {
            let points = over_time(group, |interval| Some(read(interval)));
            Curve { what: what.into(), line, points, ..curve(group) }
        })
    });
    let y = Axis::new("messages/s", Quantity::Rate);
    timed_plot(section, "rate-over-time", "Throughput over time", y, curves.collect())
}

fn memory_over_time(section: &Section) -> Option<Plot> {
    let curves = section.groups.iter().map(|group| {
        let points = over_time(group, |interval| interval.broker_rss_bytes.map(|bytes| bytes as f64));
        Curve { points, ..curve(group) }
    });
    let y = Axis::new("resident memory of the broker", Quantity::Memory);
    timed_plot(section, "memory-over-time", "Memory over time", y, curves.collect())
}

/// A plot over the time of a run, if there is enough of it.
fn timed_plot(section: &Section, kind: &str, title: &str, y: Axis, curves: Vec<Curve>) -> Option<Plot> {
    let enough = curves.iter().any(|curve| curve.points.len() >= LEAST_INTERVALS);
    enough.then(|| Plot {
        slug: slug(section.workload, kind),
        title: title.into(),
        note: String::new(),
        x: Axis::new("time (s)", Quantity::Seconds),
        y,
        curves,
    })
}

fn over_time(group: &Group, value: impl Fn(&Interval) -> Option<f64>) -> Vec<Point> {
    let intervals = typical_round(group).intervals.iter();
    let point =
        |interval: &Interval| Some(Point::new(interval.from_s + interval.seconds / 2.0, value(interval)?));
    intervals.filter_map(point).collect()
}

/// The round to show where only one can be: in the middle by p99, or else by rate.
pub fn typical_round<'a>(group: &Group<'a>) -> &'a RunResult {
    let key = |run: &RunResult| run.latency.as_ref().map_or(run.consumed_hz, |found| found.p99_ns as f64);
    let mut rounds = group.rounds.clone();
    rounds.sort_by(|one, other| key(one).total_cmp(&key(other)));
    rounds[(rounds.len() - 1) / 2]
}

/// A plot for each kind of flood that was run with several sizes.
pub fn throughput_by_size(sections: &[&Section]) -> Vec<Plot> {
    let floods = |section: &&&Section| {
        section.workload.rate_hz.is_none() && matches!(section.workload.size, Size::Fixed(_))
    };
    let consumed: fn(&RunResult) -> Option<f64> = |run| Some(run.consumed_hz);
    let families =
        families(sections.iter().filter(floods).copied(), size_family, |workload| workload.size.mean());
    families
        .iter()
        .map(|family| Plot {
            slug: slug(family[0].workload, "throughput-by-size"),
            title: "Throughput by message size".into(),
            note: names(family),
            x: Axis::new("size of a message, log scale", Quantity::SizeLog),
            y: Axis::new("messages consumed/s, log scale", Quantity::RateLog),
            curves: curves_along(family, |workload| Some(workload.size.mean()), consumed, "", Line::Solid),
        })
        .filter(|plot| !plot.is_empty())
        .collect()
}

/// A plot for each workload that was run at several rates.
pub fn latency_by_load(sections: &[&Section]) -> Vec<Plot> {
    let scheduled = sections.iter().filter(|section| section.workload.rate_hz.is_some()).copied();
    let families = families(scheduled, load_family, |workload| workload.rate_hz.unwrap_or(0) as f64);
    let p50: fn(&RunResult) -> Option<f64> = |run| Some(run.latency.as_ref()?.p50_ns as f64);
    let p99: fn(&RunResult) -> Option<f64> = |run| Some(run.latency.as_ref()?.p99_ns as f64);
    let load = |workload: &Workload| workload.rate_hz.map(|rate_hz| rate_hz as f64);
    families
        .iter()
        .map(|family| {
            let mut curves = curves_along(family, load, p99, "p99", Line::Dashed);
            curves.extend(curves_along(family, load, p50, "p50", Line::Solid));
            Plot {
                slug: slug(family[0].workload, "latency-by-load"),
                title: "Latency by offered load".into(),
                note: format!("{}. Hollow marks: the rate was not reached.", names(family)),
                x: Axis::new("messages/s asked, log scale", Quantity::RateLog),
                y: Axis::new("latency, log scale", Quantity::LatencyNs),
                curves,
            }
        })
        .filter(|plot| !plot.is_empty())
        .collect()
}

/// Sections that are alike but for one thing, of which there are two values at least.
fn families<'s, 'a: 's>(
    sections: impl Iterator<Item = &'s Section<'a>>,
    kind: fn(&Workload) -> Workload,
    thing: fn(&Workload) -> f64,
) -> Vec<Vec<&'s Section<'a>>> {
    let mut families: Vec<(Workload, Vec<&Section>)> = Vec::new();
    for section in sections {
        let kind = kind(section.workload);
        match families.iter_mut().find(|(other, _)| *other == kind) {
            Some((_, family)) => family.push(section),
            None => families.push((kind, vec![section])),
        }
    }
    let varied = |family: &Vec<&Section>| {
        family.iter().any(|section| thing(section.workload) != thing(family[0].workload))
    };
    families.into_iter().map(|(_, family)| family).filter(varied).collect()
}

/// A curve for each target: medians of a figure along what the family differs in.
fn curves_along(
    family: &[&Section],
    along: impl Fn(&Workload) -> Option<f64>,
    figure: fn(&RunResult) -> Option<f64>,
    what: &str,
    line: Line,
) -> Vec<Curve> {
    let mut curves: Vec<Curve> = Vec::new();
    for section in family {
        let Some(x) = along(section.workload) else { continue };
        for group in &section.groups {
            let Some(found) = Summary::of(group.rounds.iter().filter_map(|run| figure(run))) else {
                continue;
            };
            let spread = (found.rounds > 1).then_some((found.least, found.greatest));
            let doubtful = group.rounds.iter().any(|run| !run.kept_schedule);
            let point = Point { x, y: found.median, spread, doubtful };
            match curves.iter_mut().find(|other| other.colour == group.colour) {
                Some(known) => known.points.push(point),
                None => curves.push(Curve {
                    what: what.into(),
                    line,
                    points: vec![point],
                    marked: true,
                    ..curve(group)
                }),
            }
        }
    }
    for curve in &mut curves {
        curve.points.sort_by(|one, other| one.x.total_cmp(&other.x));
    }
    curves
}

/// Without points yet.
fn curve(group: &Group) -> Curve {
    Curve { group: group.label.clone(), colour: group.colour, ..Curve::default() }
}

fn names(family: &[&Section]) -> String {
    let mut names: Vec<&str> = family.iter().map(|section| section.workload.name.as_str()).collect();
    names.dedup();
    names.join(", ")
}

/// Part of a file's name, of harmless characters.
fn slug(workload: &Workload, kind: &str) -> String {
    let harmless = |character: char| {
        if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '-' }
    };
    let name: String = workload.name.chars().take(60).map(harmless).collect();
    format!("{}-{kind}", if name.is_empty() { "run" } else { &name })
}

/// A figure with its unit, as tables have it.
pub fn written(metric: &Metric, value: f64) -> String {
    match metric.quantity {
        Quantity::Rate => format!("{}/s", thousands(value)),
        quantity => quantity.write(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::group::sections;
    use crate::page::parts::{across, parts};
    use crate::result::ResultFile;
    use crate::test_results::{file, flood, run, scaled_run, workload};

    fn plots(runs: Vec<RunResult>) -> (Vec<Plot>, Vec<Plot>) {
        let files: [(String, ResultFile); 1] = [("x".into(), file(runs))];
        let sections = sections(&files);
        (
            sections.iter().flat_map(|section| of_section(section).unwrap()).collect(),
            across(&parts(&sections)),
        )
    }

    fn slugs(plots: &[Plot]) -> Vec<&str> {
        plots.iter().map(|plot| plot.slug.as_str()).collect()
    }

    #[test]
    fn only_plots_with_data_are_made() {
        let (own, across) = plots(vec![run(workload("A b"), "fulmar", 0)]);
        assert_eq!(slugs(&own), ["a-b-percentiles", "a-b-latency-over-time", "a-b-memory-over-time"]);
        assert!(across.is_empty());
        let mut bare = run(flood("f", 64), "fulmar", 0);
        bare.intervals.clear();
        assert!(plots(vec![bare]).0.is_empty());
    }

    #[test]
    fn floods_of_several_sizes_make_a_plot_by_size() {
        let runs = [64, 1024, 16_384].map(|size| run(flood(&format!("flood-{size}"), size), "fulmar", 0));
        let (_, across) = plots(runs.to_vec());
        assert_eq!(slugs(&across), ["flood-64-throughput-by-size"]);
        let sizes: Vec<f64> = across[0].curves[0].points.iter().map(|point| point.x).collect();
        assert_eq!(sizes, [64.0, 1024.0, 16_384.0]);
    }

    #[test]
    fn several_rates_make_a_plot_to_the_knee() {
        let runs = [40_000, 10_000, 20_000].map(|rate_hz| {
            let mut run = run(Workload { rate_hz: Some(rate_hz), ..workload("sweep") }, "fulmar", 0);
            run.kept_schedule = rate_hz < 40_000;
            run
        });
        let files: [(String, ResultFile); 1] = [("x".into(), file(runs.to_vec()))];
        let sections = sections(&files);
        let parts = parts(&sections);
        assert_eq!((parts.len(), across(&parts).len()), (1, 0));
        let plots = parts[0].plots().unwrap();
        assert_eq!(slugs(&plots), ["sweep-latency-by-load"]);
        let points = &plots[0].curves[0].points;
        assert_eq!(points.iter().map(|point| point.x).collect::<Vec<_>>(), [10_000.0, 20_000.0, 40_000.0]);
        assert_eq!(points.iter().map(|point| point.doubtful).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn percentiles_of_rounds_have_a_spread_around_the_whole() {
        let runs = [1.0, 2.0, 3.0]
            .iter()
            .zip(0..)
            .map(|(&factor, round)| scaled_run(workload("a"), "x", round, factor));
        let (own, _) = plots(runs.collect());
        let points = &own[0].curves[0].points;
        assert!(points.len() > 4 * POINTS_A_NINE);
        for point in points {
            let (least, greatest) = point.spread.unwrap();
            assert!(least <= point.y && point.y <= greatest && least < greatest, "{point:?}");
        }
    }

    #[test]
    fn the_typical_round_is_the_middle_one() {
        let runs = [3.0, 1.0, 2.0]
            .iter()
            .zip(0..)
            .map(|(&factor, round)| scaled_run(workload("a"), "x", round, factor));
        let files = [("x".to_string(), file(runs.collect()))];
        assert_eq!(typical_round(&sections(&files)[0].groups[0]).round, 2);
    }
}
