//! A workload with names: its queues, keys and bindings, and how many copies of each message they make.
//!
//! The copies are worked out here from the rules of AMQP 0-9-1's exchanges, without asking the broker: what it delivers
//! is held against them.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::workload::{ExchangeKind, Pattern, Workload};

/// What a run sets up.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What is asked for.
    pub workload: Workload,
    /// The queues that publishers reach.
    pub queues: Vec<String>,
    /// How they reach them.
    pub routes: Routes,
    /// With request and reply, the queue of each requester.
    pub reply_queues: Vec<String>,
}

/// From publishers to queues.
#[derive(Clone, Debug)]
pub struct Routes {
    /// Name of the exchange; empty for the default one.
    pub exchange: String,
    /// It is the run's own.
    pub own: bool,
    /// Routing keys of publishers, by the queue that they are dealt to.
    keys: Vec<Vec<String>>,
    /// Binding keys by queue; empty for the default exchange.
    pub bindings: Vec<Vec<String>>,
    copies: Vec<Copies>,
}

/// How many copies the messages of a publisher make.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copies {
    /// Of the first message, of the first two and so on, over all keys.
    sums: Vec<u64>,
}

/// A prefix for names that no other run on the same broker uses.
pub fn unique_prefix() -> String {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    format!("fulmar-bench.{}.{}", std::process::id(), RUNS.fetch_add(1, Ordering::Relaxed))
}

impl Plan {
    /// Of a workload, with names that begin with `prefix`.
    pub fn new(workload: Workload, prefix: String) -> Self {
        let queues: Vec<String> = (0..workload.queues).map(|n| format!("{prefix}.{n}")).collect();
        let reply_queues = match workload.pattern {
            Pattern::RequestReply => {
                (0..workload.publishers).map(|n| format!("{prefix}.reply.{n}")).collect()
            }
            Pattern::Stream | Pattern::BacklogDrain => Vec::new(),
        };
        Plan { routes: Routes::new(&workload, &queues, &prefix), workload, queues, reply_queues }
    }

    /// How many consumers measure.
    pub fn consumers(&self) -> usize {
        match self.workload.pattern {
            Pattern::RequestReply => self.reply_queues.len(),
            Pattern::Stream | Pattern::BacklogDrain => self.workload.consumers as usize,
        }
    }

    /// Whether a consumer gets the messages of a publisher in their order: not so with several responders to a queue, who
    /// answer independently of each other.
    pub fn keeps_order(&self) -> bool {
        self.reply_queues.is_empty() || self.workload.consumers as usize <= self.queues.len()
    }

    /// Number of the queue that a consumer which measures is dealt to.
    pub fn queue_of_consumer(&self, consumer: usize) -> usize {
        consumer % self.measured_queues().len()
    }

    /// The queues whose consumers measure.
    pub fn measured_queues(&self) -> &[String] {
        if self.reply_queues.is_empty() { &self.queues } else { &self.reply_queues }
    }

    /// Where a publisher wants its answers.
    pub fn reply_queue(&self, publisher: usize) -> Option<&str> {
        self.reply_queues.get(publisher).map(String::as_str)
    }
}

impl Routes {
    fn new(workload: &Workload, queues: &[String], prefix: &str) -> Self {
        let exchange = &workload.exchange;
        let kind = exchange.kind;
        if kind == ExchangeKind::Default {
            let keys = queues.iter().map(|queue| vec![queue.clone()]).collect();
            let copies = vec![Copies { sums: vec![1] }; queues.len()];
            return Routes { exchange: String::new(), own: false, keys, bindings: Vec::new(), copies };
        }
        // Others may use an exchange that exists.
        let before = exchange.name.as_ref().map_or(String::new(), |_| format!("{prefix}."));
        let expand = |pattern: &str, queue: usize, n: u32| {
            before.clone() + &pattern.replace("{queue}", &queue.to_string()).replace("{n}", &n.to_string())
        };
        let all = |pattern: &str, count: u32| -> Vec<Vec<String>> {
            (0..queues.len()).map(|queue| (0..count).map(|n| expand(pattern, queue, n)).collect()).collect()
        };
        let (keys, bindings) = (all(&exchange.key, exchange.keys), all(&exchange.binding, exchange.bindings));
        let copies = keys.iter().map(|keys| Copies::new(kind, keys, &bindings)).collect();
        let name = exchange.name.clone().unwrap_or_else(|| format!("{prefix}.exchange"));
        Routes { exchange: name, own: exchange.name.is_none(), keys, bindings, copies }
    }

    /// Routing keys of a publisher, which it uses in turn.
    pub fn keys(&self, publisher: usize) -> &[String] {
        &self.keys[publisher % self.keys.len()]
    }

    /// Copies of the messages of a publisher.
    pub fn copies(&self, publisher: usize) -> &Copies {
        &self.copies[publisher % self.copies.len()]
    }

    /// Copies of a message on average.
    pub fn mean_copies(&self) -> f64 {
        let means = self.copies.iter().map(|copies| copies.round() as f64 / copies.sums.len() as f64);
        means.sum::<f64>() / self.copies.len() as f64
    }
}

