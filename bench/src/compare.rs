//! `fulmar bench compare`: the same workloads against several brokers in turn.
//!
//! 1. Rounds are interleaved: A B A B, so that what else the machine does meets all alike.
//! 2. A broker runs during its own turn only, freshly started, unless told otherwise: one that idles beside another
//!    takes time and caches from it.
//! 3. What was measured is kept, also when a later run fails or somebody interrupts.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use serde_json::json;

use crate::BenchError;
use crate::ceiling;
use crate::columns::{aligned, spread};
use crate::group::{Group, Section, sections};
use crate::metric::{Metric, faults, metrics};
use crate::overrides::Overrides;
use crate::page::{self, Named};
use crate::plot::scale::digits;
use crate::plot::text::clean;
use crate::recipe::{self, Greeting, RECIPES, Recipe, Running, greeting};
use crate::result::{ResultFile, RunResult, TargetFacts};
use crate::run::run_against;
use crate::target::Target;
use crate::url::{Protocol, Url};
use crate::workload::Workload;

/// How long a broker that runs already may take to greet.
const GREETING: Duration = Duration::from_secs(10);

/// Options of `fulmar bench compare`.
#[derive(Clone, Debug, Args)]
pub struct CompareArgs {
    /// Built-in workloads (`fulmar bench list`), or files with one, TOML or JSON.
    #[arg(required = true, value_name = "WORKLOAD")]
    workloads: Vec<String>,
    /// Brokers to start in turn (fulmar, fulmar-0-10, rabbitmq, lavinmq, qpidd; over TLS fulmar-tls, fulmar-0-10-tls,
    /// rabbitmq-tls), or URLs of brokers that run already.
    #[arg(long, value_name = "BROKER", value_delimiter = ',', default_value = "fulmar,rabbitmq")]
    with: Vec<Contender>,
    /// Runs of each workload against each broker.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Write the result here.
    #[arg(long, value_name = "FILE.json")]
    out: Option<PathBuf>,
    /// Write a page with tables and plots here.
    #[arg(long, value_name = "FILE.html")]
    report: Option<PathBuf>,
    /// Start each broker once and let it run beside the others: quicker, and they disturb each other.
    #[arg(long)]
    keep_running: bool,
    /// Seconds to measure the load generator's own limit for, before each flood; 0 for not at all.
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    ceiling: f64,
    #[command(flatten)]
    overrides: Overrides,
}

/// A broker that takes part.
#[derive(Clone, Debug)]
pub enum Contender {
    /// Started for it.
    Recipe(&'static Recipe),
    /// Runs already.
    Url(Url),
}

impl FromStr for Contender {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return text.parse().map(Contender::Url);
        }
        recipe::find(text).map(Contender::Recipe).ok_or_else(|| {
            let names: Vec<&str> = RECIPES.iter().map(|recipe| recipe.name).collect();
            format!("neither one of {} nor a URL", names.join(", "))
        })
    }
}

impl Contender {
    fn is_tls(&self) -> bool {
        match self {
            Contender::Recipe(recipe) => recipe.tls,
            Contender::Url(url) => url.tls.is_some(),
        }
    }

    fn protocol(&self) -> Protocol {
        match self {
            Contender::Recipe(recipe) => recipe.protocol,
            Contender::Url(url) => url.protocol,
        }
    }
}

/// What the load generator can do at most with a workload over a protocol.
struct CeilingOf<'w> {
    protocol: Protocol,
    workload: &'w Workload,
    both_hz: f64,
}

/// A broker during its turn.
#[derive(Debug)]
struct Turn {
    url: Url,
    facts: TargetFacts,
    /// Ends with it.
    running: Option<Running>,
}

