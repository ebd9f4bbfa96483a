//! Recovery as the program does it: on the system's disk, with its progress on the terminal or in the log, and a line that
//! sums up.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use fulmar_core::journal::FoundTransactions;
use fulmar_journal::disk::SystemDisk;
use fulmar_journal::header::StoreId;
use fulmar_journal::recovery::{RecoveryError, Shown};
use fulmar_journal::{DataDirectory, LogOptions};
use indicatif::{ProgressBar, ProgressStyle};

use super::random_seed;
use crate::settings::Settings;
use crate::store::{Options, Store, Summary, recover};

/// Time between two lines of the log that say how far it has come.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What can be chosen of the log of one of so many shards.
pub fn log_options(settings: &Settings, shards: usize) -> LogOptions {
    let each = |bytes: u64| bytes / shards as u64;
    LogOptions {
        segment_bytes: settings.journal_segment_bytes,
        buffer_bytes: each(settings.journal_buffer_bytes) as usize,
        max_bytes: (settings.journal_max_bytes > 0).then(|| each(settings.journal_max_bytes)),
        durability: settings.durability,
        ..LogOptions::default()
    }
}

/// Recovers what is in a directory, and says so.
pub fn recover_directory(directory: &DataDirectory, settings: &Settings) -> Result<Store, RecoveryError> {
    let shards = settings.shard_count();
    let journal = directory.journal();
    if !directory.was_left_in_order() {
        log::info!("the broker before was not stopped in order");
    }
    let began = Instant::now();
    let display = Display::new(began);
    let options = Options {
        journal: &journal,
        shards: shards as u16,
        threads: std::thread::available_parallelism().map_or(1, |cores| cores.get()),
        new_store: StoreId((u128::from(random_seed()) << 64 | u128::from(random_seed())).to_be_bytes()),
        log: log_options(settings, shards),
        progress: &|shown| display.show(shown),
    };
    let recovered = recover(&SystemDisk, &options);
    display.bar.finish_and_clear();
    let store = recovered?;
    sum_up(&store.summary, began.elapsed());
    Ok(store)
}

/// Where progress is shown: a bar where there is a terminal, else a line now and then.
struct Display {
    bar: ProgressBar,
    is_terminal: bool,
    last_line: Mutex<Instant>,
}

impl Display {
    fn new(began: Instant) -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let bar = if is_terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        let style = "recovering {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
        bar.set_style(ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()));
        Display { bar, is_terminal, last_line: Mutex::new(began) }
    }

    fn show(&self, shown: &Shown) {
        let Shown { done_bytes, total_bytes, messages } = *shown;
        if self.is_terminal {
            self.bar.set_length(total_bytes);
            self.bar.set_position(done_bytes);
            self.bar.set_message(format!("{messages} messages"));
            return;
        }
        // Whoever finds it taken has nothing newer to say.
        let Ok(mut last_line) = self.last_line.try_lock() else { return };
        if last_line.elapsed() >= LINE_EVERY {
            *last_line = Instant::now();
            let percent = done_bytes * 100 / total_bytes.max(1);
            log::info!(
                "recovering: {percent}% of {} read, {messages} messages found",
                mebibytes(total_bytes)
            );
        }
    }
}

fn sum_up(summary: &Summary, took: Duration) {
    for torn in &summary.torn {
        log::info!(
            "{}: something half written from byte {} on is left out; it was not confirmed",
            torn.path.display(),
            torn.from
        );
    }
    let totals = &summary.totals;
    log::info!(
        "recovered: {} messages ({}) in {} queues, from {} segments ({}), in {:.2} s; run {}",
        totals.messages,
        mebibytes(totals.message_bytes),
        totals.queues,
        totals.segments,
        mebibytes(totals.bytes),
        took.as_secs_f64(),
        summary.run
    );
    let FoundTransactions { committed, undone, in_doubt } = summary.transactions;
    if committed + undone + in_doubt > 0 {
        log::info!("transactions: {committed} carried out, {undone} undone, {in_doubt} prepared");
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
