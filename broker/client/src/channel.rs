//! A channel, as the application holds it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use fulmar_core::Table;
use tokio::sync::{mpsc, oneshot};

use crate::Error;
use crate::connection::{Inner, check_short};
use crate::consumer::{Consumer, Delivery, Returns};
use crate::message::Publish;
use crate::request::{
    Binding, BindingQuery, BindingState, ConsumeOptions, Destination, ExchangeOptions, ExchangeState,
    QueueInfo, QueueOptions, QueueState, Reply, Request,
};
use crate::session::{Phase, Shared};

/// An ordered conversation with the broker; cheap, many share a connection. Clones are the same channel. It closes
/// when the last clone, its consumers and their deliveries are gone.
///
/// Calls may overlap: each is written at once, and the broker answers in order. A refused call closes the channel, as
/// the protocol has it; every later call returns the broker's reason.
#[derive(Clone)]
pub struct Channel {
    handle: Arc<Handle>,
}

/// What keeps a channel open.
pub(crate) struct Handle {
    pub id: u16,
    connection: Arc<Inner>,
}

impl Handle {
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.connection.shared
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Reply, Error> {
        self.shared().call(self.id, request).await
    }

    pub(crate) fn drop_consumer(&self, consumer_tag: &str) {
        let mut state = self.shared().lock();
        if state.remove_consumer(self.id, consumer_tag) && matches!(state.phase, Phase::Ready) {
            let cancel = Request::Cancel { consumer_tag: consumer_tag.to_owned() };
            // On a channel that is closed there is nothing to cancel.
            let _ = state.request(self.id, cancel);
            self.shared().wake.notify_one();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared().lock().abandon_channel(self.id);
        self.shared().wake.notify_one();
    }
}

/// A fetched message, and how many are left in the queue.
#[derive(Debug)]
pub struct Got {
    /// The message.
    pub delivery: Delivery,
    /// Messages left.
    pub remaining: u32,
}

impl Channel {
    pub(crate) fn new(id: u16, connection: Arc<Inner>) -> Self {
        Channel { handle: Arc::new(Handle { id, connection }) }
    }

    /// Its number on the connection.
    pub fn id(&self) -> u16 {
        self.handle.id
    }

    fn shared(&self) -> &Arc<Shared> {
        self.handle.shared()
    }

    pub(crate) async fn call(&self, request: Request) -> Result<Reply, Error> {
        self.handle.call(request).await
    }

    async fn call_queue(&self, request: Request) -> Result<QueueInfo, Error> {
        match self.call(request).await? {
            Reply::Queue(info) => Ok(info),
            other => Err(mismatch(&other)),
        }
    }

    async fn call_count(&self, request: Request) -> Result<u32, Error> {
        match self.call(request).await? {
            Reply::Count(count) => Ok(count),
            other => Err(mismatch(&other)),
        }
    }

    /// Declares an exchange.
    ///
    /// # Errors
    /// The broker's refusal: it exists with other properties, or its type is unknown.
    pub async fn declare_exchange(&self, exchange: &str, options: ExchangeOptions) -> Result<(), Error> {
        check_short("the exchange's name", exchange)?;
        check_short("the exchange's type", &options.kind)?;
        let request = Request::DeclareExchange { exchange: exchange.to_owned(), options, passive: false };
        self.call(request).await.map(drop)
    }

    /// Checks that an exchange exists.
    ///
    /// # Errors
    /// It does not.
    pub async fn check_exchange(&self, exchange: &str) -> Result<(), Error> {
        check_short("the exchange's name", exchange)?;
        let options = ExchangeOptions::new("");
        let request = Request::DeclareExchange { exchange: exchange.to_owned(), options, passive: true };
        self.call(request).await.map(drop)
    }

    /// Deletes an exchange; with `if_unused` only if nothing is bound to it.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn delete_exchange(&self, exchange: &str, if_unused: bool) -> Result<(), Error> {
        check_short("the exchange's name", exchange)?;
        self.call(Request::DeleteExchange { exchange: exchange.to_owned(), if_unused }).await.map(drop)
    }

    /// Declares a queue; without a name the broker chooses one.
    ///
    /// # Errors
    /// The broker's refusal: it exists with other properties, or belongs to another connection.
    pub async fn declare_queue(&self, queue: &str, options: QueueOptions) -> Result<QueueInfo, Error> {
        check_short("the queue's name", queue)?;
        self.call_queue(Request::DeclareQueue { queue: queue.to_owned(), options, passive: false }).await
    }