/// Runs the command. Exits with 1 if messages were lost, refused, doubled or reordered.
///
/// # Errors
/// A workload is unknown, a broker cannot be started, or a run failed.
pub fn run(args: &CompareArgs, json: bool) -> Result<ExitCode, BenchError> {
    let workloads = args.workloads()?;
    // Before anything is measured, and not hours later.
    for contender in &args.with {
        if let Contender::Recipe(recipe) = contender {
            recipe.check()?;
        }
    }
    args.warn_of_idlers();
    let ceilings = args.ceilings(&workloads)?;
    let mut result = ResultFile::new(Vec::new());
    let talks = std::io::stderr().is_terminal();
    let done = interleave(
        &Order { contenders: args.with.len(), rounds: args.rounds, keep_running: args.keep_running },
        &workloads,
        |contender| begin(&args.with[contender]),
        |turn, workload, round| {
            if talks {
                eprintln!(
                    "round {} of {}, {}: {}",
                    round + 1,
                    args.rounds,
                    turn.facts.name,
                    clean(&workload.name)
                );
            }
            let protocol = turn.url.protocol;
            let is_it =
                |ceiling: &&CeilingOf<'_>| ceiling.protocol == protocol && ceiling.workload == workload;
            let known = ceilings.iter().find(is_it).filter(|_| turn.url.tls.is_none());
            let ceiling_hz = known.map(|ceiling| ceiling.both_hz);
            Ok(RunResult { ceiling_hz, ..measured(turn, workload, round)? })
        },
        |run| {
            result.runs.push(run);
            // Each time, for whoever interrupts it.
            args.out.iter().try_for_each(|path| Ok(result.write(path)?))
        },
    );
    if !result.runs.is_empty() {
        args.tell(result.clone(), json)?;
    }
    done?;
    let sound = result.runs.iter().all(|run| faults(run) == 0);
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl CompareArgs {
    fn workloads(&self) -> Result<Vec<Workload>, BenchError> {
        let workloads: Vec<Workload> =
            self.workloads.iter().map(|name| self.overrides.workload(name)).collect::<Result<_, _>>()?;
        match workloads.iter().find(|workload| workload.client.processes > 1) {
            None => Ok(workloads),
            Some(workload) => Err(BenchError::Options(format!(
                "{}: compare runs the load generator in one process; take `fulmar bench run` for several",
                workload.name
            ))),
        }
    }

    /// What the load generator can do at most with each workload and protocol, where that bears on its figures.
    fn ceilings<'w>(&self, workloads: &'w [Workload]) -> Result<Vec<CeilingOf<'w>>, BenchError> {
        let mut ceilings: Vec<CeilingOf<'_>> = Vec::new();
        for workload in workloads.iter().filter(|workload| workload.rate_hz.is_none() && self.ceiling > 0.0) {
            // What the load generator does at most over TLS is not measured.
            for protocol in self.with.iter().filter(|one| !one.is_tls()).map(Contender::protocol) {
                let is_it = |known: &CeilingOf<'_>| known.protocol == protocol && known.workload == workload;
                if !ceilings.iter().any(is_it) {
                    let both_hz = ceiling::of_processes(protocol, workload, self.ceiling)?.both_hz;
                    ceilings.push(CeilingOf { protocol, workload, both_hz });
                }
            }
        }
        Ok(ceilings)
    }

    fn warn_of_idlers(&self) {
        let running = self.with.iter().filter(|contender| matches!(contender, Contender::Url(_))).count();
        if self.with.len() > 1 && (self.keep_running || running > 0) {
            eprintln!(
                "fulmar bench: brokers that idle beside the one that is measured take time from it; on a machine with few \
                 cores that shows in its figures"
            );
        }
    }

    /// Writes what there is, to the terminal and to the page.
    fn tell(&self, file: ResultFile, json: bool) -> Result<(), BenchError> {
        let files: Named = vec![("comparison".into(), file)];
        if let Some(path) = &self.report {
            page::write_page(&files, path)?;
        }
        for section in &sections(&files) {
            if json {
                section.groups.iter().for_each(|group| println!("{}", to_json(section, group)));
            } else {
                println!("{}", to_text(section));
            }
            for warning in page::warnings(section, page::Misses::Surprise) {
                eprintln!("fulmar bench: {}", clean(&warning.to_string()));
            }
        }
        for path in self.out.iter().chain(&self.report) {
            eprintln!("fulmar bench: {}", path.display());
        }
        Ok(())
    }
}

fn begin(contender: &Contender) -> Result<Turn, BenchError> {
    match contender {
        Contender::Recipe(recipe) => {
            let running = Running::start(recipe)?;
            let options = running.options.clone();
            let facts = facts(recipe.name.to_string(), &running.greeting, &running.url, options);
            Ok(Turn { url: running.url.clone(), facts, running: Some(running) })
        }
        Contender::Url(url) => {
            let greeting = match url.tls {
                None => greeting(url.protocol, url.address()?, GREETING)?,
                Some(_) => Greeting::default(),
            };
            let product = greeting.product.as_deref().unwrap_or(&url.host).to_lowercase();
            Ok(Turn {
                facts: facts(product, &greeting, url, url.to_string()),
                url: url.clone(),
                running: None,
            })
        }
    }
}

fn facts(name: String, greeting: &Greeting, url: &Url, options: String) -> TargetFacts {
    let idle = options.split(' ').skip_while(|word| *word != "--idle").nth(1).map(str::to_string);
    let facts = Target::Broker(url.clone()).facts();
    TargetFacts { name, version: greeting.version.clone(), options, idle, ..facts }
}

