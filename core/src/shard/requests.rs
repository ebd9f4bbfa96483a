//! Requests of this shard's sessions: answered here, sent to a queue's home, or sent to the control shard.

use super::Shard;
use super::control::Planning;
use super::envelope::{Ask, Letter, PlanRequest, Query};
use super::moving::Taking;
use super::sessions::Outstanding;
use crate::mesh::Lane;
use crate::request::Rules;
use crate::topology::QueueEntry;
use crate::{ConnectionId, Name, QueueId, Refusal, Reply, Request, SessionId, ShardId, VhostId};

impl Shard {
    /// Carries out a request, whether the client may do that or not: what the broker does for it. `None`: the answer comes
    /// as [`Output::Reply`](super::Output::Reply), and the session waits until then.
    pub fn request_unasked(&mut self, id: SessionId, request: Request) -> Option<Result<Reply, Refusal>> {
        let session = self.sessions.get(id.index, id.generation)?;
        let (connection, rules) = (session.connection, session.rules);
        match request {
            Request::DeclareExchange { vhost, name, passive: true, options } => {
                let checked = self.topology.check_exchange(vhost, &name, &options, rules);
                Some(checked.map(|()| Reply::Done))
            }
            Request::DeclareQueue { vhost, name, passive: true, .. } => {
                let queue = self.resolve(connection, vhost, &name);
                self.ask(id, queue.map(|queue| Ask::Counts { queue, name, passive: true }))
            }
            Request::DeleteQueue { vhost, name, if_unused, if_empty } => {
                match self.resolve(connection, vhost, &name) {
                    // Deleting what is not there has nothing to do.
                    Err(Refusal::NoQueue(_)) if rules == Rules::Amqp091 => Some(Ok(Reply::Messages(0))),
                    queue => {
                        self.ask(id, queue.map(|queue| Ask::Delete { queue, name, if_unused, if_empty }))
                    }
                }
            }
            Request::PurgeQueue { vhost, name } => {
                let queue = match rules {
                    Rules::Amqp091 => self.resolve(connection, vhost, &name),
                    Rules::Amqp010 => self.resolve_any(vhost, &name),
                };
                self.ask(id, queue.map(|queue| Ask::Purge { queue, name }))
            }
            Request::MoveMessages { vhost, queue, to, most, filter } => {
                let resolved = self.resolve_move(connection, vhost, &queue, to);
                let taking = |goal| Box::new(Taking { goal, most, filter });
                self.ask(id, resolved.map(|(queue, goal)| Ask::Move { queue, taking: taking(goal) }))
            }
            Request::Get { vhost, queue: name, no_ack } => {
                let queue = self.resolve(connection, vhost, &name);
                self.ask(id, queue.map(|queue| Ask::Get { queue, name, no_ack }))
            }
            Request::Subscribe { vhost, queue: name, consumer, mut options } => {
                let resolved = match options.browse {
                    true => self.resolve_any(vhost, &name),
                    false => self.resolve(connection, vhost, &name),
                };
                let queue = match resolved {
                    Ok(queue) => queue,
                    Err(refusal) => return Some(Err(refusal)),
                };
                let session = self.session_mut(id)?;
                if session.subscription(consumer).is_some() {
                    return Some(Err(Refusal::Consumer(consumer)));
                }
                options.prefetch = session.subscribed(consumer, queue, options.prefetch);
                session.outstanding = Outstanding::Subscribe { consumer, queue };
                let (options, client) = (Box::new(options), session.client);
                self.ask(id, Ok(Ask::Subscribe { queue, name, connection, client, consumer, options }))
            }
            Request::Cancel { consumer } => self.cancel(id, consumer),
            Request::StopConsumer { consumer } => {
                self.end_credit(id, consumer, |queue| Ask::Stop { queue, consumer })
            }
            Request::FlushConsumer { consumer } => {
                self.end_credit(id, consumer, |queue| Ask::Flush { queue, consumer })
            }
            Request::Acquire { queue, tags } => {
                self.ask(id, Ok(Ask::Acquire { queue, tags, acquired: Vec::new() }))
            }
            Request::Barrier => self.barrier(id),
            Request::QueryExchange { vhost, name } => {
                let entry = self.topology.exchange_entry(vhost, name.as_bytes());
                Some(Ok(Reply::Exchange(entry.cloned())))
            }
            Request::QueryQueue { vhost, name } => {
                match self.topology.queue(vhost, name.as_bytes()).map(|entry| entry.id) {
                    Some(queue) => self.ask(id, Ok(Ask::Info { queue })),
                    None => Some(Ok(Reply::Queue(None))),
                }
            }
            Request::QueryBinding { vhost, exchange, queue, key, arguments } => {
                let (queue, key, arguments) = (queue.as_ref(), key.as_ref(), arguments.as_ref());
                let info = self.topology.binding_info(vhost, &exchange, queue, key, arguments);
                Some(Ok(Reply::Binding(info)))
            }
            Request::Commit => self.commit_transaction(id),
            Request::Dtx { vhost, xid, command } => self.command_branch(id, vhost, xid, command),
            Request::RecoverDtx { vhost } => self.recover_branches(id, vhost),
            change @ (Request::DeclareExchange { .. }
            | Request::DeclareQueue { .. }
            | Request::DeleteExchange { .. }
            | Request::RedirectQueue { .. }
            | Request::Bind { .. }
            | Request::Unbind { .. }) => {
                let plan = PlanRequest { session: id, connection, rules, request: change };
                self.change_topology(plan)
            }
        }
    }

