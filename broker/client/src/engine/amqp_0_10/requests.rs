//! Requests as commands.

use fulmar_amqp_0_10::codec::table::{
    AcceptMode, AcquireMode, CreditUnit, DtxCommit, DtxEnd, DtxForget, DtxGetTimeout, DtxPrepare, DtxRecover,
    DtxRollback, DtxSelect, DtxSetTimeout, DtxStart, ExchangeBind, ExchangeBound, ExchangeDeclare,
    ExchangeDelete, ExchangeQuery, ExchangeUnbind, ExecutionSync, FlowMode, MessageCancel, MessageFlow,
    MessageFlush, MessageSetFlowMode, MessageSubscribe, QueueDeclare, QueueDelete, QueuePurge, QueueQuery,
    TxCommit, TxRollback, TxSelect, Xid as WireXid,
};
use fulmar_amqp_0_10::codec::{Command, MapRef, SequenceNo, encode_table};
use fulmar_core::{Name, Table};

use super::output::Output;
use super::results::Question;
use super::sending::Sent;
use super::session::State;
use crate::Error;
use crate::branch::{BranchEnd, BranchStart, Phases, Xid};
use crate::request::{
    Binding, BindingQuery, BranchRequest, ConsumeOptions, Destination, ExchangeOptions, QueueOptions, Request,
};

/// Credit without end.
const UNLIMITED: u32 = u32::MAX;

/// Other protocols have it among the arguments, this one has a field for it.
const ALTERNATE_EXCHANGE: &[u8] = b"alternate-exchange";

impl State {
    pub(super) fn request(&mut self, request: &Request, unique: &str, out: &mut Output) -> Result<(), Error> {
        check(request)?;
        // Accepts come before a commit that is to include them.
        self.flush(out);
        let mut batch = Batch { state: self, out, asking: None };
        let question = match request {
            Request::OpenChannel => return Ok(()),
            Request::CloseChannel => {
                self.detach(out);
                return Ok(());
            }
            Request::DeclareExchange { exchange, options, passive } => {
                batch.declare_exchange(exchange, options, *passive)
            }
            Request::DeleteExchange { exchange, if_unused } => {
                batch.last(ExchangeDelete { exchange: Some(exchange.as_bytes()), if_unused: *if_unused })
            }
            Request::DeclareQueue { queue, options, passive } => {
                batch.declare_queue(queue, options, *passive, unique)
            }
            Request::DeleteQueue { queue, if_unused, if_empty } => {
                batch.ask(QueueQuery { queue: Some(queue.as_bytes()) });
                batch.last(QueueDelete {
                    queue: Some(queue.as_bytes()),
                    if_unused: *if_unused,
                    if_empty: *if_empty,
                });
                Question::Count
            }
            Request::PurgeQueue { queue } => {
                batch.ask(QueueQuery { queue: Some(queue.as_bytes()) });
                batch.last(QueuePurge { queue: Some(queue.as_bytes()) });
                Question::Count
            }
            Request::QueryExchange { exchange } => {
                batch.ask_last(ExchangeQuery { name: Some(exchange.as_bytes()) });
                Question::Exchange
            }
            Request::QueryQueue { queue } => {
                batch.ask_last(QueueQuery { queue: Some(queue.as_bytes()) });
                Question::Queue
            }
            Request::QueryBinding(query) => batch.query_binding(query),
            Request::Bind(binding) => batch.bind(binding),
            Request::Unbind(binding) => batch.last(ExchangeUnbind {
                queue: Some(binding.destination.as_bytes()),
                exchange: Some(binding.source.as_bytes()),
                binding_key: Some(binding.routing_key.as_bytes()),
            }),
            Request::Qos { prefetch_count, .. } => {
                batch.state.prefetch = *prefetch_count;
                batch.nothing()
            }
            Request::Consume { queue, options } => batch.consume(queue, options),
            Request::Cancel { consumer_tag } => {
                if batch.state.consumers.remove(consumer_tag) {
                    batch.last(MessageCancel { destination: Some(consumer_tag.as_bytes()) })
                } else {
                    batch.nothing()
                }
            }
            Request::Get { queue, no_ack } => batch.get(queue, *no_ack),
            Request::Recover => {
                batch.state.release_all(batch.out);
                batch.nothing()
            }
            // Publishes are always completed.
            Request::SelectConfirms => batch.nothing(),
            Request::SelectTx => batch.last(TxSelect {}),
            Request::CommitTx => batch.last(TxCommit {}),
            Request::RollbackTx => batch.last(TxRollback {}),
            Request::Branch(request) => batch.branch(request),
        };
        batch.end(question);
        Ok(())
    }
}

