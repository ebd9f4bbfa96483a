//! The state that handles and the driver share: what is open, who waits for what, what to restore after a
//! reconnection. Every call is short and under one lock; nothing here waits.
//!
//! 1. Replies go to requests in the order in which these were written, channel by channel.
//! 2. Whoever waits gets an answer: the broker's, or the error that ended the channel or the connection.
//! 3. A delivery is settled over the connection that it came by, or not at all.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{Notify, broadcast, mpsc, oneshot};

use crate::carrier::FrameLimit;
use crate::confirms::{Confirms, Slot};
use crate::engine::{self, Engine, Event};
use crate::message::{Message, Publish, Returned};
use crate::request::{BranchRequest, Reply, Request, Settle};
use crate::topology::Topology;
use crate::{ConnectionEvent, Error, Options, Unconfirmed};

/// What handles and the driver share.
pub(crate) struct Shared {
    pub options: Options,
    state: Mutex<State>,
    /// Wakes the driver: there is output, or room for input.
    pub wake: Notify,
    /// Wakes handles that wait for room, for the connection, or for confirms.
    pub changed: Notify,
    pub events: broadcast::Sender<ConnectionEvent>,
    /// Bytes of deliveries that the application has not taken.
    received_bytes: AtomicUsize,
    /// The longest frame that the stream carries.
    pub frame_limit: FrameLimit,
}

/// Where the connection stands, seen from the handles.
#[derive(Clone, Debug)]
pub(crate) enum Phase {
    /// No connection, or one that is being set up.
    Down,
    Ready,
    Closed(Error),
}

pub(crate) struct State {
    pub engine: Box<dyn Engine>,
    pub phase: Phase,
    /// Counts connections, so that deliveries know theirs.
    pub epoch: u64,
    /// Bytes that the driver has taken and not yet sent.
    pub in_flight_bytes: usize,
    /// The application wants the end.
    pub closing: bool,
    blocked: bool,
    channels: BTreeMap<u16, ChannelState>,
    pub topology: Topology,
}

/// A channel, from its opening until its handle is gone.
#[derive(Default)]
struct ChannelState {
    /// Why it is of no more use.
    closed: Option<Error>,
    /// The handle is gone; the number is free when the broker has answered.
    abandoned: bool,
    requests: VecDeque<Pending>,
    consumers: HashMap<String, ConsumerState>,
    confirms: Option<Confirms>,
    transactional: bool,
    /// It may work for branches of distributed transactions, and is not restored: what it goes on to publish would miss
    /// its branch.
    has_branches: bool,
    prefetch: Vec<(bool, u16)>,
    stopped_by_flow: bool,
    returns: Option<mpsc::UnboundedSender<Returned>>,
    next_tag: u64,
}

struct Pending {
    request: Request,
    waiter: oneshot::Sender<Result<Reply, Error>>,
}

struct ConsumerState {
    request: Request,
    sender: mpsc::UnboundedSender<Result<Queued, Error>>,
}

/// A delivery that waits for the application; counts towards the receive buffer until it is taken.
pub(crate) struct Queued {
    pub delivery_tag: u64,
    pub redelivered: bool,
    pub epoch: u64,
    message: Option<Message>,
    shared: Arc<Shared>,
}

impl Queued {
    pub(crate) fn take(mut self) -> Message {
        let message = self.message.take().expect("a queued delivery is taken once");
        self.shared.received(message.buffered_bytes());
        message
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        if let Some(message) = &self.message {
            self.shared.received(message.buffered_bytes());
        }
    }
}

impl Shared {
    pub(crate) fn new(options: Options, frame_limit: FrameLimit) -> Self {
        let engine = engine::engine(&options, Instant::now());
        Shared {
            options,
            state: Mutex::new(State {
                engine,
                phase: Phase::Down,
                epoch: 0,
                in_flight_bytes: 0,
                closing: false,
                blocked: false,
                channels: BTreeMap::new(),
                topology: Topology::default(),
            }),
            wake: Notify::new(),
            changed: Notify::new(),
            events: broadcast::channel(64).0,
            received_bytes: AtomicUsize::new(0),
            frame_limit,
        }
    }