    /// An answer from another shard.
    pub(super) fn answered(&mut self, id: SessionId, result: Result<Reply, Refusal>) {
        if self.session_mut(id).is_none() {
            return self.give_back_reply(result);
        }
        if !self.note_answer(id, &result) {
            return;
        }
        self.tell_reply(id, result);
    }

    /// The control shard has decided, and every shard knows.
    pub(super) fn planned(&mut self, id: SessionId, result: Result<Option<QueueId>, Refusal>) {
        if self.session_mut(id).is_none() {
            return;
        }
        if let Some(result) = self.after_plan(id, result) {
            self.tell_reply(id, result);
        }
    }

    /// What is left of a request when the topology has changed: the counts of a declared queue.
    fn after_plan(
        &mut self,
        id: SessionId,
        result: Result<Option<QueueId>, Refusal>,
    ) -> Option<Result<Reply, Refusal>> {
        match result {
            Ok(Some(queue)) => {
                let entry = self.topology.queue_by_id(queue);
                let name = entry.map(|entry| entry.name.clone()).unwrap_or_default();
                self.ask(id, Ok(Ask::Counts { queue, name, passive: false }))
            }
            Ok(None) => Some(Ok(Reply::Done)),
            Err(refusal) => Some(Err(refusal)),
        }
    }

    fn change_topology(&mut self, plan: PlanRequest) -> Option<Result<Reply, Refusal>> {
        if self.config.id != ShardId::CONTROL {
            self.send(ShardId::CONTROL, Lane::Control, Letter::Plan(Box::new(plan)));
            return None;
        }
        match self.plan(&plan) {
            Planning::Done(result) => self.after_plan(plan.session, result),
            Planning::Waiting => None,
        }
    }

    fn cancel(&mut self, id: SessionId, consumer: u32) -> Option<Result<Reply, Refusal>> {
        let session = self.session_mut(id)?;
        let Some(queue) = session.subscription(consumer) else {
            return Some(Err(Refusal::Consumer(consumer)));
        };
        session.unsubscribed(consumer, queue);
        session.outstanding = Outstanding::Cancel { consumer };
        let answer = self.ask(id, Ok(Ask::Cancel { queue, consumer }))?;
        self.behind_deliveries(id, consumer, answer)
    }

    /// Asks for the end of a consumer's credit. What is granted from now on waits for the answer.
    fn end_credit(
        &mut self,
        id: SessionId,
        consumer: u32,
        ask: impl FnOnce(QueueId) -> Ask,
    ) -> Option<Result<Reply, Refusal>> {
        let session = self.session_mut(id)?;
        let Some(queue) = session.subscription(consumer) else {
            return Some(Err(Refusal::Consumer(consumer)));
        };
        session.outstanding = Outstanding::EndCredit { consumer };
        let answer = self.ask(id, Ok(ask(queue)))?;
        self.behind_deliveries(id, consumer, answer)
    }

