//! What outlives the broker, when it starts: everything is recovered before the shards run, then each takes what is its
//! own, on its own thread.
//!
//! Works on any [`Disk`], so that the simulation starts a broker as the program does.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use fulmar_core::journal::{
    FoundTransactions, PreparedBranch, PreparedPublish, RecoveredTransactions, Step, TransactionKey,
};
use fulmar_core::topology::{RestoreError, StoredChange};
use fulmar_core::{Shard, ShardId};
use fulmar_journal::disk::Disk;
use fulmar_journal::encodings::Encodings;
use fulmar_journal::header::StoreId;
use fulmar_journal::recovery::log::Torn;
use fulmar_journal::recovery::{self, Recovered, RecoveredLog, RecoveryError, Shown, Totals};
use fulmar_journal::transaction::DecodedStep;
use fulmar_journal::{Handle, Log, LogOptions};

/// Encodings of properties that messages may be in.
pub fn encodings() -> Encodings {
    Encodings::new(&[
        &fulmar_amqp_0_9_1::codec::properties::ENCODING,
        &fulmar_amqp_0_10::properties::ENCODING,
        &fulmar_amqp_0_10::properties::ENCODING_WITHOUT_BODY,
    ])
}

/// How to recover.
pub struct Options<'a> {
    /// The directory of the journals.
    pub journal: &'a Path,
    /// Shards of this run.
    pub shards: u16,
    /// Logs that are read at once; 1: no thread is started.
    pub threads: usize,
    /// Identity of the store if there is none yet.
    pub new_store: StoreId,
    /// What can be chosen of each shard's log.
    pub log: LogOptions,
    /// Shown how far it has come, now and then, by any thread.
    pub progress: &'a (dyn Fn(&Shown) + Sync),
}

/// What was recovered.
pub struct Store {
    /// For each shard what is its own.
    pub shards: Vec<ShardStore>,
    /// What there was.
    pub summary: Summary,
}

/// What there was.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Which run this is; 1 is the first.
    pub run: u32,
    /// Messages, queues, bytes.
    pub totals: Totals,
    /// Transactions that are not over.
    pub transactions: FoundTransactions,
    /// Where a log ended in something half written.
    pub torn: Vec<Torn>,
}

/// What a shard begins with.
pub struct ShardStore {
    log: RecoveredLog,
    topology: Arc<Vec<StoredChange>>,
    transactions: Arc<RecoveredTransactions>,
    options: LogOptions,
}

/// Recovers what the journals say.
///
/// # Errors
/// Something is damaged, of another store, or cannot be read or written.
pub fn recover(disk: &dyn Disk, options: &Options<'_>) -> Result<Store, RecoveryError> {
    let encodings = encodings();
    let how = recovery::Options {
        journal: options.journal,
        shards: options.shards,
        encodings: &encodings,
        new_store: options.new_store,
        threads: options.threads,
        segment_bytes: options.log.segment_bytes,
        progress: options.progress,
    };
    let recovered = recovery::recover(disk, &how)?;
    let transactions = transactions(&recovered);
    let Recovered { run, topology, logs, torn, totals, .. } = recovered;
    let summary = Summary { run, totals, transactions: transactions.found(), torn };
    let (topology, transactions) = (Arc::new(topology), Arc::new(transactions));
    let shard = |log| ShardStore {
        log,
        topology: Arc::clone(&topology),
        transactions: Arc::clone(&transactions),
        options: options.log,
    };
    Ok(Store { shards: logs.into_iter().map(shard).collect(), summary })
}

impl ShardStore {
    /// Gives a shard its journal and what is in it; it knows the time and the types of exchanges. Returns its log, for the
    /// worker.
    ///
    /// # Errors
    /// The topology cannot be made as it was.
    pub fn restore(mut self, shard: &mut Shard) -> Result<Rc<RefCell<Log>>, RestoreError> {
        let log = Log::new(self.log.start.clone(), self.options, encodings());
        let log = Rc::new(RefCell::new(log));
        shard.set_journal(Box::new(Handle::new(Rc::clone(&log))));
        shard.restore_topology(&self.topology)?;
        shard.restore_transactions(&self.transactions);
        for queue in &self.log.queues {
            shard.restore_handed_out(queue.key, queue.handed_out_below);
        }
        self.log.restore_messages(shard);
        shard.end_restore();
        Ok(log)
    }
}

/// The transactions that are not over, as the core is told.
fn transactions(recovered: &Recovered) -> RecoveredTransactions {
    let mut transactions = RecoveredTransactions::default();
    for (index, log) in recovered.logs.iter().enumerate() {
        let journal = ShardId(index as u8);
        for steps in log.transactions.values() {
            for step in steps.part.iter().chain(&steps.whole) {
                let (transaction, step) = step.decode();
                note(&mut transactions, journal, transaction, &step);
            }
        }
    }
    transactions
}

fn note(
    transactions: &mut RecoveredTransactions,
    journal: ShardId,
    transaction: TransactionKey,
    step: &DecodedStep<'_>,
) {
    let mut tell = |step: &Step<'_>| transactions.note(journal, transaction, step);
    match step {
        DecodedStep::Prepared { publishes, settlements } => {
            let publishes: Vec<_> = publishes
                .iter()
                .map(|(message, queues)| PreparedPublish { message: *message, queues })
                .collect();
            tell(&Step::Prepared { publishes: &publishes, settlements });
        }
        DecodedStep::Ended => tell(&Step::Ended),
        DecodedStep::Branch { vhost, xid, homes, timeout_s } => {
            tell(&Step::Branch(PreparedBranch { vhost, xid, homes, timeout_s: *timeout_s }));
        }
        DecodedStep::Decided(decision) => tell(&Step::Decided(*decision)),
        DecodedStep::Forgotten => tell(&Step::Forgotten),
        DecodedStep::Closed => tell(&Step::Closed),
    }
}