    /// The state. A panic under the lock would be a bug of this crate; the state is still what it was.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the application has taken enough of what came to receive more.
    pub(crate) fn has_room(&self) -> bool {
        self.received_bytes.load(Ordering::Relaxed) < self.options.receive_buffer_bytes
    }

    /// The application took a delivery of this size.
    fn received(&self, bytes: usize) {
        let before = self.received_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let limit = self.options.receive_buffer_bytes;
        if before >= limit && before - bytes < limit {
            self.wake.notify_one();
        }
    }

    /// Tries `attempt` whenever something has changed, until it has a result.
    pub(crate) async fn until<T>(
        &self,
        mut attempt: impl FnMut(&mut State) -> Option<Result<T, Error>>,
    ) -> Result<T, Error> {
        // Most of the time there is nothing to wait for.
        if let Some(result) = attempt(&mut self.lock()) {
            return result;
        }
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // Listens before looking again, so that no change between the two is missed.
            changed.as_mut().enable();
            if let Some(result) = attempt(&mut self.lock()) {
                return result;
            }
            changed.await;
        }
    }

    /// Writes a request when the connection is ready, and waits for the reply.
    pub(crate) async fn call(&self, channel: u16, request: Request) -> Result<Reply, Error> {
        let mut request = Some(request);
        let receiver = self
            .until(|state| {
                match &state.phase {
                    Phase::Down => return None,
                    Phase::Closed(error) => return Some(Err(error.clone())),
                    Phase::Ready => {}
                }
                if !state.engine.is_open() {
                    // The broker has closed it; the driver will say what follows.
                    return state.closing.then_some(Err(Error::Closed));
                }
                let request = request.take()?;
                Some(state.request(channel, request))
            })
            .await?;
        self.wake.notify_one();
        receiver.await.unwrap_or(Err(Error::Closed))
    }

    /// Writes a request over a connection that is being restored, and waits for the reply.
    pub(crate) async fn call_while_down(&self, channel: u16, request: Request) -> Result<Reply, Error> {
        let receiver = self.lock().request(channel, request)?;
        self.wake.notify_one();
        receiver.await.unwrap_or(Err(Error::Closed))
    }

    /// Publishes as soon as there is room.
    pub(crate) async fn publish(
        &self,
        channel: u16,
        publish: &Publish<'_>,
        mut waiter: Option<oneshot::Sender<Result<(), Error>>>,
    ) -> Result<(), Error> {
        self.until(|state| state.publish(&self.options, channel, publish, &mut waiter)).await?;
        self.wake.notify_one();
        Ok(())
    }

    /// Hands events to those whom they concern.
    pub(crate) fn dispatch(
        self: &Arc<Self>,
        state: &mut State,
        events: &mut Vec<Event>,
    ) -> Option<Dispatched> {
        let mut result = None;
        let mut changed = false;
        for event in events.drain(..) {
            match event {
                Event::Connected => result = Some(Dispatched::Connected),
                Event::Closed(reason) => result = Some(Dispatched::Closed(reason)),
                Event::Blocked(reason) => {
                    state.blocked = reason.is_some();
                    let event = reason.map_or(ConnectionEvent::Unblocked, ConnectionEvent::Blocked);
                    let _ = self.events.send(event);
                    changed = true;
                }
                Event::Delivered { channel, delivery_tag, redelivered, message } => {
                    self.received_bytes.fetch_add(message.buffered_bytes(), Ordering::Relaxed);
                    let queued = Queued {
                        delivery_tag,
                        redelivered,
                        epoch: state.epoch,
                        message: Some(message),
                        shared: self.clone(),
                    };
                    state.deliver(channel, queued);
                }
                other => {
                    state.channel_event(other);
                    changed = true;
                }
            }
        }
        if changed {
            self.changed.notify_waiters();
        }
        result
    }
}

/// What dispatching found for the driver.
pub(crate) enum Dispatched {
    Connected,
    Closed(Result<(), Error>),
}

impl State {
    /// Takes the lowest free channel number. The channel is opened by a request.
    pub(crate) fn allocate_channel(&mut self) -> Result<u16, Error> {
        let max = self.engine.channel_max();
        let free = (1..=max).find(|channel| !self.channels.contains_key(channel));
        let channel = free.ok_or(Error::NoChannelLeft(max))?;
        self.channels.insert(channel, ChannelState::default());
        Ok(channel)
    }

