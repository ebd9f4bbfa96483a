//! One session: its controls, what is received over it, and when accepts and completions are told.

use std::collections::{BTreeSet, VecDeque};

use fulmar_amqp_0_10::codec::segment::{Assembler, Piece};
use fulmar_amqp_0_10::codec::table::{
    AcceptMode, DetachCode, ExecutionException, ExecutionSync, MessageAccept, MessageReject, MessageRelease,
    MessageTransfer, RejectCode, SegmentType, SessionAttach, SessionCommandPoint, SessionCompleted,
    SessionConfirmed, SessionDetached, SessionExpected, SessionKnownCompleted, SessionRequestTimeout,
    SessionTimeout, Track,
};
use fulmar_amqp_0_10::codec::{Command, ContentHeader, Control, Frame, SequenceNo, SequenceSet};
use fulmar_amqp_0_10::properties::ENCODING;

use super::output::Output;
use super::ranges::Ranges;
use super::sending::{Sending, Sent};
use super::{LIMITS, bad_content, bad_segment, lossy, unexpected};
use crate::Error;
use crate::engine::Event;
use crate::message::Message;
use crate::request::{Reply, Request, Settle};

/// Room taken for a body before any of it has come.
const BODY_RESERVE_BYTES: u64 = 1 << 20;

/// Where the session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Attaching,
    Attached,
    /// The application closes it.
    Detaching,
    /// The broker has said why it ends it; its detach follows. Perhaps the channel is wanted again by then.
    Failed {
        attach_again: bool,
    },
}

/// The session is gone.
pub(super) struct End {
    /// Another one is wanted in its place.
    pub attach_again: bool,
}

pub(super) struct Session {
    controls: Assembler,
    commands: Assembler,
    state: State,
}

/// All of a session but the frames that are being put together.
pub(super) struct State {
    pub channel: u16,
    name: String,
    phase: Phase,
    pub sending: Sending,
    receiving: Receiving,
    /// Unsettled deliveries that each new consumer may have; 0 for any number.
    pub prefetch: u16,
    /// Consumers that the broker knows.
    pub consumers: BTreeSet<String>,
    /// Messages fetched so far.
    pub fetched: u64,
    /// It is noted that there is something to flush.
    is_noted: bool,
}

/// What has come.
#[derive(Default)]
struct Receiving {
    /// Command id of the number 0.
    origin: SequenceNo,
    /// Number of the last command, from 1. That of a transfer is its delivery tag.
    received: u64,
    /// The transfer whose content is coming in.
    incoming: Option<Incoming>,
    /// Tags of deliveries that the application has to settle, in order.
    unsettled: VecDeque<u64>,
    accepted: Ranges,
    completed: Ranges,
}

struct Incoming {
    destination: Vec<u8>,
    delivery_tag: u64,
    redelivered: bool,
    is_settled: bool,
    /// `None` before the header.
    message: Option<Message>,
}

impl Session {
    /// Asks the broker for a session.
    pub(super) fn attach(channel: u16, name: String, out: &mut Output) -> Self {
        out.control(channel, SessionAttach { name: Some(name.as_bytes()), force: false });
        Session {
            controls: Assembler::new(Track::Control, LIMITS),
            commands: Assembler::new(Track::Command, LIMITS),
            state: State {
                channel,
                name,
                phase: Phase::Attaching,
                sending: Sending::new(channel),
                receiving: Receiving::default(),
                prefetch: 0,
                consumers: BTreeSet::new(),
                fetched: 0,
                is_noted: false,
            },
        }
    }

    /// The channel is to have another session as soon as the broker is done with this one.
    pub(super) fn attach_again(&mut self) {
        if let Phase::Failed { attach_again } = &mut self.state.phase {
            *attach_again = true;
        }
    }

    /// Takes a frame. `Some` when the session is gone.
    ///
    /// # Errors
    /// The peer does not keep to the protocol.
    pub(super) fn frame(
        &mut self,
        frame: &Frame<'_>,
        out: &mut Output,
        events: &mut Vec<Event>,
    ) -> Result<Option<End>, Error> {
        let Session { controls, commands, state } = self;
        if frame.track == Track::Control {
            let Some(Piece::Segment { payload, .. }) = controls.push(frame).map_err(bad_segment)? else {
                return Ok(None);
            };
            return state.control(&Control::decode(payload).map_err(bad_content)?, out, events);
        }
        match (state.phase, commands.push(frame).map_err(bad_segment)?) {
            // What was on its way to a session that has failed.
            (Phase::Failed { .. }, _) | (_, None) => {}
            (Phase::Attaching, _) => return Err(unexpected("a command")),
            (_, Some(piece)) => state.piece(&piece, events)?,
        }
        Ok(None)
    }

