//! Durable queues with a journal: what is written down, who waits for it, and what a restart finds.

use super::*;
use crate::test_support::journal::{TestJournal, Written};

/// Shards with journals.
struct Durable {
    broker: Broker,
    journals: Vec<TestJournal>,
}

fn durable(shard: u8) -> QueueOptions {
    QueueOptions { durable: true, ..at_home(shard) }
}

impl Durable {
    fn new(shards: u8) -> Self {
        let journals = (0..shards).map(|_| TestJournal::default()).collect();
        Durable::with_journals(journals)
    }

    fn with_journals(journals: Vec<TestJournal>) -> Self {
        let mut broker = Broker::new(journals.len() as u8);
        for (shard, journal) in broker.shards.iter_mut().zip(&journals) {
            journal.give_to(shard);
        }
        broker.journals.clone_from(&journals);
        Durable { broker, journals }
    }

    /// Publishes a persistent message with a confirm.
    fn publish(&mut self, client: Client, exchange: &str, key: &str, body: &str, confirm: u64) -> Published {
        self.try_publish(client, exchange, key, body, confirm).expect("the exchange is there")
    }

    fn try_publish(
        &mut self,
        client: Client,
        exchange: &str,
        key: &str,
        body: &str,
        confirm: u64,
    ) -> Result<Published, Refusal> {
        let id =
            self.broker.message_with(client, exchange, key, body, &[], |header| header.persistent = true);
        self.broker.shards[client.shard].publish(client.session, VHOST, id, false, Some(confirm))
    }

    /// What is appended is stored, until nothing more is.
    fn store(&mut self) {
        for _ in 0..10 {
            self.broker.run();
            for (shard, journal) in self.broker.shards.iter_mut().zip(&self.journals) {
                journal.store_all(shard);
            }
        }
        self.broker.run();
    }

    /// Numbers of confirms that a client was told, and whether its messages were taken.
    fn confirms(&mut self, client: Client) -> Vec<(u64, bool)> {
        self.broker.run();
        let told = self.broker.told[client.owner as usize].drain(..);
        told.filter_map(|told| match told {
            Told::Confirmed(sequence, accepted) => Some((sequence, accepted)),
            _ => None,
        })
        .collect()
    }
}

#[test]
fn a_confirm_comes_when_the_message_is_stored() {
    let mut durable_broker = Durable::new(1);
    let client = durable_broker.broker.client(0);
    durable_broker.broker.declare(client, "q", durable(0));
    assert_eq!(durable_broker.publish(client, "", "q", "a", 1), Published::Pending);
    assert_eq!(durable_broker.publish(client, "", "q", "b", 2), Published::Pending);
    assert_eq!(durable_broker.confirms(client), []);
    durable_broker.store();
    assert_eq!(durable_broker.confirms(client), [(1, true), (2, true)]);
    let journal = &durable_broker.journals[0];
    let enqueued = |(record, _): &(Written, _)| matches!(record, Written::Enqueued { .. });
    assert_eq!(
        (journal.places().len(), journal.file().records.iter().filter(|r| enqueued(r)).count()),
        (2, 2)
    );
}