    /// The handle of a channel is gone.
    pub(crate) fn abandon_channel(&mut self, channel: u16) {
        let ready = matches!(self.phase, Phase::Ready) && self.engine.is_open();
        let Some(state) = self.channels.get_mut(&channel) else { return };
        let closing = state.requests.iter().any(|pending| pending.request == Request::CloseChannel);
        if state.closed.is_none() && ready && !closing {
            state.abandoned = true;
            state
                .requests
                .push_back(Pending { request: Request::CloseChannel, waiter: oneshot::channel().0 });
            // Every protocol has that one.
            let _ = self.engine.request(channel, &Request::CloseChannel);
        } else if closing {
            state.abandoned = true;
        } else {
            self.channels.remove(&channel);
        }
    }

    fn open_channel(&mut self, channel: u16) -> Result<&mut ChannelState, Error> {
        let state = self.channels.get_mut(&channel).ok_or(Error::Closed)?;
        match &state.closed {
            None => Ok(state),
            Some(error) => Err(error.clone()),
        }
    }

    /// Writes a request and notes who waits for its reply.
    pub(crate) fn request(
        &mut self,
        channel: u16,
        request: Request,
    ) -> Result<oneshot::Receiver<Result<Reply, Error>>, Error> {
        if !self.engine.is_open() {
            return Err(Error::ConnectionLost("it is closing".into()));
        }
        self.open_channel(channel)?;
        self.engine.request(channel, &request)?;
        let (waiter, receiver) = oneshot::channel();
        self.open_channel(channel)?.requests.push_back(Pending { request, waiter });
        Ok(receiver)
    }

    /// A tag that no consumer of the channel has.
    pub(crate) fn next_consumer_tag(&mut self, channel: u16) -> Result<String, Error> {
        let state = self.open_channel(channel)?;
        state.next_tag += 1;
        Ok(format!("ctag{channel}.{}", state.next_tag))
    }

    /// Notes a consumer before its request is written, so that no delivery comes too early.
    pub(crate) fn add_consumer(
        &mut self,
        channel: u16,
        consumer_tag: &str,
        request: Request,
        sender: mpsc::UnboundedSender<Result<Queued, Error>>,
    ) -> Result<(), Error> {
        let state = self.open_channel(channel)?;
        if state.consumers.contains_key(consumer_tag) {
            return Err(Error::Argument(format!("the channel has a consumer {consumer_tag:?} already")));
        }
        state.consumers.insert(consumer_tag.to_owned(), ConsumerState { request, sender });
        Ok(())
    }

    /// Forgets a consumer; what was delivered to it and not taken stays unsettled until the channel closes.
    pub(crate) fn remove_consumer(&mut self, channel: u16, consumer_tag: &str) -> bool {
        self.channels.get_mut(&channel).is_some_and(|state| state.consumers.remove(consumer_tag).is_some())
    }

    /// Where returned messages of the channel go from now on.
    pub(crate) fn set_returns(
        &mut self,
        channel: u16,
        sender: mpsc::UnboundedSender<Returned>,
    ) -> Result<(), Error> {
        self.open_channel(channel)?.returns = Some(sender);
        Ok(())
    }

    /// Whether the channel confirms publishes.
    pub(crate) fn confirms(&mut self, channel: u16) -> Result<Option<&mut Confirms>, Error> {
        Ok(self.open_channel(channel)?.confirms.as_mut())
    }

    /// Settles a delivery.
    pub(crate) fn settle(
        &mut self,
        channel: u16,
        epoch: u64,
        delivery_tag: u64,
        settle: Settle,
    ) -> Result<(), Error> {
        if let Phase::Closed(error) = &self.phase {
            return Err(error.clone());
        }
        self.open_channel(channel)?;
        if epoch != self.epoch || !self.engine.is_open() {
            return Err(Error::StaleDelivery);
        }
        self.engine.settle(channel, delivery_tag, settle);
        Ok(())
    }

