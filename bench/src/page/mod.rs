//! `fulmar bench report`: results as one page, and their plots as files.
//!
//! 1. The page needs nothing but itself: no network, no script. It follows the reader's choice of light or dark.
//! 2. What comes out of a result is text, whatever it holds; it never becomes markup.
//! 3. It shows what the result has, and nothing for what it lacks.

mod figures;
mod parts;
mod tables;
mod warnings;

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use maud::{DOCTYPE, Markup, PreEscaped, html};

use self::parts::{Part, across, parts};
use crate::BenchError;
use crate::group::{Section, sections};
use crate::plot::text::clean;
use crate::plot::{self, Plot};
use crate::result::{ResultError, ResultFile};
use crate::workload::{ExchangeKind, Pattern, Workload};

pub use figures::written;
pub use warnings::{Misses, Warning, is_noisy, warnings};

const STYLE: &str = include_str!("page.css");

/// Options of `fulmar bench report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// Results to show together.
    #[arg(required = true, value_name = "FILE.json")]
    files: Vec<PathBuf>,
    /// Where the page goes.
    #[arg(long, value_name = "FILE.html", default_value = "report.html")]
    out: PathBuf,
    /// Also write the plots as SVG files into this directory.
    #[arg(long, value_name = "DIR")]
    svg: Option<PathBuf>,
}

/// Results with the names by which to tell them apart.
pub type Named = Vec<(String, ResultFile)>;