    /// Whether something is to be flushed of which [`Session::has_to_flush`] has not said so yet.
    pub(super) fn has_to_flush(&mut self) -> bool {
        let state = &mut self.state;
        let pending = state.sending.wants_sync || state.receiving.has_pending();
        !std::mem::replace(&mut state.is_noted, pending) && pending
    }

    /// Writes accepts and completions that were put off, and asks for those of the broker.
    pub(super) fn flush(&mut self, out: &mut Output) {
        self.state.is_noted = false;
        self.state.flush(out);
    }

    /// Writes a request other than that for a session.
    ///
    /// # Errors
    /// There is nothing like it; nothing was written.
    pub(super) fn request(&mut self, request: &Request, unique: &str, out: &mut Output) -> Result<(), Error> {
        self.state.request(request, unique, out)
    }

    /// A transfer was written, as these frames.
    pub(super) fn published(&mut self, frames: &[u8]) {
        self.state.sending.published(frames);
    }

    /// Publishes that are not complete.
    pub(super) fn unanswered(&self) -> usize {
        self.state.sending.unanswered()
    }

    /// Settles deliveries.
    pub(super) fn settle(&mut self, delivery_tag: u64, settle: Settle, out: &mut Output) {
        self.state.settle(delivery_tag, settle, out);
    }
}

impl State {
    fn control(
        &mut self,
        control: &Control<'_>,
        out: &mut Output,
        events: &mut Vec<Event>,
    ) -> Result<Option<End>, Error> {
        let channel = self.channel;
        match control {
            Control::SessionAttached(_) if self.phase == Phase::Attaching => {
                self.phase = Phase::Attached;
                // Nothing is resumed, so nothing needs to be kept.
                out.control(channel, SessionRequestTimeout { timeout: Some(0) });
                let point = SessionCommandPoint { command_id: Some(SequenceNo(0)), command_offset: Some(0) };
                out.control(channel, point);
                events.push(Event::Reply { channel, reply: Reply::Done });
            }
            Control::SessionDetach(_) => {
                let detached =
                    SessionDetached { name: Some(self.name.as_bytes()), code: Some(DetachCode::Normal) };
                out.control(channel, detached);
                return Ok(Some(self.end(DetachCode::Normal, events)));
            }
            Control::SessionDetached(detached) => {
                return Ok(Some(self.end(detached.code.unwrap_or_default(), events)));
            }
            Control::SessionCommandPoint(point) => {
                let next = point.command_id.unwrap_or_default();
                self.receiving.origin = next.plus((self.receiving.received as u32 + 1).wrapping_neg());
            }
            Control::SessionCompleted(completed) => {
                let set = completed.commands.unwrap_or_default();
                self.sending.completed(set, events);
                if completed.timely_reply {
                    out.control(channel, SessionKnownCompleted { commands: completed.commands });
                }
            }
            Control::SessionFlush(flush) => self.answer_flush(flush.expected, flush.confirmed, out),
            Control::SessionRequestTimeout(_) => out.control(channel, SessionTimeout { timeout: Some(0) }),
            Control::SessionTimeout(_)
            | Control::SessionKnownCompleted(_)
            | Control::SessionConfirmed(_)
            | Control::SessionExpected(_) => {}
            other => return Err(unexpected(other.name())),
        }
        Ok(None)
    }

    /// The peer wants to know how far things are. What is complete it is told with the output anyway.
    fn answer_flush(&mut self, expected: bool, confirmed: bool, out: &mut Output) {
        let Receiving { origin, received, .. } = self.receiving;
        let id = |number: u64| origin.plus(number as u32);
        let set = |number: u64, each: &mut dyn FnMut(SequenceSet<'_>)| {
            let mut ranges = Ranges::default();
            ranges.add(number);
            ranges.take(id, each);
        };
        if expected {
            set(received + 1, &mut |commands| {
                let expected = SessionExpected { commands: Some(commands), fragments: None };
                out.control(self.channel, expected);
            });
        }
        if confirmed && received > 0 {
            set(received, &mut |commands| {
                let confirmed = SessionConfirmed { commands: Some(commands), fragments: None };
                out.control(self.channel, confirmed);
            });
        }
    }

