//! The broker ends without a word, its disk fails, and it is started again on what is left.

use std::path::PathBuf;

use fulmar_transport::sim::Random;

use crate::broker::Broker;
use crate::consumer::Consumer;
use crate::queues::QUEUES;
use crate::run::{Clients, QUIET_STEPS, World};
use crate::store::Trouble;

/// Steps without a broker at most.
const MOST_STEPS_ALONE: usize = 60;
/// Operations of a restart after which it is interrupted, at most.
const MOST_OPERATIONS: usize = 120;

/// A bit that has changed.
struct Flip {
    file: PathBuf,
    offset: u64,
}

impl World {
    /// What goes wrong with the broker and its disk, at a step.
    pub fn go_wrong(&mut self, clients: &mut Clients) {
        let Some(store) = &mut self.store else { return };
        if store.is_troubled {
            // What has failed is not trusted before it is started again; what was full goes on.
            if store.is_full && self.random.chance(1_000) {
                store.heal();
            }
        } else if self.random.chance(1_000)
            && let Some(trouble) = store.trouble.take()
        {
            store.fail(trouble);
            self.ledger.disk_fails = true;
            let report = &mut self.ledger.report;
            match trouble {
                Trouble::Flushes => report.failing_flushes += 1,
                Trouble::Writes => report.failing_writes += 1,
                Trouble::Full => report.full_disks += 1,
            }
        }
        if store.ends_left > 0 && self.random.chance(store.end_chance) {
            store.ends_left -= 1;
            self.restart(clients);
        }
    }

    /// From now on nothing goes wrong any more.
    pub fn go_right(&mut self, clients: &mut Clients) {
        let Some(store) = &mut self.store else { return };
        let has_failed = store.is_troubled && !store.is_full || self.broker.has_failed();
        if has_failed || self.random.chance(300_000) {
            return self.restart(clients);
        }
        store.heal();
    }

    /// The broker ends, and is started again.
    fn restart(&mut self, clients: &mut Clients) {
        let power_cut = self.random.chance(500_000);
        if self.trace {
            println!("the broker ends; power cut: {power_cut}");
        }
        self.ledger.report.credit_stalls += self.broker.credit_stalls();
        self.broker.end();
        self.ways.ends.set(self.ways.ends.get() + 1);
        self.ledger.restarted();
        for consumer in &mut clients.consumers {
            consumer.cut(&mut self.env(true));
        }
        let store = self.store.as_mut().expect("a disk");
        if power_cut {
            store.disk.power_cut();
            self.ledger.report.power_cuts += 1;
        } else {
            self.ledger.report.kills += 1;
        }
        store.heal();
        for _ in 0..self.random.below(MOST_STEPS_ALONE) {
            clients.step(&mut self.env(true));
            self.network.advance();
        }
        self.start_again();
    }

    /// Starts the broker on what the disk has.
    fn start_again(&mut self) {
        if self.random.chance(300_000) {
            self.shards = 1 + self.random.below(3) as u8;
            self.ledger.report.resharded += 1;
        }
        while self.random.chance(200_000) {
            self.interrupt_start();
        }
        let flips = self.store.as_mut().is_some_and(|store| std::mem::take(&mut store.flips));
        if !flips || !self.start_on_damaged_disk() {
            self.broker = self.start().expect("the disk is as the broker left it");
        }
    }

    fn start(&mut self) -> Result<Broker, String> {
        let seed = self.random.next_u64();
        let started = Broker::start(&self.ways, self.shards, self.tiny, seed, self.store.as_ref());
        let Err(text) = &started else { return started };
        // Not everything can move to other shards; what the broker says helps.
        let Some((_, shards)) = text.split_once("start the broker with --shards ") else { return started };
        self.shards = shards[..1].parse().expect("a number");
        self.ledger.report.unmoved += 1;
        Broker::start(&self.ways, self.shards, self.tiny, seed, self.store.as_ref())
    }

    /// Starts the broker, and ends it in the middle of that or soon after.
    fn interrupt_start(&mut self) {
        let operations = self.random.below(MOST_OPERATIONS) as u64;
        let disk = self.network.disk();
        disk.fail_after(Some(operations));
        let started = self.start();
        self.ledger.report.interrupted += u64::from(started.is_err());
        disk.fail_after(None);
        if let Ok(mut broker) = started {
            for _ in 0..self.random.below(20) {
                broker.step(&mut self.random);
                self.network.advance();
            }
        }
        if self.random.chance(500_000) {
            disk.power_cut();
        }
    }

    /// Changes a bit and starts the broker. Whether it runs, and nothing that counts was damaged; if not, the disk is as
    /// it was.
    fn start_on_damaged_disk(&mut self) -> bool {
        let disk = self.network.disk();
        let image = disk.image();
        let Some(flip) = self.flip() else { return false };
        self.ledger.report.flips += 1;
        match self.start() {
            Err(text) => {
                let file = flip.file.to_str().expect("UTF-8");
                assert!(
                    text.contains(file),
                    "{file} is damaged at {}, and the broker says: {text}",
                    flip.offset
                );
                self.ledger.report.flips_named += 1;
            }
            // The end of a log cannot be told from a write that a power cut has interrupted.
            Ok(broker) if broker.left_out(&flip.file, flip.offset) => self.ledger.report.flips_at_end += 1,
            Ok(broker) => {
                self.broker = broker;
                return true;
            }
        }
        disk.restore(image);
        false
    }

    fn flip(&mut self) -> Option<Flip> {
        let disk = self.network.disk();
        let mut files = self.store.as_ref()?.files();
        files.retain(|file| disk.open(file).is_ok_and(|file| file.file_bytes() > 0));
        if files.is_empty() {
            return None;
        }
        let file = files.swap_remove(self.random.below(files.len()));
        let bytes = disk.open(&file).expect("it is there").file_bytes();
        let offset = somewhere(bytes, &mut self.random);
        disk.flip(&file, offset, 1 << self.random.below(8)).expect("within the file");
        Some(Flip { file, offset })
    }

    /// Nothing is left of what was settled: the broker was stopped in order, and is started once more to see. What was on its
    /// way to it when everything else had been consumed may be there.
    pub fn check_what_is_left(&mut self) {
        if self.store.is_none() {
            return;
        }
        self.ledger.report.durable += 1;
        self.broker.check_sockets();
        self.broker.end();
        if self.random.chance(500_000) {
            self.network.disk().power_cut();
        }
        self.broker = self.start().expect("the disk is as the broker left it");
        self.ledger.stopped_in_order();
        let mut consumers: Vec<_> =
            (0..QUEUES.len()).map(|queue| Consumer::new(queue, false, 0, false)).collect();
        let mut quiet_steps = 0;
        while quiet_steps < QUIET_STEPS {
            consumers.iter_mut().for_each(|consumer| consumer.step(&mut self.env(false)));
            self.step();
            let quiet = self.broker.queued() == 0 && consumers.iter().all(Consumer::is_idle);
            quiet_steps = if quiet { quiet_steps + 1 } else { 0 };
        }
        self.stop();
    }
}

/// A place in a file: near the beginning more often than not, since that is where something stands.
fn somewhere(bytes: u64, random: &mut Random) -> u64 {
    let most = match random.below(3) {
        0 => bytes,
        1 => bytes.min(32 * 1024),
        _ => bytes.min(8 * 1024),
    };
    random.within(0..=most - 1)
}