impl Copies {
    fn new(kind: ExchangeKind, keys: &[String], bindings: &[Vec<String>]) -> Self {
        let copies = |key: &String| {
            let bound =
                bindings.iter().filter(|queue| queue.iter().any(|binding| matches(kind, binding, key)));
            bound.count() as u64
        };
        let sums = keys.iter().scan(0, |sum, key| {
            *sum += copies(key);
            Some(*sum)
        });
        Copies { sums: sums.collect() }
    }

    /// Of the first `messages` messages together.
    #[inline]
    pub fn of_first(&self, messages: u64) -> u64 {
        if self.sums.len() == 1 {
            return messages * self.sums[0];
        }
        let keys = self.sums.len() as u64;
        let rest = match (messages % keys) as usize {
            0 => 0,
            some => self.sums[some - 1],
        };
        messages / keys * self.round() + rest
    }

    fn round(&self) -> u64 {
        *self.sums.last().expect("there is one key at least")
    }

    /// The most of one message.
    pub fn most(&self) -> u64 {
        let steps = self.sums.windows(2).map(|pair| pair[1] - pair[0]);
        steps.chain([self.sums[0]]).max().unwrap_or(0)
    }
}

/// Whether an exchange sends a message with `key` to a queue bound with `binding`.
fn matches(kind: ExchangeKind, binding: &str, key: &str) -> bool {
    match kind {
        ExchangeKind::Fanout => true,
        ExchangeKind::Default | ExchangeKind::Direct | ExchangeKind::Headers => binding == key,
        ExchangeKind::Topic => {
            let words = |text: &str| text.split('.').map(String::from).collect::<Vec<_>>();
            topic_matches(&words(binding), &words(key))
        }
    }
}

fn topic_matches(binding: &[String], key: &[String]) -> bool {
    match (binding.split_first(), key.split_first()) {
        (None, None) => true,
        (Some((word, rest)), _) if word == "#" => {
            topic_matches(rest, key) || (!key.is_empty() && topic_matches(binding, &key[1..]))
        }
        (Some((word, rest)), Some((first, others))) => {
            (word == "*" || word == first) && topic_matches(rest, others)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> Plan {
        Plan::new(Workload::from_toml(text).unwrap(), "run".into())
    }

    #[test]
    fn without_an_exchange_a_message_has_one_copy() {
        let plan = plan("publishers = 3\nqueues = 2\nconsumers = 2");
        assert_eq!(plan.routes.keys(2), ["run.0"]);
        assert_eq!(plan.routes.copies(1).of_first(7), 7);
        assert!(plan.routes.bindings.is_empty() && plan.routes.exchange.is_empty());
    }

    #[test]
    fn a_fanout_copies_to_every_queue() {
        let plan = plan("queues = 5\nconsumers = 5\nexchange = { type = 'fanout' }");
        assert_eq!((plan.routes.copies(0).of_first(3), plan.routes.copies(0).most()), (15, 5));
        assert!(plan.routes.own && plan.routes.exchange == "run.exchange");
    }

    #[test]
    fn keys_in_turn_make_different_numbers_of_copies() {
        let text = "queues = 2\nconsumers = 2\n[exchange]\ntype = 'direct'\nkey = 'k{n}'\nkeys = 3\n\
                    binding = 'k{n}'\nbindings = 2";
        let plan = plan(text);
        let copies = plan.routes.copies(0);
        assert_eq!([0, 1, 2, 3, 4, 7].map(|n| copies.of_first(n)), [0, 2, 4, 4, 6, 10]);
        assert_eq!(copies.most(), 2);
        assert!((plan.routes.mean_copies() - 4.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn keys_on_an_exchange_of_others_are_the_runs_own() {
        let plan = plan("exchange = { type = 'topic', name = 'amq.topic', binding = '#.{n}' }");
        assert_eq!(plan.routes.keys(0), ["run.0.0"]);
        assert_eq!(plan.routes.bindings[0], ["run.#.0"]);
        assert_eq!(plan.routes.copies(0).of_first(1), 1);
        assert!(!plan.routes.own);
    }

    #[test]
    fn topics_match_by_words() {
        for (binding, key, wanted) in [
            ("a.*.c.#", "a.b.c", true),
            ("a.*.c.#", "a.b.c.d.e", true),
            ("a.*.c.#", "a.c", false),
            ("#", "", true),
            ("*", "", true),
            ("*.*", "a", false),
            ("#.b", "a.b", true),
            ("#.#.b", "b", true),
            ("a.b", "a.b.c", false),
        ] {
            assert_eq!(matches(ExchangeKind::Topic, binding, key), wanted, "{binding} {key}");
        }
    }

    #[test]
    fn requesters_have_a_queue_each() {
        let plan = plan("pattern = 'request-reply'\npublishers = 3\nconsumers = 2");
        assert_eq!(plan.consumers(), 3);
        assert_eq!(plan.reply_queue(2), Some("run.reply.2"));
        assert_eq!((plan.queue_of_consumer(2), plan.measured_queues().len()), (2, 3));
    }
}
