//! What was declared over a connection, so that it can be declared again over the next one.

use crate::request::{Binding, Destination, ExchangeOptions, QueueOptions, Reply, Request};

/// Exchanges, queues and bindings, in the order of their declaration.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    exchanges: Vec<(String, ExchangeOptions)>,
    queues: Vec<Queue>,
    bindings: Vec<Binding>,
}

#[derive(Debug)]
struct Queue {
    name: String,
    options: QueueOptions,
    /// The broker chose the name, and will choose another one.
    named_by_broker: bool,
}

/// One thing to declare again.
#[derive(Debug, PartialEq)]
pub(crate) struct Redeclare {
    pub request: Request,
    /// For a queue that the broker named: the name that it had.
    pub old_name: Option<String>,
}

impl Topology {
    /// Takes note of a request that the broker granted.
    pub(crate) fn record(&mut self, request: &Request, reply: &Reply) {
        match request {
            Request::DeclareExchange { exchange, options, passive: false } if !exchange.is_empty() => {
                self.exchanges.retain(|(name, _)| name != exchange);
                self.exchanges.push((exchange.clone(), options.clone()));
            }
            Request::DeleteExchange { exchange, .. } => {
                self.exchanges.retain(|(name, _)| name != exchange);
                self.bindings.retain(|binding| {
                    binding.source != *exchange && !is_to(binding, Destination::Exchange, exchange)
                });
            }
            Request::DeclareQueue { queue, options, passive: false } => {
                let Reply::Queue(info) = reply else { return };
                self.queues.retain(|queue| queue.name != info.name);
                let named_by_broker = queue.is_empty();
                self.queues.push(Queue {
                    name: info.name.clone(),
                    options: options.clone(),
                    named_by_broker,
                });
            }
            Request::DeleteQueue { queue, .. } => self.forget_queue(queue),
            Request::Bind(binding) if !self.bindings.contains(binding) => self.bindings.push(binding.clone()),
            Request::Unbind(binding) => self.bindings.retain(|known| known != binding),
            _ => {}
        }
    }

    /// A queue is gone.
    pub(crate) fn forget_queue(&mut self, name: &str) {
        self.queues.retain(|queue| queue.name != name);
        self.bindings.retain(|binding| !is_to(binding, Destination::Queue, name));
    }

    /// The broker gave a queue a new name.
    pub(crate) fn rename_queue(&mut self, old: &str, new: &str) {
        for queue in self.queues.iter_mut().filter(|queue| queue.name == old) {
            queue.name = new.to_owned();
        }
        for binding in self.bindings.iter_mut().filter(|binding| is_to(binding, Destination::Queue, old)) {
            binding.destination = new.to_owned();
        }
    }

    /// Exchanges and queues to declare. Bindings come after them, when the new names are known.
    pub(crate) fn declarations(&self) -> Vec<Redeclare> {
        let exchanges = self.exchanges.iter().map(|(exchange, options)| Redeclare {
            request: Request::DeclareExchange {
                exchange: exchange.clone(),
                options: options.clone(),
                passive: false,
            },
            old_name: None,
        });
        let queues = self.queues.iter().map(|queue| Redeclare {
            request: Request::DeclareQueue {
                queue: if queue.named_by_broker { String::new() } else { queue.name.clone() },
                options: queue.options.clone(),
                passive: false,
            },
            old_name: queue.named_by_broker.then(|| queue.name.clone()),
        });
        exchanges.chain(queues).collect()
    }

    /// Bindings to make.
    pub(crate) fn bindings(&self) -> Vec<Redeclare> {
        let bind = |binding: &Binding| Redeclare { request: Request::Bind(binding.clone()), old_name: None };
        self.bindings.iter().map(bind).collect()
    }
}

fn is_to(binding: &Binding, kind: Destination, name: &str) -> bool {
    binding.kind == kind && binding.destination == name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::QueueInfo;
    use fulmar_core::Table;

    fn declare(topology: &mut Topology, queue: &str, granted: &str) {
        let request =
            Request::DeclareQueue { queue: queue.into(), options: QueueOptions::exclusive(), passive: false };
        let info = QueueInfo { name: granted.into(), message_count: 0, consumer_count: 0 };
        topology.record(&request, &Reply::Queue(info));
    }

    fn bind(queue: &str, source: &str) -> Binding {
        Binding {
            kind: Destination::Queue,
            destination: queue.into(),
            source: source.into(),
            routing_key: "k".into(),
            arguments: Table::default(),
        }
    }

    #[test]
    fn a_deleted_queue_takes_its_bindings_along() {
        let mut topology = Topology::default();
        declare(&mut topology, "a", "a");
        declare(&mut topology, "b", "b");
        for queue in ["a", "b", "a"] {
            topology.record(&Request::Bind(bind(queue, "x")), &Reply::Done);
        }
        assert_eq!(topology.bindings().len(), 2);
        let delete = Request::DeleteQueue { queue: "a".into(), if_unused: false, if_empty: false };
        topology.record(&delete, &Reply::Count(0));
        assert_eq!(topology.bindings()[0].request, Request::Bind(bind("b", "x")));
        assert_eq!((topology.bindings().len(), topology.declarations().len()), (1, 1));
    }

    #[test]
    fn a_deleted_exchange_takes_its_bindings_along() {
        let mut topology = Topology::default();
        let options = ExchangeOptions::new("fanout");
        let declare = Request::DeclareExchange { exchange: "x".into(), options, passive: false };
        topology.record(&declare, &Reply::Done);
        topology.record(&Request::Bind(bind("a", "x")), &Reply::Done);
        topology.record(&Request::DeleteExchange { exchange: "x".into(), if_unused: false }, &Reply::Done);
        assert!(topology.declarations().is_empty() && topology.bindings().is_empty());
    }

    #[test]
    fn a_queue_named_by_the_broker_is_declared_without_a_name() {
        let mut topology = Topology::default();
        declare(&mut topology, "", "amq.gen-1");
        topology.record(&Request::Bind(bind("amq.gen-1", "x")), &Reply::Done);
        let redeclare = &topology.declarations()[0];
        assert!(matches!(&redeclare.request, Request::DeclareQueue { queue, .. } if queue.is_empty()));
        assert_eq!(redeclare.old_name.as_deref(), Some("amq.gen-1"));
        topology.rename_queue("amq.gen-1", "amq.gen-2");
        assert_eq!(topology.bindings()[0].request, Request::Bind(bind("amq.gen-2", "x")));
        assert_eq!(topology.declarations()[0].old_name.as_deref(), Some("amq.gen-2"));
    }

    #[test]
    fn passive_declarations_are_not_repeated() {
        let mut topology = Topology::default();
        let request =
            Request::DeclareQueue { queue: "q".into(), options: QueueOptions::default(), passive: true };
        let info = QueueInfo { name: "q".into(), message_count: 0, consumer_count: 0 };
        topology.record(&request, &Reply::Queue(info));
        assert!(topology.declarations().is_empty());
    }
}