/// Runs the command.
///
/// # Errors
/// A result cannot be read, or the page cannot be written.
pub fn run(args: &ReportArgs) -> Result<ExitCode, BenchError> {
    let files = read(&args.files)?;
    write_page(&files, &args.out)?;
    eprintln!("fulmar bench: {}", args.out.display());
    if let Some(directory) = &args.svg {
        for path in write_plots(&files, directory)? {
            eprintln!("fulmar bench: {}", path.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Reads results. Each is called by its file's name, and by its path where two have the same.
///
/// # Errors
/// One of them is none.
pub fn read(paths: &[PathBuf]) -> Result<Named, ResultError> {
    let stem = |path: &Path| path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let name = |path: &PathBuf| {
        let unique = paths.iter().filter(|other| stem(other) == stem(path)).count() == 1;
        if unique { stem(path) } else { path.display().to_string() }
    };
    paths.iter().map(|path| Ok((name(path), ResultFile::read(path)?))).collect()
}

/// Writes the page of some results.
///
/// # Errors
/// A histogram cannot be read, or the file cannot be written.
pub fn write_page(files: &Named, path: &Path) -> Result<(), BenchError> {
    std::fs::write(path, page(files)?).map_err(|error| named(path, &error).into())
}

/// Writes each plot of some results; returns the files.
///
/// # Errors
/// As above.
fn write_plots(files: &Named, directory: &Path) -> Result<Vec<PathBuf>, BenchError> {
    std::fs::create_dir_all(directory).map_err(|error| named(directory, &error))?;
    let sections = sections(files);
    let parts = parts(&sections);
    let mut plots = across(&parts);
    for part in &parts {
        plots.extend(part.plots()?);
    }
    let mut taken: HashMap<&str, u32> = HashMap::new();
    let mut written = Vec::new();
    for plot in &plots {
        let times = taken.entry(&plot.slug).and_modify(|times| *times += 1).or_insert(1);
        let name =
            if *times == 1 { format!("{}.svg", plot.slug) } else { format!("{}-{times}.svg", plot.slug) };
        let path = directory.join(name);
        if let Some(svg) = plot.file() {
            std::fs::write(&path, svg).map_err(|error| named(&path, &error))?;
            written.push(path);
        }
    }
    Ok(written)
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// The page of some results.
///
/// # Errors
/// A histogram cannot be read.
pub fn page(files: &Named) -> Result<String, BenchError> {
    let sections = sections(files);
    let parts = parts(&sections);
    let across = across(&parts);
    let warned: Vec<Warning> = parts.iter().flat_map(Part::warnings).collect();
    let mut bodies = Vec::new();
    for (number, part) in parts.iter().enumerate() {
        bodies.push(part_markup(number, &part.title(&parts), part, &part.plots()?));
    }
    let runs: usize = files.iter().map(|(_, file)| file.runs.len()).sum();
    let targets = targets(&sections);
    let heading = if targets.is_empty() { "No runs".to_string() } else { clean(&targets.join(", ")) };
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="generator" content=(concat!("fulmar bench ", env!("CARGO_PKG_VERSION")));
                title { "Measured: " (heading) }
                style { (PreEscaped(STYLE)) (PreEscaped(plot::STYLE)) }
            }
            body { main {
                header {
                    p.soft { "fulmar bench " (env!("CARGO_PKG_VERSION")) }
                    h1 { (heading) }
                    p.soft {
                        (count(parts.len(), "workload")) ", " (count(runs, "run"))
                        @if let Some(first) = files.iter().flat_map(|(_, file)| &file.runs).map(|run| &run.started_at).min() {
                            ", from " (clean(first))
                        }
                    }
                    (contents(&parts))
                }
                (warnings_markup(&warned))
                @if !across.is_empty() {
                    section { h2 { "Across workloads" } (plots_markup(&across)) }
                }
                @for (_, file) in files { (tables::found(file)) }
                @for body in &bodies { (body) }
                section { h2 { "Host" } @for (name, file) in files { (tables::host(files.len() > 1, name, file)) } }
                section {
                    h2 { "How to read this" }
                    (explanation())
                }
            } }
        }
    };
    Ok(page.into_string())
}

fn count(many: usize, what: &str) -> String {
    format!("{many} {what}{}", if many == 1 { "" } else { "s" })
}

fn targets(sections: &[Section]) -> Vec<String> {
    let mut targets: Vec<(usize, &str)> = Vec::new();
    for group in sections.iter().flat_map(|section| &section.groups) {
        if !targets.iter().any(|(colour, _)| *colour == group.colour) {
            targets.push((group.colour, &group.label));
        }
    }
    targets.into_iter().map(|(_, label)| label.to_string()).collect()
}

fn contents(parts: &[Part]) -> Markup {
    html! {
        @if parts.len() > 1 {
            nav { ul {
                @for (number, part) in parts.iter().enumerate() {
                    li { a href=(format!("#w{number}")) { (part.title(parts)) } }
                }
            } }
        }
    }
}

fn part_markup(number: usize, title: &str, part: &Part, plots: &[Plot]) -> Markup {
    let description = clean(&part.workload().description);
    html! {
        section id=(format!("w{number}")) {
            h2 { (title) }
            @if !description.is_empty() { p { (description) } }
            @match part {
                Part::Workload(section) => {
                    p.soft { (summary(section.workload)) }
                    (tables::figures(section))
                    (plots_markup(plots))
                    (tables::runs(std::slice::from_ref(section)))
                }
                Part::Sweep(steps) => {
                    p.soft { "Lowest step: " (summary(steps[0].workload)) }
                    (plots_markup(plots))
                    (tables::steps(steps))
                    (tables::runs(steps))
                }
            }
        }
    }
}

/// By kind, so that what they mean is said once.
fn warnings_markup(warned: &[Warning]) -> Markup {
    let mut meanings: Vec<&str> = warned.iter().map(|warning| warning.meaning).collect();
    meanings.sort_by_key(|meaning| warned.iter().position(|warning| warning.meaning == *meaning));
    meanings.dedup();
    html! {
        @if !warned.is_empty() {
            section.warnings {
                h2 { "Before you believe it" }
                @for meaning in meanings {
                    p { (meaning) }
                    ul {
                        @for warning in warned.iter().filter(|warning| warning.meaning == meaning) {
                            li { (clean(&warning.found)) }
                        }
                    }
                }
            }
        }
    }
}

fn plots_markup(plots: &[Plot]) -> Markup {
    html! {
        @if !plots.is_empty() {
            div.plots { @for plot in plots { @if let Some(svg) = plot.inline() { figure {
                (svg)
                @if !plot.note.is_empty() { figcaption { (clean(&plot.note)) } }
            } } } }
        }
    }
}

/// What is asked for, in one line.
pub fn summary(workload: &Workload) -> String {
    let mut parts = vec![
        match workload.pattern {
            Pattern::Stream => "stream",
            Pattern::RequestReply => "request and reply",
            Pattern::BacklogDrain => "backlog, then drain",
        }
        .to_string(),
    ];
    parts.push(workload.size.to_string());
    parts.push(workload.rate_hz.map_or("as fast as it goes".into(), |rate_hz| {
        format!("{} messages/s", plot::scale::thousands(rate_hz as f64))
    }));
    parts.push(format!(
        "{}, {}, {}",
        count(workload.publishers as usize, "publisher"),
        count(workload.queues as usize, "queue"),
        count(workload.consumers as usize, "consumer")
    ));
    if workload.exchange.kind != ExchangeKind::Default {
        let kind = format!("{:?}", workload.exchange.kind).to_lowercase();
        parts.push(format!(
            "{kind} exchange with {}",
            count(workload.exchange.bindings as usize, "binding") + " a queue"
        ));
    }
    parts.push(if workload.persistent { "persistent".into() } else { "transient".into() });
    parts.push(
        workload.confirm_window.map_or("no confirms".into(), |window| format!("confirms, window {window}")),
    );
    parts.push(match workload.ack.batch() {
        None => "no acknowledgements".into(),
        Some(1) => "acknowledged one by one".into(),
        Some(many) => format!("acknowledged {many} at a time"),
    });
    if workload.prefetch > 0 {
        parts.push(format!("prefetch {}", workload.prefetch));
    }
    if let Some(slow) = workload.slow {
        parts.push(format!(
            "{} that take {}/s",
            count(slow.consumers as usize, "slow consumer"),
            slow.rate_hz
        ));
    }
    if workload.idle_connections > 0 {
        parts.push(count(workload.idle_connections as usize, "idle connection"));
    }
    parts.push(format!("{} s after {} s", workload.seconds, workload.warmup_s));
    parts.join("; ")
}

fn explanation() -> Markup {
    html! {
        p {
            "Latency counts from when a message should have left by its schedule to when it was received, so that a stall "
            "shows in every message that it held up. “p99 from sending” is what a generator that waits for the broker "
            "would have said."
        }
        p {
            "With several rounds, tables have the median with the least and the greatest below. Percentile curves are of "
            "all rounds together, and their band reaches from the best round to the worst. Curves over time are of the "
            "round in the middle by p99. Ratios are of medians."
        }
        p { "Figures of one host compare with each other, not with those of another." }
    }
}

#[cfg(test)]
mod tests;