    /// The session is gone: closed by the application, after a failure that is known already, or for a reason.
    fn end(&mut self, code: DetachCode, events: &mut Vec<Event>) -> End {
        let channel = self.channel;
        let closed = |error| Event::ChannelClosed { channel, error };
        let mut attach_again = false;
        match self.phase {
            Phase::Failed { attach_again: wanted } => attach_again = wanted,
            // Their answers will not come; that to the close would be taken for one of them.
            Phase::Detaching if self.sending.has_open_requests() => events.push(closed(Error::Closed)),
            Phase::Detaching => events.push(Event::Reply { channel, reply: Reply::Done }),
            Phase::Attaching | Phase::Attached => {
                let text = format!("the session was detached ({})", code.name());
                events.push(closed(Error::ChannelClosed { code: code.code().into(), text }));
            }
        }
        End { attach_again }
    }

    /// The application closes the channel.
    pub(super) fn detach(&mut self, out: &mut Output) {
        self.flush(out);
        let detach = fulmar_amqp_0_10::codec::table::SessionDetach { name: Some(self.name.as_bytes()) };
        out.control(self.channel, detach);
        self.phase = Phase::Detaching;
    }

    fn piece(&mut self, piece: &Piece<'_>, events: &mut Vec<Event>) -> Result<(), Error> {
        match *piece {
            Piece::Segment { kind: SegmentType::Command, payload, is_last } => {
                let (command, _) = Command::decode(payload).map_err(bad_content)?;
                self.receiving.received += 1;
                self.command(&command, is_last, events)
            }
            Piece::Segment { payload, is_last, .. } => self.content_header(payload, is_last, events),
            Piece::Body { payload, is_last } => {
                if let Some(incoming) = &mut self.receiving.incoming {
                    incoming.message().push_body(payload);
                }
                if is_last {
                    self.delivered(events);
                }
                Ok(())
            }
        }
    }

    fn command(
        &mut self,
        command: &Command<'_>,
        is_last: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        let channel = self.channel;
        let number = self.receiving.received;
        if let Command::MessageTransfer(transfer) = command {
            self.receiving.incoming = Some(Incoming::new(transfer, number));
            if is_last {
                self.delivered(events);
            }
            return Ok(());
        }
        self.receiving.completed.add(number);
        match command {
            Command::ExecutionResult(result) => {
                let id = result.command_id.unwrap_or_default();
                self.sending.result(id, result.value.unwrap_or_default().as_bytes(), events);
            }
            Command::ExecutionException(exception) => self.failed(exception, events),
            // What it waits for is complete: nothing is put off on this side.
            Command::ExecutionSync(_) => {}
            Command::MessageAccept(accept) => {
                self.sending.accepted(accept.transfers.unwrap_or_default(), events);
            }
            Command::MessageReject(reject) => {
                let set = reject.transfers.unwrap_or_default();
                let (code, text) = (reject.code.unwrap_or_default(), reject.text.unwrap_or_default());
                self.sending.rejected(set, code, text, events);
            }
            Command::MessageRelease(release) => {
                let set = release.transfers.unwrap_or_default();
                self.sending.rejected(set, RejectCode::Unspecified, b"", events);
            }
            Command::MessageStop(_) => events.push(Event::Flow { channel, active: false }),
            Command::MessageFlow(_) => events.push(Event::Flow { channel, active: true }),
            Command::MessageSetFlowMode(_) => {}
            other => return Err(unexpected(other.name())),
        }
        Ok(())
    }

    fn failed(&mut self, exception: &ExecutionException<'_>, events: &mut Vec<Event>) {
        let code = exception.error_code.unwrap_or_default();
        let text = exception.description.map_or_else(|| code.name().to_owned(), lossy);
        let error = Error::ChannelClosed { code: code.code(), text };
        self.phase = Phase::Failed { attach_again: false };
        events.push(Event::ChannelClosed { channel: self.channel, error });
    }

    fn content_header(
        &mut self,
        payload: &[u8],
        is_last: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), Error> {
        if let Some(incoming) = &mut self.receiving.incoming {
            let header = ContentHeader::parse(payload).map_err(bad_content)?;
            let delivery = header.delivery_properties().map_err(bad_content)?;
            let length = header.message_properties().map_err(bad_content)?.content_length.unwrap_or(0);
            incoming.redelivered = delivery.redelivered;
            let exchange = delivery.exchange.unwrap_or_default();
            let key = delivery.routing_key.unwrap_or_default();
            let mut message = Message::begin(&ENCODING, &incoming.destination, exchange, key);
            message.push_properties(payload, length.min(BODY_RESERVE_BYTES) as usize);
            incoming.message = Some(message);
        }
        if is_last {
            self.delivered(events);
        }
        Ok(())
    }