    /// Writes a message if there is room; `None` to try again after a change.
    fn publish(
        &mut self,
        options: &Options,
        channel: u16,
        publish: &Publish<'_>,
        waiter: &mut Option<oneshot::Sender<Result<(), Error>>>,
    ) -> Option<Result<(), Error>> {
        match &self.phase {
            Phase::Down => return None,
            Phase::Closed(error) => return Some(Err(error.clone())),
            Phase::Ready => {}
        }
        if !self.engine.is_open() {
            // The broker has closed it; the driver will say what follows.
            return self.closing.then_some(Err(Error::Closed));
        }
        let waiting_bytes = self.engine.output_bytes() + self.in_flight_bytes;
        let full = self.blocked || waiting_bytes > options.send_buffer_bytes;
        let unanswered = self.engine.unanswered(channel);
        let state = match self.open_channel(channel) {
            Ok(state) => state,
            Err(error) => return Some(Err(error)),
        };
        let unconfirmed = state.confirms.as_ref().map_or(0, Confirms::open).max(unanswered);
        if full || state.stopped_by_flow || unconfirmed >= options.max_unconfirmed {
            return None;
        }
        let confirming = state.confirms.is_some();
        if waiter.is_some() && !confirming {
            return Some(Err(Error::WrongMode(
                "the channel does not confirm publishes; enable confirms first",
            )));
        }
        let start = self.engine.output().len();
        self.engine.publish(channel, publish);
        if confirming {
            let keep = options.reconnect.as_ref().is_some_and(|r| r.unconfirmed == Unconfirmed::Resend);
            let frames = if keep { self.engine.output()[start..].into() } else { Box::default() };
            if let Some(confirms) = self.channels.get_mut(&channel).and_then(|state| state.confirms.as_mut())
            {
                confirms.push(Slot { waiter: waiter.take(), frames });
            }
        }
        Some(Ok(()))
    }

    fn deliver(&mut self, channel: u16, queued: Queued) {
        let Some(message) = &queued.message else { return };
        let consumer = std::str::from_utf8(message.consumer_tag())
            .ok()
            .and_then(|tag| self.channels.get(&channel)?.consumers.get(tag));
        if let Some(consumer) = consumer {
            // A consumer that has just gone: the delivery stays unsettled, as the specification wants it.
            let _ = consumer.sender.send(Ok(queued));
        }
    }

    fn channel_event(&mut self, event: Event) {
        match event {
            Event::Reply { channel, reply } => self.reply(channel, reply),
            Event::ChannelClosed { channel, error } => {
                let Some(state) = self.channels.get_mut(&channel) else { return };
                state.end(&error);
                if state.abandoned {
                    self.channels.remove(&channel);
                }
            }
            Event::Returned { channel, code, text, message } => {
                if let Some(returns) = self.channels.get(&channel).and_then(|state| state.returns.as_ref()) {
                    let _ = returns.send(Returned { code, text, message });
                }
            }
            Event::Confirmed { channel, sequence, multiple, acked } => {
                if let Some(confirms) =
                    self.channels.get_mut(&channel).and_then(|state| state.confirms.as_mut())
                {
                    confirms.settle(sequence, multiple, acked);
                }
            }
            Event::ConsumerCancelled { channel, consumer_tag } => {
                let Some(state) = self.channels.get_mut(&channel) else { return };
                if let Some(consumer) = state.consumers.remove(&consumer_tag) {
                    let _ = consumer.sender.send(Err(Error::Cancelled));
                    if let Request::Consume { queue, .. } = &consumer.request {
                        self.topology.forget_queue(queue);
                    }
                }
            }
            Event::Flow { channel, active } => {
                if let Some(state) = self.channels.get_mut(&channel) {
                    state.stopped_by_flow = !active;
                }
            }
            Event::Connected | Event::Closed(_) | Event::Blocked(_) | Event::Delivered { .. } => {
                unreachable!("handled where events are dispatched")
            }
        }
    }

    fn reply(&mut self, channel: u16, reply: Reply) {
        let Some(state) = self.channels.get_mut(&channel) else { return };
        let Some(Pending { request, waiter }) = state.requests.pop_front() else { return };
        match &request {
            Request::CloseChannel => {
                state.end(&Error::Closed);
                if state.abandoned {
                    self.channels.remove(&channel);
                }
            }
            // Once more over a restored connection, where the numbering is already in place.
            Request::SelectConfirms => {
                state.confirms.get_or_insert_with(Confirms::new);
            }
            Request::SelectTx => state.transactional = true,
            Request::Branch(BranchRequest::Select) => state.has_branches = true,
            Request::Qos { prefetch_count, global } => {
                state.prefetch.retain(|(known, _)| known != global);
                state.prefetch.push((*global, *prefetch_count));
            }
            _ => self.topology.record(&request, &reply),
        }
        // The caller may have lost interest.
        let _ = waiter.send(Ok(reply));
    }

