//! Queues that are longer than memory: whatever is out of it, clients see the same.

use super::*;
use crate::journal::Position;
use crate::shard::random::Random;

impl Broker {
    /// With journals that answer late and in any order, and so little memory that nearly everything leaves it.
    pub(super) fn paged(shards: u8, limits: Limits, seed: u64) -> Self {
        let paging_bytes = [0, 0, 1_000, 4_000][seed as usize % 4];
        let mut broker = Broker::with_limits(shards, Limits { paging_bytes, ..limits });
        broker.journals = (0..shards).map(|_| TestJournal::default()).collect();
        for (shard, journal) in broker.shards.iter_mut().zip(&broker.journals) {
            journal.give_to(shard);
        }
        broker.lateness = Some(Random::new(seed));
        broker.is_persistent = (seed / 4).is_multiple_of(2);
        broker
    }

    /// How many messages have left memory, and how many have been read again.
    pub(super) fn paged_messages(&self) -> (u64, u64) {
        let stats = self.shards.iter().map(Shard::stats);
        stats.fold((0, 0), |(out, back), stats| (out + stats.paged_out, back + stats.read_back))
    }

    /// The journal stores what was appended and brings what was to be read. Whether something of that is to come.
    pub(super) fn serve_journal(&mut self, index: usize) -> bool {
        let (Some(journal), shard) = (self.journals.get(index), &mut self.shards[index]) else { return false };
        let Some(random) = &mut self.lateness else {
            journal.read_all(shard);
            return false;
        };
        if random.next().is_multiple_of(2) {
            journal.store_all(shard);
        }
        let mut reads = Vec::new();
        journal.change(|file| std::mem::swap(&mut file.reads, &mut reads));
        while !reads.is_empty() {
            let (ticket, positions) = reads.swap_remove((random.next() % reads.len() as u64) as usize);
            if random.next().is_multiple_of(3) {
                journal.change(|file| file.reads.push((ticket, positions)));
                continue;
            }
            for position in positions {
                let message = journal.message_at(position);
                shard.read_back(ticket, &message.message());
            }
        }
        let file = journal.file();
        !file.reads.is_empty() || file.stored < file.records.len()
    }

    fn stats(&self) -> Stats {
        self.shards[0].stats()
    }
}

fn paged() -> Broker {
    let mut broker = Broker::paged(1, Limits::default(), 0);
    broker.is_persistent = false;
    broker
}

/// Numbers of messages as bodies.
fn numbers(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

fn publish(broker: &mut Broker, client: Client, queue: &str, range: std::ops::Range<u32>) {
    for number in range {
        let persistent = number % 3 == 0;
        let id = broker
            .message_with(client, "", queue, &number.to_string(), &[], |header| header.persistent = persistent);
        broker.send(client, id);
    }
    broker.run();
}

#[test]
fn what_is_out_of_memory_is_delivered_in_order_and_its_record_given_up() {
    for options in [at_home(0), QueueOptions { durable: true, ..at_home(0) }] {
        let mut broker = paged();
        let client = broker.client(0);
        broker.declare(client, "q", options);
        publish(&mut broker, client, "q", 0..500);
        let stats = broker.stats();
        assert_eq!((stats.ready, stats.paged, stats.messages), (500, 500, 0));
        assert_eq!(broker.counts(client, "q").unwrap(), (500, 0));
        broker.subscribe(client, "q", 1, ConsumerOptions::default());
        let received = broker.take(client);
        assert_eq!(received.iter().map(|one| one.body.clone()).collect::<Vec<_>>(), numbers(0..500));
        assert!(received.iter().all(|one| !one.redelivered));
        received.iter().for_each(|one| broker.settle(client, one, Settlement::Accept));
        broker.run();
        assert_eq!((broker.stats().messages, broker.stats().paged), (0, 0));
        let retired = broker.journals[0].file().retired.len();
        assert_eq!(retired, 500, "each has one record, on a page or in the log");
    }
}
