//! Receiving: consumers, deliveries, returned messages.

use std::ops::Deref;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::sync::mpsc;

use crate::Error;
use crate::channel::Handle;
use crate::message::{Message, Returned};
use crate::request::{Request, Settle};
use crate::session::Queued;

/// The deliveries of one consumer. Dropping it cancels the consumer; what was delivered and not settled goes back to
/// the queue when the channel closes.
pub struct Consumer {
    consumer_tag: String,
    channel: Arc<Handle>,
    receiver: mpsc::UnboundedReceiver<Result<Queued, Error>>,
}

impl Consumer {
    pub(crate) fn new(
        consumer_tag: String,
        channel: Arc<Handle>,
        receiver: mpsc::UnboundedReceiver<Result<Queued, Error>>,
    ) -> Self {
        Consumer { consumer_tag, channel, receiver }
    }

    /// Its name on its channel.
    pub fn consumer_tag(&self) -> &str {
        &self.consumer_tag
    }

    /// The next delivery. After an error, or after the consumer or its channel was closed by this side, `None`.
    ///
    /// # Errors
    /// Once, why the consumer ended: [`Error::Cancelled`], the broker's reason for closing the channel, the end of the
    /// connection. A connection that is made again ends nothing.
    pub async fn next(&mut self) -> Option<Result<Delivery, Error>> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// As [`Consumer::next`], for those who poll.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Delivery, Error>>> {
        self.receiver.poll_recv(cx).map(|next| Some(next?.map(|queued| self.delivery(queued))))
    }

    /// The next delivery, if one is there.
    pub fn try_next(&mut self) -> Option<Result<Delivery, Error>> {
        let next = self.receiver.try_recv().ok()?;
        Some(next.map(|queued| self.delivery(queued)))
    }

    /// Ends the consumer in order. Deliveries that are there can still be taken.
    ///
    /// # Errors
    /// The end of the channel or connection.
    pub async fn cancel(&mut self) -> Result<(), Error> {
        let consumer_tag = self.consumer_tag.clone();
        self.channel.call(Request::Cancel { consumer_tag }).await?;
        self.channel.shared().lock().remove_consumer(self.channel.id, &self.consumer_tag);
        Ok(())
    }

    fn delivery(&self, queued: Queued) -> Delivery {
        let Queued { delivery_tag, redelivered, epoch, .. } = queued;
        Delivery::new(self.channel.clone(), delivery_tag, redelivered, epoch, queued.take())
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.channel.drop_consumer(&self.consumer_tag);
    }
}

impl std::fmt::Debug for Consumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("consumer_tag", &self.consumer_tag).finish_non_exhaustive()
    }
}

/// A message that came to a consumer, or was fetched. Derefs to [`Message`].
///
/// Unless it was asked for without acknowledgement it has to be settled. The settling calls wait for nothing: what
/// they write is sent with what else there is to send. A delivery that is dropped unsettled stays with this channel.
pub struct Delivery {
    message: Message,
    redelivered: bool,
    delivery_tag: u64,
    epoch: u64,
    channel: Arc<Handle>,
}

impl Delivery {
    pub(crate) fn new(
        channel: Arc<Handle>,
        delivery_tag: u64,
        redelivered: bool,
        epoch: u64,
        message: Message,
    ) -> Self {
        Delivery { message, redelivered, delivery_tag, epoch, channel }
    }

    /// Whether the message has been delivered before.
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Its number on its channel.
    pub fn delivery_tag(&self) -> u64 {
        self.delivery_tag
    }

    /// The message, for those who need it longer than the delivery.
    pub fn into_message(self) -> Message {
        self.message
    }

    /// The message is dealt with.
    ///
    /// # Errors
    /// [`Error::StaleDelivery`] after a reconnection, or the end of the channel or connection.
    pub fn ack(&self) -> Result<(), Error> {
        self.settle(Settle::Ack { multiple: false })
    }

    /// This message and all before it on the channel are dealt with.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn ack_multiple(&self) -> Result<(), Error> {
        self.settle(Settle::Ack { multiple: true })
    }

    /// The message could not be dealt with: back to the queue (`requeue`), or dead-lettered, or dropped.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn nack(&self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Nack { multiple: false, requeue })
    }

    /// As [`Delivery::nack`], for this message and all before it on the channel.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn nack_multiple(&self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Nack { multiple: true, requeue })
    }

    /// As [`Delivery::nack`], in the words of the standard.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn reject(&self, requeue: bool) -> Result<(), Error> {
        self.settle(Settle::Reject { requeue })
    }

    /// Back to the queue, as if the message had never been delivered. AMQP 0-9-1 marks it as delivered before, as
    /// [`Delivery::nack`] does.
    ///
    /// # Errors
    /// As [`Delivery::ack`].
    pub fn release(&self) -> Result<(), Error> {
        self.settle(Settle::Release)
    }

    fn settle(&self, settle: Settle) -> Result<(), Error> {
        let shared = self.channel.shared();
        shared.lock().settle(self.channel.id, self.epoch, self.delivery_tag, settle)?;
        shared.wake.notify_one();
        Ok(())
    }
}

impl Deref for Delivery {
    type Target = Message;

    fn deref(&self) -> &Message {
        &self.message
    }
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery")
            .field("delivery_tag", &self.delivery_tag)
            .field("redelivered", &self.redelivered)
            .field("message", &self.message)
            .finish_non_exhaustive()
    }
}

/// The mandatory messages of a channel that reached no queue.
#[derive(Debug)]
pub struct Returns {
    receiver: mpsc::UnboundedReceiver<Returned>,
}

impl Returns {
    pub(crate) fn new(receiver: mpsc::UnboundedReceiver<Returned>) -> Self {
        Returns { receiver }
    }

    /// The next one; `None` when the channel is closed.
    pub async fn next(&mut self) -> Option<Returned> {
        self.receiver.recv().await
    }

    /// The next one, if one is there. With confirms, a message is returned before it is confirmed.
    pub fn try_next(&mut self) -> Option<Returned> {
        self.receiver.try_recv().ok()
    }
}