    /// Looks at a queue that exists.
    ///
    /// # Errors
    /// It does not.
    pub async fn check_queue(&self, queue: &str) -> Result<QueueInfo, Error> {
        check_short("the queue's name", queue)?;
        let options = QueueOptions::default();
        self.call_queue(Request::DeclareQueue { queue: queue.to_owned(), options, passive: true }).await
    }

    /// Deletes a queue; returns how many messages went with it.
    ///
    /// # Errors
    /// The broker's refusal, where a condition does not hold.
    pub async fn delete_queue(&self, queue: &str, if_unused: bool, if_empty: bool) -> Result<u32, Error> {
        check_short("the queue's name", queue)?;
        self.call_count(Request::DeleteQueue { queue: queue.to_owned(), if_unused, if_empty }).await
    }

    /// Removes all messages that are ready from a queue; returns how many.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn purge_queue(&self, queue: &str) -> Result<u32, Error> {
        check_short("the queue's name", queue)?;
        self.call_count(Request::PurgeQueue { queue: queue.to_owned() }).await
    }

    /// Binds a queue to an exchange.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn bind_queue(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: Table,
    ) -> Result<(), Error> {
        let binding = binding(Destination::Queue, queue, exchange, routing_key, arguments)?;
        self.call(Request::Bind(binding)).await.map(drop)
    }

    /// Removes a binding of a queue.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn unbind_queue(
        &self,
        queue: &str,
        exchange: &str,
        routing_key: &str,
        arguments: Table,
    ) -> Result<(), Error> {
        let binding = binding(Destination::Queue, queue, exchange, routing_key, arguments)?;
        self.call(Request::Unbind(binding)).await.map(drop)
    }

    /// Binds an exchange to another: messages go from `source` to `destination`.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn bind_exchange(
        &self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: Table,
    ) -> Result<(), Error> {
        let binding = binding(Destination::Exchange, destination, source, routing_key, arguments)?;
        self.call(Request::Bind(binding)).await.map(drop)
    }

    /// Removes a binding between exchanges.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn unbind_exchange(
        &self,
        destination: &str,
        source: &str,
        routing_key: &str,
        arguments: Table,
    ) -> Result<(), Error> {
        let binding = binding(Destination::Exchange, destination, source, routing_key, arguments)?;
        self.call(Request::Unbind(binding)).await.map(drop)
    }

    /// Asks for a queue; `None` if there is none. AMQP 0-10 alone.
    ///
    /// # Errors
    /// [`Error::Unsupported`], or the broker's refusal.
    pub async fn query_queue(&self, queue: &str) -> Result<Option<QueueState>, Error> {
        check_short("the queue's name", queue)?;
        match self.call(Request::QueryQueue { queue: queue.to_owned() }).await? {
            Reply::QueueState(state) => Ok(state.map(|state| *state)),
            other => Err(mismatch(&other)),
        }
    }

    /// Asks for an exchange; `None` if there is none. AMQP 0-10 alone.
    ///
    /// # Errors
    /// [`Error::Unsupported`], or the broker's refusal.
    pub async fn query_exchange(&self, exchange: &str) -> Result<Option<ExchangeState>, Error> {
        check_short("the exchange's name", exchange)?;
        match self.call(Request::QueryExchange { exchange: exchange.to_owned() }).await? {
            Reply::ExchangeState(state) => Ok(state.map(|state| *state)),
            other => Err(mismatch(&other)),
        }
    }

    /// Asks whether a queue, a key and arguments are among the bindings of an exchange; what is `None` may be anything.
    /// AMQP 0-10 alone.
    ///
    /// # Errors
    /// [`Error::Unsupported`], or the broker's refusal.
    pub async fn query_binding(
        &self,
        exchange: &str,
        queue: Option<&str>,
        routing_key: Option<&str>,
        arguments: Option<Table>,
    ) -> Result<BindingState, Error> {
        self.query_bindings(BindingQuery {
            exchange: exchange.to_owned(),
            queue: queue.map(str::to_owned),
            routing_key: routing_key.map(str::to_owned),
            arguments,
        })
        .await
    }

    pub(crate) async fn query_bindings(&self, query: BindingQuery) -> Result<BindingState, Error> {
        check_short("the exchange's name", &query.exchange)?;
        check_short("the queue's name", query.queue.as_deref().unwrap_or_default())?;
        check_short("the routing key", query.routing_key.as_deref().unwrap_or_default())?;
        match self.call(Request::QueryBinding(query)).await? {
            Reply::BindingState(state) => Ok(state),
            other => Err(mismatch(&other)),
        }
    }

    /// Bounds the unsettled deliveries of each consumer that is made from now on; 0 for no bound.
    ///
    /// # Errors
    /// The end of the channel or connection.
    pub async fn set_prefetch(&self, count: u16) -> Result<(), Error> {
        self.call(Request::Qos { prefetch_count: count, global: false }).await.map(drop)
    }

    /// Bounds the unsettled deliveries of the whole channel; 0 for no bound.
    ///
    /// # Errors
    /// The end of the channel or connection.
    pub async fn set_channel_prefetch(&self, count: u16) -> Result<(), Error> {
        self.call(Request::Qos { prefetch_count: count, global: true }).await.map(drop)
    }

    /// Publishes. Returns when the message is on its way, not when the broker has it; waits only while too much is
    /// waiting to be sent or confirmed, the broker is blocked, or the connection is being made again.
    ///
    /// # Errors
    /// An argument that cannot be sent, or the end of the channel or connection.
    pub async fn publish(&self, publish: &Publish<'_>) -> Result<(), Error> {
        self.check(publish)?;
        self.shared().publish(self.handle.id, publish, None).await
    }

    /// Publishes a body without properties straight to a queue.
    ///
    /// # Errors
    /// As [`Channel::publish`].
    pub async fn publish_to_queue(&self, queue: &str, body: &[u8]) -> Result<(), Error> {
        self.publish(&Publish::to_queue(queue, body)).await
    }

    /// Publishes as [`Channel::publish`] does, and returns what will tell when the broker has taken responsibility for
    /// the message. Confirms must have been enabled.
    ///
    /// ```no_run
    /// # async fn example(channel: fulmar_client::Channel) -> Result<(), fulmar_client::Error> {
    /// use fulmar_client::Publish;
    ///
    /// channel.enable_confirms().await?;
    /// let first = channel.publish_confirmed(&Publish::to_queue("q", b"1")).await?;
    /// let second = channel.publish_confirmed(&Publish::to_queue("q", b"2")).await?;
    /// first.await?;
    /// second.await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Channel::publish`].
    pub async fn publish_confirmed(&self, publish: &Publish<'_>) -> Result<Confirmation, Error> {
        self.check(publish)?;
        let (waiter, receiver) = oneshot::channel();
        self.shared().publish(self.handle.id, publish, Some(waiter)).await?;
        Ok(Confirmation { receiver })
    }

    fn check(&self, publish: &Publish<'_>) -> Result<(), Error> {
        check_short("the exchange's name", publish.exchange)?;
        check_short("the routing key", publish.routing_key)?;
        if let Some(properties) = publish.properties {
            for (name, text) in properties.short_strings() {
                check_short(name, text)?;
            }
            self.shared().lock().engine.check(publish)?;
        }
        Ok(())
    }

    /// Lets the broker confirm each publish from now on.
    ///
    /// # Errors
    /// The broker's refusal: the channel is transactional.
    pub async fn enable_confirms(&self) -> Result<(), Error> {
        self.call(Request::SelectConfirms).await.map(drop)
    }

    /// Waits until nothing that was published is unconfirmed.
    ///
    /// # Errors
    /// [`Error::Nacked`] or another reason, if the broker did not take a message since the last call.
    pub async fn wait_for_confirms(&self) -> Result<(), Error> {
        let id = self.handle.id;
        let attempt = self.shared().until(|state| match state.confirms(id) {
            Err(error) => Some(Err(error)),
            Ok(None) => {
                Some(Err(Error::WrongMode("the channel does not confirm publishes; enable confirms first")))
            }
            Ok(Some(confirms)) if confirms.open() > 0 => None,
            Ok(Some(confirms)) => Some(confirms.take_failure()),
        });
        attempt.await
    }

    /// Where the mandatory messages of this channel go that reach no queue. Replaces an earlier receiver.
    ///
    /// # Errors
    /// The end of the channel or connection.
    pub fn returns(&self) -> Result<Returns, Error> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.shared().lock().set_returns(self.handle.id, sender)?;
        Ok(Returns::new(receiver))
    }

    /// Consumes from a queue.
    ///
    /// ```no_run
    /// # async fn example(channel: fulmar_client::Channel) -> Result<(), fulmar_client::Error> {
    /// channel.set_prefetch(100).await?;
    /// let mut consumer = channel.consume("q", Default::default()).await?;
    /// while let Some(delivery) = consumer.next().await {
    ///     let delivery = delivery?;
    ///     println!("{}", String::from_utf8_lossy(delivery.body()));
    ///     delivery.ack()?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// The broker's refusal: no such queue, or somebody has it exclusively.
    pub async fn consume(&self, queue: &str, mut options: ConsumeOptions) -> Result<Consumer, Error> {
        check_short("the queue's name", queue)?;
        check_short("the consumer tag", &options.consumer_tag)?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let request = {
            let mut state = self.shared().lock();
            if options.consumer_tag.is_empty() {
                options.consumer_tag = state.next_consumer_tag(self.handle.id)?;
            }
            let request = Request::Consume { queue: queue.to_owned(), options };
            let Request::Consume { options, .. } = &request else { unreachable!("it was just made") };
            state.add_consumer(self.handle.id, &options.consumer_tag, request.clone(), sender)?;
            request
        };
        let Request::Consume { options, .. } = &request else { unreachable!("it was just made") };
        let consumer = Consumer::new(options.consumer_tag.clone(), self.handle.clone(), receiver);
        if let Err(error) = self.call(request).await {
            // It has never been; there is nothing to cancel.
            self.shared().lock().remove_consumer(self.handle.id, consumer.consumer_tag());
            return Err(error);
        }
        Ok(consumer)
    }

    /// Fetches one message; `None` if the queue is empty.
    ///
    /// # Errors
    /// The broker's refusal.
    pub async fn get(&self, queue: &str, no_ack: bool) -> Result<Option<Got>, Error> {
        check_short("the queue's name", queue)?;
        match self.call(Request::Get { queue: queue.to_owned(), no_ack }).await? {
            Reply::Empty => Ok(None),
            Reply::Got { delivery_tag, redelivered, message, message_count } => {
                let epoch = self.shared().lock().epoch;
                let delivery = Delivery::new(self.handle.clone(), delivery_tag, redelivered, epoch, message);
                Ok(Some(Got { delivery, remaining: message_count }))
            }
            other => Err(mismatch(&other)),
        }
    }

    /// Gives all unsettled deliveries of the channel back to their queues.
    ///
    /// # Errors
    /// The end of the channel or connection.
    pub async fn recover(&self) -> Result<(), Error> {
        self.call(Request::Recover).await.map(drop)
    }

    /// Makes the channel transactional: publishes and acknowledgements wait for [`Channel::commit`].
    ///
    /// # Errors
    /// The broker's refusal: the channel confirms publishes.
    pub async fn begin_transactions(&self) -> Result<(), Error> {
        self.call(Request::SelectTx).await.map(drop)
    }

    /// Makes everything since the last commit or rollback take effect.
    ///
    /// # Errors
    /// The broker's refusal, or the connection broke and the outcome is unknown.
    pub async fn commit(&self) -> Result<(), Error> {
        self.call(Request::CommitTx).await.map(drop)
    }

    /// Forgets everything since the last commit or rollback.
    ///
    /// # Errors
    /// The end of the channel or connection.
    pub async fn rollback(&self) -> Result<(), Error> {
        self.call(Request::RollbackTx).await.map(drop)
    }

    /// Closes the channel in order. Its consumers end.
    ///
    /// # Errors
    /// It was closed before, for this reason.
    pub async fn close(&self) -> Result<(), Error> {
        self.call(Request::CloseChannel).await.map(drop)
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel").field("id", &self.handle.id).finish()
    }
}

/// Tells when the broker has taken responsibility for a message; see [`Channel::publish_confirmed`]. May be dropped.
#[derive(Debug)]
pub struct Confirmation {
    receiver: oneshot::Receiver<Result<(), Error>>,
}

impl Future for Confirmation {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.receiver).poll(cx).map(|result| result.unwrap_or(Err(Error::Closed)))
    }
}

fn binding(
    kind: Destination,
    destination: &str,
    source: &str,
    routing_key: &str,
    arguments: Table,
) -> Result<Binding, Error> {
    check_short("the destination's name", destination)?;
    check_short("the exchange's name", source)?;
    check_short("the routing key", routing_key)?;
    Ok(Binding {
        kind,
        destination: destination.to_owned(),
        source: source.to_owned(),
        routing_key: routing_key.to_owned(),
        arguments,
    })
}

pub(crate) fn mismatch(reply: &Reply) -> Error {
    Error::Protocol(format!("the reply is to another request: {reply:?}"))
}