    /// An answer that comes behind deliveries which nobody has taken yet.
    fn behind_deliveries(
        &mut self,
        id: SessionId,
        consumer: u32,
        answer: Result<Reply, Refusal>,
    ) -> Option<Result<Reply, Refusal>> {
        if self.has_deliveries(id, consumer) {
            self.tell_reply(id, answer);
            return None;
        }
        Some(answer)
    }

    fn barrier(&mut self, id: SessionId) -> Option<Result<Reply, Refusal>> {
        let others: Vec<ShardId> = self.config.others().collect();
        if others.is_empty() {
            return Some(Ok(Reply::Done));
        }
        self.session_mut(id)?.outstanding = Outstanding::Barrier { missing: others.len() as u32 };
        for shard in others {
            self.send_query(shard, id, Ask::Barrier);
        }
        None
    }

    /// Asks a queue's home, be it here or elsewhere.
    fn ask(&mut self, id: SessionId, ask: Result<Ask, Refusal>) -> Option<Result<Reply, Refusal>> {
        let ask = match ask {
            Ok(ask) => ask,
            Err(refusal) => return Some(Err(refusal)),
        };
        let home = ask.queue().map_or(self.config.id, |queue| queue.home);
        if home == self.config.id {
            let result = self.ask_home(id, ask)?;
            self.note_answer(id, &result);
            return Some(result);
        }
        self.send_query(home, id, ask);
        None
    }

    pub(super) fn send_query(&mut self, home: ShardId, session: SessionId, ask: Ask) {
        let settles = self.settles_sent[home.index()];
        self.send(home, Lane::Data, Letter::Query(Box::new(Query { session, settles, ask })));
    }

    /// What an answer means for the session itself. `false`: more answers have to come.
    fn note_answer(&mut self, id: SessionId, result: &Result<Reply, Refusal>) -> bool {
        let Some(session) = self.session_mut(id) else { return true };
        match std::mem::replace(&mut session.outstanding, Outstanding::Nothing) {
            Outstanding::Subscribe { consumer, queue } if result.is_err() => {
                session.unsubscribed(consumer, queue);
                self.grant_withheld(id);
            }
            Outstanding::Cancel { consumer } => self.give_back_held(id, consumer),
            Outstanding::Subscribe { .. } | Outstanding::EndCredit { .. } => self.grant_withheld(id),
            Outstanding::Barrier { missing } if missing > 1 => {
                session.outstanding = Outstanding::Barrier { missing: missing - 1 };
                return false;
            }
            Outstanding::HandOver { missing } => {
                if missing > 1 {
                    session.outstanding = Outstanding::HandOver { missing: missing - 1 };
                } else if let Some(result) = self.ask_control(id) {
                    self.tell_reply(id, result);
                }
                return false;
            }
            _ => {}
        }
        true
    }

    /// The queue of that name, if the connection may use it.
    pub(super) fn resolve(
        &self,
        connection: ConnectionId,
        vhost: VhostId,
        name: &Name,
    ) -> Result<QueueId, Refusal> {
        let entry = self.queue_entry(vhost, name.as_bytes());
        let entry = entry.ok_or_else(|| Refusal::NoQueue(name.clone()))?;
        if entry.owner.is_some_and(|owner| owner != connection) {
            return Err(Refusal::ExclusiveToOther(name.clone()));
        }
        Ok(entry.id)
    }

    /// The queue of that name, for who takes nothing from its owner.
    fn resolve_any(&self, vhost: VhostId, name: &Name) -> Result<QueueId, Refusal> {
        let entry = self.queue_entry(vhost, name.as_bytes());
        entry.map(|entry| entry.id).ok_or_else(|| Refusal::NoQueue(name.clone()))
    }

    /// What this shard knows of the queue of that name.
    pub fn queue_entry(&self, vhost: VhostId, name: &[u8]) -> Option<&QueueEntry> {
        self.topology.queue(vhost, name).map(|entry| &**entry)
    }
}
