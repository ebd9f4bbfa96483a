//! What a request means to an access control list, and to permissions by virtual host.

use fulmar_core::permission::Known;
use fulmar_core::request::{ExchangeOptions, MoveTo, Overflow, QueueOptions};
use fulmar_core::{Name, Request};

use super::permits::Access;
use crate::acl::{Action, Fact, Object, Property};

/// What a queue that the broker is to name is called for as long as it is asked for.
const NAMELESS: &[u8] = b"amq.gen-0000000000000000000000";

/// A question to an access control list.
pub(super) struct Question {
    pub action: Action,
    pub object: Object,
    pub name: String,
    /// `None`: nothing is known, rules are not held to what they ask for.
    pub facts: Option<Vec<(Property, OwnedFact)>>,
}

/// A [`Fact`] that owns its text.
pub(super) enum OwnedFact {
    Text(String),
    Flag(bool),
    Number(u64),
}

impl OwnedFact {
    pub fn view(&self) -> Fact<'_> {
        match self {
            OwnedFact::Text(text) => Fact::Text(text),
            OwnedFact::Flag(flag) => Fact::Flag(*flag),
            OwnedFact::Number(number) => Fact::Number(*number),
        }
    }
}

fn text(name: &Name) -> String {
    String::from_utf8_lossy(name.as_bytes()).into_owned()
}

fn optional(name: Option<&Name>) -> OwnedFact {
    OwnedFact::Text(name.map(text).unwrap_or_default())
}

/// What there is to ask an access control list before a request is carried out. `None`: nothing.
pub(super) fn question(request: &Request, known: &Known) -> Option<Question> {
    use Action as A;
    use Object as O;
    use OwnedFact::Text;
    let ask = |action, object, name: &Name, facts| Some(Question { action, object, name: text(name), facts });
    match request {
        Request::DeclareExchange { name, passive, options, .. } => {
            let action = if *passive { A::Access } else { A::Create };
            ask(action, O::Exchange, name, Some(exchange_facts(options)))
        }
        Request::DeleteExchange { name, .. } => {
            let facts = exchange_facts(&known.exchange.as_ref()?.options);
            ask(A::Delete, O::Exchange, name, Some(facts))
        }
        Request::QueryExchange { name, .. } => ask(A::Access, O::Exchange, name, None),
        Request::DeclareQueue { name, passive: false, options, .. } => {
            let name = named(name);
            ask(A::Create, O::Queue, &name, Some(queue_facts(options, options.exclusive)))
        }
        Request::DeclareQueue { name, .. } | Request::QueryQueue { name, .. } => {
            ask(A::Access, O::Queue, name, facts_of(known))
        }
        Request::DeleteQueue { name, .. } => ask(A::Delete, O::Queue, name, Some(facts_of(known)?)),
        Request::PurgeQueue { name, .. } => ask(A::Purge, O::Queue, name, None),
        Request::Subscribe { queue, .. } | Request::Get { queue, .. } => {
            ask(A::Consume, O::Queue, queue, None)
        }
        Request::MoveMessages { queue, to, .. } => match to {
            MoveTo::Nowhere => ask(A::Purge, O::Queue, queue, None),
            MoveTo::Queue(target) => {
                ask(A::Move, O::Queue, queue, Some(vec![(Property::QueueName, Text(text(target)))]))
            }
            MoveTo::Exchange(target) => {
                ask(A::Reroute, O::Queue, queue, Some(vec![(Property::ExchangeName, Text(text(target)))]))
            }
            MoveTo::Alternate => {
                ask(A::Reroute, O::Queue, queue, Some(vec![(Property::ExchangeName, Text(String::new()))]))
            }
        },
        Request::RedirectQueue { source, target, .. } => {
            ask(A::Redirect, O::Queue, source, Some(vec![(Property::QueueName, optional(target.as_ref()))]))
        }
        Request::Bind { source, destination, key, .. } => {
            ask(A::Bind, O::Exchange, source, Some(binding_facts(Some(destination), Some(key))))
        }
        Request::Unbind { source, destination, key, .. } => {
            ask(A::Unbind, O::Exchange, source, Some(binding_facts(Some(destination), Some(key))))
        }
        Request::QueryBinding { exchange, queue, key, .. } => {
            ask(A::Access, O::Exchange, exchange, Some(binding_facts(queue.as_ref(), key.as_ref())))
        }
        Request::Cancel { .. }
        | Request::StopConsumer { .. }
        | Request::FlushConsumer { .. }
        | Request::Acquire { .. }
        | Request::Barrier
        | Request::Commit
        | Request::Dtx { .. }
        | Request::RecoverDtx { .. } => None,
    }
}

/// A name, or that of [`NAMELESS`].
fn named(name: &Name) -> Name {
    if name.as_bytes().is_empty() { Name::from(NAMELESS) } else { name.clone() }
}