fn measured(turn: &Turn, workload: &Workload, round: u32) -> Result<RunResult, BenchError> {
    let pid = turn.running.as_ref().map(Running::pid);
    run_against(&Target::Broker(turn.url.clone()), turn.facts.clone(), workload, pid, round)
}

/// In which order things are run.
struct Order {
    contenders: usize,
    rounds: u32,
    keep_running: bool,
}

/// Runs every workload in rounds, in each round against every contender, and hands each result to `keep`.
fn interleave<Turn, E>(
    order: &Order,
    workloads: &[Workload],
    mut begin: impl FnMut(usize) -> Result<Turn, E>,
    mut measure: impl FnMut(&Turn, &Workload, u32) -> Result<RunResult, E>,
    mut keep: impl FnMut(RunResult) -> Result<(), E>,
) -> Result<(), E> {
    let mut kept: Vec<Option<Turn>> = (0..order.contenders).map(|_| None).collect();
    for workload in workloads {
        for round in 0..order.rounds {
            for (contender, kept) in kept.iter_mut().enumerate() {
                let turn = match kept.take() {
                    Some(turn) => turn,
                    None => begin(contender)?,
                };
                keep(measure(&turn, workload, round)?)?;
                if order.keep_running {
                    *kept = Some(turn);
                }
            }
        }
    }
    Ok(())
}

/// A table: a row for each figure, a column for each broker, ratios to the first.
fn to_text(section: &Section) -> String {
    let groups = &section.groups;
    let mut rows = vec![header(groups)];
    for metric in metrics(section.workload) {
        if groups.iter().any(|group| group.summary(metric).is_some()) {
            rows.push(row(metric, groups));
        }
    }
    let mut row = vec!["messages at fault".to_string()];
    row.extend(
        groups.iter().map(|group| group.rounds.iter().map(|run| faults(run)).sum::<u64>().to_string()),
    );
    rows.push(row);
    format!("{}\n{}\n{}", clean(&section.workload.name), page::summary(section.workload), aligned(&rows))
}

fn header(groups: &[Group]) -> Vec<String> {
    let rounds = groups.iter().map(|group| group.rounds.len()).max().unwrap_or(0);
    let first = if rounds > 1 { format!("median of {rounds} [least, most]") } else { "one round".into() };
    let labels = groups.iter().map(|group| clean(&group.label));
    let ratios = groups.iter().skip(1).map(|group| clean(&format!("{} / {}", group.label, groups[0].label)));
    std::iter::once(first).chain(labels).chain(ratios).collect()
}

fn row(metric: &Metric, groups: &[Group]) -> Vec<String> {
    let cell = |group: &Group| group.summary(metric).map_or("–".into(), |found| spread(metric, found));
    let ratio = |group: &Group| {
        ratio(metric, group, &groups[0]).map_or(String::new(), |ratio| format!("× {}", digits(ratio)))
    };
    let cells = groups.iter().map(cell);
    std::iter::once(metric.name.to_string()).chain(cells).chain(groups.iter().skip(1).map(ratio)).collect()
}

fn ratio(metric: &Metric, group: &Group, first: &Group) -> Option<f64> {
    let (own, first) = (group.summary(metric)?.median, first.summary(metric)?.median);
    (first > 0.0).then(|| own / first)
}