/// Refuses what the protocol has no command for.
fn check(request: &Request) -> Result<(), Error> {
    match request {
        Request::DeclareExchange { options, .. } if options.internal => {
            Err(Error::Unsupported("AMQP 0-10 has no internal exchanges"))
        }
        Request::Bind(binding) | Request::Unbind(binding) if binding.kind == Destination::Exchange => {
            Err(Error::Unsupported("AMQP 0-10 has no bindings between exchanges"))
        }
        Request::Qos { global: true, prefetch_count: 1.. } => {
            Err(Error::Unsupported("AMQP 0-10 bounds the deliveries of a consumer, not of a channel"))
        }
        _ => Ok(()),
    }
}

/// The commands of one request.
struct Batch<'s, 'o> {
    state: &'s mut State,
    out: &'o mut Output,
    asking: Option<SequenceNo>,
}

impl Batch<'_, '_> {
    fn command<'a>(&mut self, command: impl Into<Command<'a>>) -> SequenceNo {
        self.out.command(self.state.channel, false, command);
        self.state.sending.sent(Sent::Plain)
    }

    /// A command whose result is wanted.
    fn ask<'a>(&mut self, command: impl Into<Command<'a>>) {
        let id = self.command(command);
        self.asking = Some(id);
    }

    /// The last command, whose completion is wanted at once.
    fn last<'a>(&mut self, command: impl Into<Command<'a>>) -> Question {
        self.out.command(self.state.channel, true, command);
        Question::Done
    }

    /// The last command, whose result is wanted too.
    fn ask_last<'a>(&mut self, command: impl Into<Command<'a>>) {
        self.last(command);
        self.asking = Some(self.state.sending.next());
    }

    /// The last command where none is needed.
    fn nothing(&mut self) -> Question {
        self.last(ExecutionSync {})
    }

    /// After the last command.
    fn end(self, question: Question) {
        let last = self.state.sending.sent(Sent::Last);
        self.state.sending.requested(last, self.asking, question);
    }

    fn declare_exchange(&mut self, exchange: &str, options: &ExchangeOptions, passive: bool) -> Question {
        let (arguments, alternate) = arguments(&options.arguments);
        self.last(ExchangeDeclare {
            exchange: Some(exchange.as_bytes()),
            type_: Some(options.kind.as_bytes()),
            alternate_exchange: alternate.as_ref().map(Name::as_bytes),
            passive,
            durable: options.durable,
            auto_delete: options.auto_delete,
            arguments: map(&arguments),
        })
    }

    /// The name of a queue is the client's to choose.
    fn declare_queue(
        &mut self,
        queue: &str,
        options: &QueueOptions,
        passive: bool,
        unique: &str,
    ) -> Question {
        let queue = match queue {
            "" => format!("fulmar.gen-{unique}-{}-{}", self.state.channel, self.state.sending.next().0),
            queue => queue.to_owned(),
        };
        let (arguments, alternate) = arguments(&options.arguments);
        self.command(QueueDeclare {
            queue: Some(queue.as_bytes()),
            alternate_exchange: alternate.as_ref().map(Name::as_bytes),
            passive,
            durable: options.durable,
            exclusive: options.exclusive,
            auto_delete: options.auto_delete,
            arguments: map(&arguments),
        });
        self.ask_last(QueueQuery { queue: Some(queue.as_bytes()) });
        Question::Declared(queue)
    }

    fn query_binding(&mut self, query: &BindingQuery) -> Question {
        let mut encoded = Vec::new();
        if let Some(table) = &query.arguments {
            encode_table(table, &mut encoded);
        }
        self.ask_last(ExchangeBound {
            exchange: Some(query.exchange.as_bytes()),
            queue: query.queue.as_ref().map(String::as_bytes),
            binding_key: query.routing_key.as_ref().map(String::as_bytes),
            arguments: query.arguments.is_some().then_some(MapRef::new(&encoded)),
        });
        Question::Binding
    }

    fn bind(&mut self, binding: &Binding) -> Question {
        let (arguments, _) = arguments(&binding.arguments);
        self.last(ExchangeBind {
            queue: Some(binding.destination.as_bytes()),
            exchange: Some(binding.source.as_bytes()),
            binding_key: Some(binding.routing_key.as_bytes()),
            arguments: map(&arguments),
        })
    }

    /// With acknowledgements and a prefetch, a window of so many messages: it moves on as they are settled. Otherwise
    /// credit without end.
    fn consume(&mut self, queue: &str, options: &ConsumeOptions) -> Question {
        let (arguments, _) = arguments(&options.arguments);
        let destination = Some(options.consumer_tag.as_bytes());
        self.command(MessageSubscribe {
            queue: Some(queue.as_bytes()),
            destination,
            accept_mode: Some(if options.no_ack { AcceptMode::None } else { AcceptMode::Explicit }),
            acquire_mode: Some(if options.browse {
                AcquireMode::NotAcquired
            } else {
                AcquireMode::PreAcquired
            }),
            exclusive: options.exclusive,
            resume_id: None,
            resume_ttl: None,
            arguments: map(&arguments),
        });
        let (mode, messages) = match self.state.prefetch {
            0 => (FlowMode::Credit, UNLIMITED),
            _ if options.no_ack => (FlowMode::Credit, UNLIMITED),
            prefetch => (FlowMode::Window, prefetch.into()),
        };
        self.state.consumers.insert(options.consumer_tag.clone());
        self.command(MessageSetFlowMode { destination, flow_mode: Some(mode) });
        self.flow(destination, CreditUnit::Byte, UNLIMITED);
        self.last(MessageFlow { destination, unit: Some(CreditUnit::Message), value: Some(messages) })
    }

    fn flow(&mut self, destination: Option<&[u8]>, unit: CreditUnit, value: u32) {
        self.command(MessageFlow { destination, unit: Some(unit), value: Some(value) });
    }

    fn branch(&mut self, request: &BranchRequest) -> Question {
        match request {
            BranchRequest::Select => return self.last(DtxSelect {}),
            BranchRequest::Forget(xid) => return self.last(DtxForget { xid: wire(xid) }),
            BranchRequest::SetTimeout(xid, seconds) => {
                return self.last(DtxSetTimeout { xid: wire(xid), timeout: Some(*seconds) });
            }
            BranchRequest::Recover => {
                self.ask_last(DtxRecover {});
                return Question::Branches;
            }
            BranchRequest::Timeout(xid) => {
                self.ask_last(DtxGetTimeout { xid: wire(xid) });
                return Question::BranchTimeout;
            }
            BranchRequest::Start(xid, start) => self.ask_last(DtxStart {
                xid: wire(xid),
                join: *start == BranchStart::Join,
                resume: *start == BranchStart::Resume,
            }),
            BranchRequest::End(xid, end) => self.ask_last(DtxEnd {
                xid: wire(xid),
                fail: *end == BranchEnd::Fail,
                suspend: *end == BranchEnd::Suspend,
            }),
            BranchRequest::Prepare(xid) => self.ask_last(DtxPrepare { xid: wire(xid) }),
            BranchRequest::Commit(xid, phases) => {
                self.ask_last(DtxCommit { xid: wire(xid), one_phase: *phases == Phases::One });
            }
            BranchRequest::Rollback(xid) => self.ask_last(DtxRollback { xid: wire(xid) }),
        }
        Question::Branch
    }

    /// A subscription with credit for one message, flushed and cancelled.
    fn get(&mut self, queue: &str, no_ack: bool) -> Question {
        self.state.fetched += 1;
        let name = format!("fulmar.get-{}", self.state.fetched);
        let destination = Some(name.as_bytes());
        self.command(MessageSubscribe {
            queue: Some(queue.as_bytes()),
            destination,
            accept_mode: Some(if no_ack { AcceptMode::None } else { AcceptMode::Explicit }),
            acquire_mode: Some(AcquireMode::PreAcquired),
            ..MessageSubscribe::default()
        });
        self.command(MessageSetFlowMode { destination, flow_mode: Some(FlowMode::Credit) });
        self.flow(destination, CreditUnit::Byte, UNLIMITED);
        self.flow(destination, CreditUnit::Message, 1);
        self.command(MessageFlush { destination });
        self.command(MessageCancel { destination });
        self.ask_last(QueueQuery { queue: Some(queue.as_bytes()) });
        Question::Get { destination: name, got: None }
    }
}

/// Encoded, and the alternate exchange that was among them.
fn arguments(table: &Table) -> (Vec<u8>, Option<Name>) {
    let mut encoded = Vec::new();
    let alternate = table.get(ALTERNATE_EXCHANGE).and_then(|value| value.as_bytes()).map(Name::from);
    if alternate.is_some() {
        let mut rest = table.clone();
        rest.remove(ALTERNATE_EXCHANGE);
        if !rest.is_empty() {
            encode_table(&rest, &mut encoded);
        }
    } else if !table.is_empty() {
        encode_table(table, &mut encoded);
    }
    (encoded, alternate)
}

fn wire(xid: &Xid) -> Option<WireXid<'_>> {
    let (format, global_id, branch_id) = (xid.format(), xid.global_id(), xid.branch_id());
    Some(WireXid { format: Some(format), global_id: Some(global_id), branch_id: Some(branch_id) })
}

fn map(encoded: &[u8]) -> Option<MapRef<'_>> {
    (!encoded.is_empty()).then_some(MapRef::new(encoded))
}