fn facts_of(known: &Known) -> Option<Vec<(Property, OwnedFact)>> {
    let entry = known.queue.as_ref()?;
    Some(queue_facts(&entry.options, entry.owner.is_some()))
}

fn binding_facts(queue: Option<&Name>, key: Option<&Name>) -> Vec<(Property, OwnedFact)> {
    vec![(Property::QueueName, optional(queue)), (Property::RoutingKey, optional(key))]
}

fn exchange_facts(options: &ExchangeOptions) -> Vec<(Property, OwnedFact)> {
    vec![
        (Property::Type, OwnedFact::Text(text(&options.kind))),
        (Property::Alternate, optional(options.alternate.as_ref())),
        (Property::Durable, OwnedFact::Flag(options.durable)),
        (Property::AutoDelete, OwnedFact::Flag(options.auto_delete)),
    ]
}

fn queue_facts(options: &QueueOptions, is_exclusive: bool) -> Vec<(Property, OwnedFact)> {
    let alternate = options.alternate.as_ref().or(options.dead_letter_exchange.as_ref());
    let mut facts = vec![
        (Property::Alternate, optional(alternate)),
        (Property::Durable, OwnedFact::Flag(options.durable)),
        (Property::Exclusive, OwnedFact::Flag(is_exclusive)),
        (Property::AutoDelete, OwnedFact::Flag(options.auto_delete)),
        (Property::PolicyType, OwnedFact::Text(policy_word(options).to_owned())),
        (Property::Paging, OwnedFact::Flag(options.paging)),
    ];
    facts.extend(options.max_length.map(|most| (Property::MaxQueueCount, OwnedFact::Number(most))));
    facts.extend(options.max_length_bytes.map(|most| (Property::MaxQueueSize, OwnedFact::Number(most))));
    facts
}

/// What a full queue does, as the peer's rules call it.
fn policy_word(options: &QueueOptions) -> &'static str {
    match options.overflow {
        Overflow::Ring | Overflow::DropHead => "ring",
        Overflow::RingStrict => "ring_strict",
        Overflow::SelfDestruct => "self-destruct",
        Overflow::FlowToDisk => "flow_to_disk",
        Overflow::Reject | Overflow::RejectPublish | Overflow::RejectPublishDeadLetter => "reject",
    }
}

/// What a permission is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Queue,
    Exchange,
}

impl Kind {
    pub fn word(self) -> &'static str {
        match self {
            Kind::Queue => "queue",
            Kind::Exchange => "exchange",
        }
    }
}

/// What a request needs in its virtual host, as RabbitMQ has it.
pub(super) fn needs(request: &Request) -> Vec<(Access, Kind, Name)> {
    use fulmar_core::request::DestinationKind;
    match request {
        Request::DeclareExchange { name, passive: false, options, .. } => {
            let mut needs = vec![(Access::Configure, Kind::Exchange, name.clone())];
            if let Some(alternate) = &options.alternate {
                needs.push((Access::Read, Kind::Exchange, name.clone()));
                needs.push((Access::Write, Kind::Exchange, alternate.clone()));
            }
            needs
        }
        Request::DeclareQueue { name, passive: false, options, .. } => {
            let name = named(name);
            let mut needs = vec![(Access::Configure, Kind::Queue, name.clone())];
            for exchange in [&options.dead_letter_exchange, &options.alternate].into_iter().flatten() {
                needs.push((Access::Read, Kind::Queue, name.clone()));
                needs.push((Access::Write, Kind::Exchange, exchange.clone()));
            }
            needs
        }
        Request::DeleteExchange { name, .. } => vec![(Access::Configure, Kind::Exchange, name.clone())],
        Request::DeleteQueue { name, .. } => vec![(Access::Configure, Kind::Queue, name.clone())],
        Request::PurgeQueue { name: queue, .. }
        | Request::Subscribe { queue, .. }
        | Request::Get { queue, .. } => vec![(Access::Read, Kind::Queue, queue.clone())],
        Request::MoveMessages { queue, to, .. } => {
            let mut needs = vec![(Access::Read, Kind::Queue, queue.clone())];
            match to {
                MoveTo::Queue(target) => needs.push((Access::Write, Kind::Queue, target.clone())),
                MoveTo::Exchange(target) => needs.push((Access::Write, Kind::Exchange, target.clone())),
                MoveTo::Nowhere | MoveTo::Alternate => {}
            }
            needs
        }
        Request::RedirectQueue { source, target, .. } => {
            let queues = std::iter::once(source).chain(target);
            queues.map(|queue| (Access::Configure, Kind::Queue, queue.clone())).collect()
        }
        Request::Bind { source, destination, kind, .. }
        | Request::Unbind { source, destination, kind, .. } => {
            let kind = match kind {
                DestinationKind::Queue => Kind::Queue,
                DestinationKind::Exchange => Kind::Exchange,
            };
            vec![(Access::Write, kind, destination.clone()), (Access::Read, Kind::Exchange, source.clone())]
        }
        _ => Vec::new(),
    }
}