/// One object with all figures of a broker.
fn to_json(section: &Section, group: &Group) -> serde_json::Value {
    let figures: serde_json::Map<String, serde_json::Value> = metrics(section.workload)
        .filter_map(|metric| {
            let found = group.summary(metric)?;
            let figure = json!({
                "median": found.median, "least": found.least, "greatest": found.greatest, "unit": metric.unit(),
                "to_first": ratio(metric, group, &section.groups[0]),
            });
            Some((metric.name.to_string(), figure))
        })
        .collect();
    json!({
        "workload": section.workload.name,
        "target": group.label,
        "version": group.rounds[0].target.version,
        "rounds": group.rounds.len(),
        "faults": group.rounds.iter().map(|run| faults(run)).sum::<u64>(),
        "figures": figures,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;
    use crate::test_results::{file, scaled_run, workload};

    /// Runs against two fakes; what happened, in order, and how many ran at the same time at most.
    fn story(keep_running: bool) -> (Vec<String>, usize, Vec<RunResult>) {
        struct Fake<'a>(&'static str, &'a RefCell<Vec<String>>, &'a Cell<usize>);
        impl Drop for Fake<'_> {
            fn drop(&mut self) {
                self.1.borrow_mut().push(format!("stop {}", self.0));
                self.2.set(self.2.get() - 1);
            }
        }
        let (events, running, most) = (RefCell::new(Vec::new()), Cell::new(0), Cell::new(0));
        let order = Order { contenders: 2, rounds: 2, keep_running };
        let mut runs = Vec::new();
        let begin = |contender: usize| {
            let name = ["A", "B"][contender];
            events.borrow_mut().push(format!("start {name}"));
            running.set(running.get() + 1);
            most.set(most.get().max(running.get()));
            Ok::<_, ()>(Fake(name, &events, &running))
        };
        let measure = |fake: &Fake, workload: &Workload, round| {
            events.borrow_mut().push(format!("{} {} {round}", workload.name, fake.0));
            Ok(scaled_run(workload.clone(), fake.0, round, 1.0))
        };
        let mut keep = |run| {
            runs.push(run);
            Ok(())
        };
        interleave(&order, &[workload("x"), workload("y")], begin, measure, &mut keep).unwrap();
        (events.take(), most.get(), runs)
    }

    #[test]
    fn rounds_are_interleaved_and_each_broker_runs_alone() {
        let (events, most, runs) = story(false);
        let measured: Vec<&String> = events.iter().filter(|event| !event.starts_with("st")).collect();
        assert_eq!(measured, ["x A 0", "x B 0", "x A 1", "x B 1", "y A 0", "y B 0", "y A 1", "y B 1"]);
        assert_eq!(events[..4], ["start A", "x A 0", "stop A", "start B"]);
        assert_eq!((most, runs.len()), (1, 8));
    }

    #[test]
    fn kept_brokers_are_started_once() {
        let (events, most, runs) = story(true);
        assert_eq!(events.iter().filter(|event| event.starts_with("start")).count(), 2);
        assert_eq!(events[events.len() - 2..], ["stop A", "stop B"]);
        assert_eq!((most, runs.len()), (2, 8));
    }

    #[test]
    fn what_was_measured_before_an_error_is_kept() {
        let order = Order { contenders: 2, rounds: 3, keep_running: false };
        let mut runs = Vec::new();
        let measure = |contender: &usize, workload: &Workload, round| match (contender, round) {
            (1, 1) => Err("broke"),
            _ => Ok(scaled_run(workload.clone(), "a", round, 1.0)),
        };
        let mut keep = |run| {
            runs.push(run);
            Ok(())
        };
        assert_eq!(interleave(&order, &[workload("x")], Ok, measure, &mut keep), Err("broke"));
        assert_eq!(runs.len(), 3);
    }

    #[test]
    fn the_table_has_medians_spreads_and_ratios() {
        let rounds = [("fulmar", 1.0), ("rabbitmq", 4.0)].into_iter().flat_map(|(name, factor)| {
            (0..3).map(move |round| {
                scaled_run(workload("w"), name, round, factor * (1.0 + 0.1 * f64::from(round)))
            })
        });
        let files = [("x".to_string(), file(rounds.collect()))];
        let sections = sections(&files);
        let text = to_text(&sections[0]);
        let p99 = text.lines().find(|line| line.trim_start().starts_with("p99 ")).unwrap();
        assert!(p99.contains("µs [") && p99.contains("× 3.9"), "{text}");
        assert!(text.contains("median of 3") && text.contains("rabbitmq / fulmar"), "{text}");
        let json = to_json(&sections[0], &sections[0].groups[1]);
        assert_eq!((&json["target"], &json["rounds"]), (&"rabbitmq".into(), &3.into()));
        assert_eq!(json["figures"]["p99"]["unit"], "ns");
        assert!((json["figures"]["p50"]["to_first"].as_f64().unwrap() - 4.0).abs() < 0.2);
    }

    #[test]
    fn how_a_broker_waits_is_recorded_where_its_options_tell() {
        let idle =
            |options: &str| facts("x".into(), &Greeting::default(), &Url::default(), options.into()).idle;
        assert_eq!(idle("serve --idle adaptive --x"), Some("adaptive".into()));
        assert_eq!(idle("serve"), None);
    }

    #[test]
    fn contenders_are_recipes_or_urls() {
        assert!(matches!("fulmar".parse(), Ok(Contender::Recipe(Recipe { name: "fulmar", .. }))));
        assert!(matches!("amqp://127.0.0.1:1/".parse(), Ok(Contender::Url(Url { port: 1, .. }))));
        let error = "kafka".parse::<Contender>().unwrap_err();
        assert!(error.contains("rabbitmq, lavinmq"), "{error}");
    }
}