    /// The transfer that came in is whole.
    fn delivered(&mut self, events: &mut Vec<Event>) {
        let Some(mut incoming) = self.receiving.incoming.take() else { return };
        incoming.message();
        let Incoming { destination, delivery_tag, redelivered, is_settled, message } = incoming;
        let Some(message) = message else { return };
        if is_settled {
            self.receiving.completed.add(delivery_tag);
        } else {
            self.receiving.unsettled.push_back(delivery_tag);
        }
        if let Some(message) = self.sending.fetched(&destination, delivery_tag, redelivered, message) {
            let channel = self.channel;
            events.push(Event::Delivered { channel, delivery_tag, redelivered, message });
        }
    }

    /// See [`Session::flush`].
    pub(super) fn flush(&mut self, out: &mut Output) {
        let State { channel, sending, receiving, .. } = self;
        let channel = *channel;
        let origin = receiving.origin;
        let id = |number: u64| origin.plus(number as u32);
        receiving.accepted.take(id, |transfers| {
            out.command(channel, false, MessageAccept { transfers: Some(transfers) });
            sending.sent(Sent::Plain);
        });
        receiving.completed.take(id, |commands| {
            out.control(channel, SessionCompleted { commands: Some(commands), timely_reply: false });
        });
        if std::mem::take(&mut sending.wants_sync) {
            out.command(channel, true, ExecutionSync {});
            sending.sent(Sent::Plain);
        }
    }

    fn settle(&mut self, delivery_tag: u64, settle: Settle, out: &mut Output) {
        let multiple = matches!(settle, Settle::Ack { multiple: true } | Settle::Nack { multiple: true, .. });
        let tags = self.receiving.take_unsettled(delivery_tag, multiple);
        let release = match settle {
            Settle::Ack { .. } => {
                for tag in tags {
                    self.receiving.accepted.add(tag);
                    self.receiving.completed.add(tag);
                }
                return;
            }
            Settle::Nack { requeue, .. } | Settle::Reject { requeue } => requeue.then_some(true),
            Settle::Release => Some(false),
        };
        match release {
            Some(set_redelivered) => self.release(tags, set_redelivered, out),
            None => self.refuse(&tags, out, |transfers| {
                let code = Some(RejectCode::Unspecified);
                MessageReject { transfers: Some(transfers), code, text: None }.into()
            }),
        }
    }

    /// Gives all deliveries back that are not settled.
    pub(super) fn release_all(&mut self, out: &mut Output) {
        let tags = self.receiving.take_unsettled(u64::MAX, true);
        self.release(tags, true, out);
    }

    fn release(&mut self, tags: Vec<u64>, set_redelivered: bool, out: &mut Output) {
        self.refuse(&tags, out, |transfers| {
            MessageRelease { transfers: Some(transfers), set_redelivered }.into()
        });
    }

    /// Writes the command that `command` makes of deliveries, which are dealt with then.
    fn refuse(&mut self, tags: &[u64], out: &mut Output, command: impl Fn(SequenceSet<'_>) -> Command<'_>) {
        let State { channel, sending, receiving, .. } = self;
        let origin = receiving.origin;
        let mut ranges = Ranges::default();
        for &tag in tags {
            ranges.add(tag);
            receiving.completed.add(tag);
        }
        ranges.take(
            |number| origin.plus(number as u32),
            |transfers| {
                out.command(*channel, false, command(transfers));
                sending.sent(Sent::Plain);
            },
        );
    }
}

impl Receiving {
    fn has_pending(&self) -> bool {
        !self.accepted.is_empty() || !self.completed.is_empty()
    }

    /// The tag, or all up to it, if they are still to be settled.
    fn take_unsettled(&mut self, delivery_tag: u64, multiple: bool) -> Vec<u64> {
        if multiple {
            let count = self.unsettled.partition_point(|&tag| tag <= delivery_tag);
            return self.unsettled.drain(..count).collect();
        }
        let found = self.unsettled.binary_search(&delivery_tag);
        found.ok().and_then(|at| self.unsettled.remove(at)).into_iter().collect()
    }
}

impl Incoming {
    fn new(transfer: &MessageTransfer<'_>, delivery_tag: u64) -> Self {
        Incoming {
            destination: transfer.destination.unwrap_or_default().to_vec(),
            delivery_tag,
            redelivered: false,
            is_settled: transfer.accept_mode == Some(AcceptMode::None),
            message: None,
        }
    }

    /// The message; one without a header has no properties.
    fn message(&mut self) -> &mut Message {
        let destination = &self.destination;
        self.message.get_or_insert_with(|| Message::begin(&ENCODING, destination, b"", b""))
    }
}
