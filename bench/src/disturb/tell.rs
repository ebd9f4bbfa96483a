//! The turns side by side, on the terminal or for programs.

use serde_json::json;

use super::Turn;
use super::leg::Leg;
use crate::columns::aligned;

/// A figure of a turn.
struct Figure {
    name: &'static str,
    unit: &'static str,
    decimals: usize,
    of: fn(&Leg) -> Option<f64>,
    /// Whether turns are to be compared by it.
    is_compared: bool,
}

const fn figure(name: &'static str, unit: &'static str, of: fn(&Leg) -> Option<f64>) -> Figure {
    Figure { name, unit, decimals: 1, of, is_compared: true }
}

const fn count(name: &'static str, unit: &'static str, of: fn(&Leg) -> Option<f64>) -> Figure {
    Figure { name, unit, decimals: 0, of, is_compared: false }
}

const FIGURES: &[Figure] = &[
    figure("p50", "µs", |leg| Some(leg.p50_us)),
    figure("p99", "µs", |leg| Some(leg.p99_us)),
    figure("p99.9", "µs", |leg| Some(leg.p999_us)),
    figure("login p50", "ms", |leg| at_ms(leg, 50.0)),
    figure("login max", "ms", |leg| at_ms(leg, 100.0)),
    count("logins that failed", "", |leg| Some(leg.logins.failed as f64)),
    figure("memory, most", "MB", |leg| Some(leg.memory_bytes as f64 / 1e6)),
    count("CPU of TLS and logins", "%", |leg| Some(leg.cores.0)),
    count("CPU of the rest", "%", |leg| Some(leg.cores.1)),
    count("nuisance: connections", "/s", |leg| {
        leg.nuisance.as_ref().map(|tally| tally.opened as f64 / tally.seconds)
    }),
    count("nuisance: ended", "/s", |leg| {
        leg.nuisance.as_ref().map(|tally| tally.ended as f64 / tally.seconds)
    }),
    count("nuisance: refused", "/s", |leg| {
        leg.nuisance.as_ref().map(|tally| tally.refused as f64 / tally.seconds)
    }),
    count("nuisance: most at a time", "", |leg| leg.nuisance.as_ref().map(|tally| tally.most as f64)),
    count("nuisance: p50 until its end", "ms", |leg| ended_ms(leg, 50.0)),
    count("nuisance: p99 until its end", "ms", |leg| ended_ms(leg, 99.0)),
];

fn at_ms(leg: &Leg, percentile: f64) -> Option<f64> {
    (leg.logins.took.count() > 0).then(|| leg.logins.took.at_ns(percentile) as f64 / 1e6)
}

fn ended_ms(leg: &Leg, percentile: f64) -> Option<f64> {
    let tally = leg.nuisance.as_ref().filter(|tally| tally.took.count() > 0)?;
    Some(tally.took.at_ns(percentile) as f64 / 1e6)
}

/// Writes medians over the rounds to standard output, with ratios of the last turn to those before it.
pub(super) fn print(title: &str, turns: &[Turn<'_>], json: bool) {
    if json {
        println!("{}", to_json(title, turns));
    } else {
        println!("{title}\n{}", aligned(&rows(turns)));
    }
    let missed = |turn: &&Turn<'_>| turn.legs.iter().any(|leg| !leg.kept_schedule);
    for turn in turns.iter().filter(missed) {
        eprintln!("fulmar bench: {}: the schedule could not be kept in every round", turn.name);
    }
}

fn rows(turns: &[Turn<'_>]) -> Vec<Vec<String>> {
    let (last, before) = turns.split_last().expect("there are turns");
    let rounds = last.legs.len();
    let mut head = vec![format!("median of {rounds}")];
    head.extend(turns.iter().map(|turn| turn.name.to_string()));
    head.extend(before.iter().map(|turn| format!("to {}", turn.name)));
    let mut rows = vec![head];
    for figure in FIGURES {
        let found: Vec<Option<f64>> = turns.iter().map(|turn| turn.median(figure.of)).collect();
        if found.iter().all(Option::is_none) {
            continue;
        }
        let mut row = vec![figure.name.to_string()];
        let decimals = figure.decimals;
        row.extend(found.iter().map(|value| {
            value
                .map_or("–".into(), |value| format!("{value:.decimals$} {}", figure.unit).trim_end().into())
        }));
        let (own, bases) = found.split_last().expect("there are turns");
        row.extend(bases.iter().map(|base| match (figure.is_compared, own, base) {
            (true, Some(own), Some(base)) if *base > 0.0 => format!("× {:.2}", own / base),
            _ => String::new(),
        }));
        rows.push(row);
    }
    rows
}

fn to_json(title: &str, turns: &[Turn<'_>]) -> serde_json::Value {
    let turn = |turn: &Turn<'_>| {
        let figures: serde_json::Map<_, _> = FIGURES
            .iter()
            .filter_map(|figure| {
                let rounds: Vec<f64> = turn.legs.iter().filter_map(figure.of).collect();
                let median = turn.median(figure.of)?;
                Some((figure.name.into(), json!({ "median": median, "unit": figure.unit, "rounds": rounds })))
            })
            .collect();
        json!({ "turn": turn.name, "figures": figures })
    };
    json!({ "title": title, "turns": turns.iter().map(turn).collect::<Vec<_>>() })
}
