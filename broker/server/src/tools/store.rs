//! `fulmar store`: looks into the journals of a data directory that no broker uses, and repairs them.

use std::io::{self, BufWriter, IsTerminal, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use fulmar_journal::check::{LogReport, Report, check};
use fulmar_journal::disk::SystemDisk;
use fulmar_journal::dump::{DumpError, DumpOptions, dump};
use fulmar_journal::encodings::Encodings;
use fulmar_journal::header::StoreId;
use fulmar_journal::recovery::{Options, RecoveryError, Shown};
use fulmar_journal::repair::{How, Repaired, repair};
use fulmar_journal::{DataDirectory, DirectoryError};
use indicatif::{ProgressBar, ProgressStyle};

use crate::store::encodings;

const EXIT_CODES: &str = "Exit codes: 0 all is well, or was repaired; 1 something else failed; 2 wrong usage; 3 a broker \
    uses the directory; 4 something is damaged";

/// Look into a data directory that no broker uses, and repair it
#[derive(Debug, Args)]
#[command(after_help = EXIT_CODES)]
pub struct StoreArgs {
    /// Directory of the broker's state [default: $XDG_STATE_HOME/fulmar or ~/.local/state/fulmar]
    #[arg(long, value_name = "DIRECTORY", env = "FULMAR_DATA_DIR", global = true)]
    data_dir: Option<PathBuf>,
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Read everything and say what is damaged; changes nothing
    #[command(after_help = EXIT_CODES)]
    Check {
        /// One object of JSON instead of lines
        #[arg(long)]
        json: bool,
    },
    /// Print every record as a line of JSON
    #[command(after_help = EXIT_CODES)]
    Dump {
        /// Of this shard alone
        #[arg(long, value_name = "NUMBER")]
        shard: Option<u16>,
        /// Of the segment with this number alone: hexadecimal, as in the names of the files
        #[arg(long, value_name = "NUMBER", value_parser = parse_segment)]
        segment: Option<u64>,
        /// Properties and bodies too
        #[arg(long)]
        bodies: bool,
    },
    /// Leave out what is damaged; files are kept as they were in journal/repaired-NUMBER
    #[command(after_help = EXIT_CODES)]
    Repair {
        #[command(flatten)]
        how: HowArgs,
    },
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct HowArgs {
    /// Leave out damaged records alone: later ones stay, also those that say that lost messages are gone
    #[arg(long)]
    skip: bool,
    /// End each log at its first damaged record, as if the broker had been stopped then
    #[arg(long)]
    cut_off: bool,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum StoreError {
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    #[error("{0} is no data directory: there is no journal in it")]
    NoJournal(PathBuf),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

impl StoreError {
    fn exit_code(&self) -> u8 {
        match self {
            StoreError::Directory(DirectoryError::InUse { .. }) => 3,
            StoreError::Recovery(RecoveryError::Damaged(_)) => 4,
            _ => 1,
        }
    }
}

impl From<DumpError> for StoreError {
    fn from(error: DumpError) -> Self {
        match error {
            DumpError::Read(error) => error.into(),
            DumpError::Write(error) => error.into(),
        }
    }
}

/// Runs the command.
pub fn run(args: StoreArgs) -> ExitCode {
    let path = args.data_dir.unwrap_or_else(fulmar_policy::default_state_dir);
    match in_directory(path, |directory| execute(directory, &args.command)) {
        Ok(code) => code,
        // Whoever read the output has enough of it.
        Err(StoreError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fulmar store: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Holds the directory's lock meanwhile; what it says of the broker before stays.
fn in_directory(
    path: PathBuf,
    work: impl FnOnce(&DataDirectory) -> Result<ExitCode, StoreError>,
) -> Result<ExitCode, StoreError> {
    if !path.join("journal").is_dir() {
        return Err(StoreError::NoJournal(path));
    }
    let directory = DataDirectory::open(&path)?;
    let result = work(&directory);
    if directory.was_left_in_order() {
        directory.leave_in_order();
    }
    result
}

fn execute(directory: &DataDirectory, command: &StoreCommand) -> Result<ExitCode, StoreError> {
    let (journal, encodings) = (directory.journal(), encodings());
    match command {
        StoreCommand::Check { json } => {
            let report = with_progress(&journal, &encodings, |options| check(&SystemDisk, options))?;
            let text = if *json { as_json(&report) } else { as_lines(&report) };
            io::stdout().write_all(text.as_bytes())?;
            Ok(if report.is_sound() { ExitCode::SUCCESS } else { ExitCode::from(4) })
        }
        StoreCommand::Dump { shard, segment, bodies } => {
            let (shard, segment, bodies) = (*shard, *segment, *bodies);
            let options = DumpOptions { journal: &journal, shard, segment, bodies, encodings: &encodings };
            let mut out = BufWriter::new(io::stdout().lock());
            dump(&SystemDisk, &options, &mut out)?;
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        }
        StoreCommand::Repair { how } => {
            let how = if how.skip { How::Skip } else { How::CutOff };
            let repaired = with_progress(&journal, &encodings, |options| repair(&SystemDisk, options, how))?;
            io::stdout().write_all(of_repair(&repaired).as_bytes())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Reads journals with a bar on the terminal.
fn with_progress<R>(
    journal: &std::path::Path,
    encodings: &Encodings,
    work: impl FnOnce(&Options<'_>) -> Result<R, RecoveryError>,
) -> Result<R, RecoveryError> {
    let bar = if io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    let style = "reading {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
    bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
    let show = |shown: &Shown| {
        bar.set_length(shown.total_bytes);
        bar.set_position(shown.done_bytes);
        bar.set_message(format!("{} messages", shown.messages));
    };
    let result = work(&Options {
        journal,
        // As many as the directory has.
        shards: u16::MAX,
        encodings,
        new_store: StoreId::default(),
        threads: std::thread::available_parallelism().map_or(2, |cores| cores.get().max(2)),
        segment_bytes: u64::MAX,
        progress: &show,
    });
    bar.finish_and_clear();
    result
}

fn as_lines(report: &Report) -> String {
    let identity = &report.identity;
    let mut text =
        format!("store {}, {} shards, last run {}\n", identity.store, identity.shards, identity.run);
    for log in &report.logs {
        let LogReport { shard, segments, unused, bytes, messages, transactions, .. } = log;
        text += &format!(
            "shard {shard}: {messages} messages, {transactions} transactions not over, {segments} segments, \
             {bytes} bytes, {unused} files to be used again\n"
        );
        for torn in &log.torn {
            text += &format!(
                "{}: the last write was not completed: the log ends at byte {} ({}); this is no damage\n",
                torn.path.display(),
                torn.from,
                torn.why
            );
        }
        for damage in &log.damage {
            text += &format!("{damage}\n");
        }
    }
    if let Some(reason) = &report.topology {
        text += &format!("{reason}\n");
    }
    text += match report.is_sound() {
        true => "all is well\n",
        false => {
            "damaged: a broker does not start with it. `fulmar store repair --skip` leaves out damaged records alone, \
             --cut-off all behind the first one of a log too; both keep copies\n"
        }
    };
    text
}

fn as_json(report: &Report) -> String {
    let logs = report.logs.iter().map(|log| {
        let torn = log.torn.iter().map(|torn| {
            serde_json::json!({ "file": torn.path, "offset": torn.from, "reason": torn.why.to_string() })
        });
        serde_json::json!({
            "shard": log.shard, "segments": log.segments, "unused": log.unused, "bytes": log.bytes,
            "messages": log.messages, "transactions": log.transactions,
            "damage": log.damage.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "torn": torn.collect::<Vec<_>>(),
        })
    });
    let identity = &report.identity;
    let value = serde_json::json!({
        "store": identity.store.to_string(), "shards": identity.shards, "run": identity.run,
        "sound": report.is_sound(), "topology": report.topology, "logs": logs.collect::<Vec<_>>(),
    });
    format!("{value}\n")
}

fn of_repair(repaired: &Repaired) -> String {
    let Some(kept) = &repaired.kept else { return "nothing is damaged, nothing was changed\n".to_string() };
    let mut text = String::new();
    for damage in &repaired.damage {
        text += &format!("left out: {damage}\n");
    }
    if repaired.segments_cut + repaired.records_cut > 0 {
        text += &format!(
            "cut off behind: {} records in the same segments, {} whole segments\n",
            repaired.records_cut, repaired.segments_cut
        );
    }
    text + &format!("all files that were changed are as they were before in {}\n", kept.display())
}

/// A segment's number as in the name of its file.
fn parse_segment(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(".log");
    u64::from_str_radix(digits, 16).map_err(|_| format!("{text:?} is not the number of a segment"))
}