    /// The connection broke: nothing written over it will be answered. What can be restored is kept.
    pub(crate) fn connection_lost(&mut self, options: &Options, error: &Error) {
        self.phase = Phase::Down;
        self.blocked = false;
        self.in_flight_bytes = 0;
        self.channels.retain(|_, state| !state.abandoned);
        let keep = options.reconnect.as_ref().is_some_and(|r| r.unconfirmed == Unconfirmed::Resend);
        for state in self.channels.values_mut() {
            state.stopped_by_flow = false;
            let opening = state.requests.front().is_some_and(|p| p.request == Request::OpenChannel);
            let closing = state.requests.iter().any(|p| p.request == Request::CloseChannel);
            for pending in state.requests.drain(..) {
                if let Request::Consume { options, .. } = &pending.request {
                    state.consumers.remove(&options.consumer_tag);
                }
                let _ = pending.waiter.send(Err(error.clone()));
            }
            if !keep && let Some(confirms) = &mut state.confirms {
                confirms.fail_all(error);
            }
            if opening || closing || state.has_branches {
                state.end(error);
            }
        }
    }

    /// The connection is over for good.
    pub(crate) fn connection_closed(&mut self, error: &Error) {
        self.phase = Phase::Closed(error.clone());
        for state in self.channels.values_mut() {
            state.end(error);
        }
    }

    /// Channels to open again, with the requests that bring each back to where it was, consumers last.
    pub(crate) fn restorable_channels(&self) -> Vec<(u16, Vec<Request>)> {
        let open = self.channels.iter().filter(|(_, state)| state.closed.is_none());
        open.map(|(&channel, state)| {
            let mut requests = vec![Request::OpenChannel];
            requests.extend(state.confirms.is_some().then_some(Request::SelectConfirms));
            requests.extend(state.transactional.then_some(Request::SelectTx));
            let qos = |&(global, prefetch_count)| Request::Qos { prefetch_count, global };
            requests.extend(state.prefetch.iter().map(qos));
            requests.extend(state.consumers.values().map(|consumer| consumer.request.clone()));
            (channel, requests)
        })
        .collect()
    }

    /// A queue got a new name: its consumers and bindings follow.
    pub(crate) fn rename_queue(&mut self, old: &str, new: &str) {
        self.topology.rename_queue(old, new);
        for consumer in self.channels.values_mut().flat_map(|state| state.consumers.values_mut()) {
            if let Request::Consume { queue, .. } = &mut consumer.request
                && queue == old
            {
                *queue = new.to_owned();
            }
        }
    }

    /// A channel could not be restored.
    pub(crate) fn end_channel(&mut self, channel: u16, error: &Error) {
        if let Some(state) = self.channels.get_mut(&channel) {
            state.end(error);
        }
    }

    /// The channels are restored: sends again what is unconfirmed, and lets the handles go on.
    pub(crate) fn ready(&mut self) {
        for (&channel, state) in self.channels.iter_mut().filter(|(_, state)| state.closed.is_none()) {
            for frames in state.confirms.iter_mut().flat_map(Confirms::renumber) {
                self.engine.publish_again(channel, frames);
            }
        }
        self.phase = Phase::Ready;
    }
}

impl ChannelState {
    /// The channel is of no more use: whoever waits learns why.
    fn end(&mut self, error: &Error) {
        if self.closed.is_some() {
            return;
        }
        self.closed = Some(error.clone());
        for pending in self.requests.drain(..) {
            let _ = pending.waiter.send(Err(error.clone()));
        }
        for (_, consumer) in self.consumers.drain() {
            // In an orderly end the receivers just run dry.
            if !matches!(error, Error::Closed) {
                let _ = consumer.sender.send(Err(error.clone()));
            }
        }
        if let Some(confirms) = &mut self.confirms {
            confirms.fail_all(error);
        }
        self.returns = None;
    }
}
