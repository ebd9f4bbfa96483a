//! What this side has sent over a session and the broker has not completed: publishes that want their confirm, requests
//! that want their answer, messages that may come back.

use std::collections::VecDeque;

use fulmar_amqp_0_10::codec::segment::{Assembler, Piece};
use fulmar_amqp_0_10::codec::table::{AcceptMode, MessageTransfer, RejectCode, SegmentType, Track};
use fulmar_amqp_0_10::codec::{Command, ContentHeader, SequenceNo, SequenceSet, frame};
use fulmar_amqp_0_10::properties::ENCODING;

use super::results::Question;
use super::{LIMITS, lossy};
use crate::engine::Event;
use crate::message::Message;
use crate::request::Reply;

/// AMQP reply codes for what a message was rejected with.
const NO_ROUTE: u16 = 312;
const NO_CONSUMERS: u16 = 313;

/// The commands of this side, from the first that is not complete.
pub(super) struct Sending {
    channel: u16,
    first: SequenceNo,
    commands: VecDeque<Sent>,
    /// Number of the last publish; they count from 1.
    published: u64,
    unanswered: usize,
    /// Publishes since completions were last asked for.
    pub(super) wants_sync: bool,
    requests: VecDeque<Open>,
    returnable: VecDeque<Returnable>,
}

/// What the completion of a command means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sent {
    /// Nothing.
    Plain,
    /// A publish is confirmed.
    Publish(u64),
    /// A request is carried out.
    Last,
    /// It is complete.
    Done,
}

/// A request, from its writing to its answer.
struct Open {
    /// The last of its commands, and the one that has a result.
    last: SequenceNo,
    asking: Option<SequenceNo>,
    question: Question,
    is_complete: bool,
    result: Option<Vec<u8>>,
}

/// A mandatory message of which the broker has not said yet that it took it.
struct Returnable {
    id: SequenceNo,
    number: u64,
    message: Message,
    is_complete: bool,
    is_answered: bool,
    is_refused: bool,
}

impl Sending {
    pub(super) fn new(channel: u16) -> Self {
        Sending {
            channel,
            first: SequenceNo(0),
            commands: VecDeque::new(),
            published: 0,
            unanswered: 0,
            wants_sync: false,
            requests: VecDeque::new(),
            returnable: VecDeque::new(),
        }
    }

    /// Publishes that are not complete.
    pub(super) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// The id that the next command will have.
    pub(super) fn next(&self) -> SequenceNo {
        self.first.plus(self.commands.len() as u32)
    }

    /// A command was written; returns its id.
    pub(super) fn sent(&mut self, sent: Sent) -> SequenceNo {
        let id = self.next();
        self.commands.push_back(sent);
        id
    }

    /// A transfer was written, as these frames.
    pub(super) fn published(&mut self, frames: &[u8]) {
        self.published += 1;
        self.unanswered += 1;
        self.wants_sync = true;
        let id = self.sent(Sent::Publish(self.published));
        if let Some(message) = returnable(frames) {
            self.returnable.push_back(Returnable {
                id,
                number: self.published,
                message,
                is_complete: false,
                is_answered: false,
                is_refused: false,
            });
        }
    }

    /// The commands of a request were written, the last of them with this id; `asking` is the one that has a result.
    pub(super) fn requested(&mut self, last: SequenceNo, asking: Option<SequenceNo>, question: Question) {
        self.requests.push_back(Open { last, asking, question, is_complete: false, result: None });
    }

    /// The broker has carried out commands.
    pub(super) fn completed(&mut self, set: SequenceSet<'_>, events: &mut Vec<Event>) {
        for (first, last) in set.iter() {
            self.complete_range(first, last, events);
        }
        self.answer_requests(events);
    }

    fn complete_range(&mut self, first: SequenceNo, last: SequenceNo, events: &mut Vec<Event>) {
        let from = first.since(self.first).max(0) as usize;
        let Ok(end) = usize::try_from(last.since(self.first)) else { return };
        let end = end.saturating_add(1).min(self.commands.len());
        // All publishes up to the last of these are complete.
        let is_prefix = from == 0 && self.returnable.is_empty();
        let mut highest = None;
        for index in from..end {
            let id = self.first.plus(index as u32);
            match std::mem::replace(&mut self.commands[index], Sent::Done) {
                Sent::Publish(number) => {
                    self.unanswered -= 1;
                    if is_prefix {
                        highest = Some(number);
                    } else {
                        self.confirm(id, number, events);
                    }
                }
                Sent::Last => {
                    if let Some(open) = self.requests.iter_mut().find(|open| open.last == id) {
                        open.is_complete = true;
                    }
                }
                Sent::Plain | Sent::Done => {}
            }
        }
        if let Some(sequence) = highest {
            events.push(Event::Confirmed { channel: self.channel, sequence, multiple: true, acked: true });
        }
        while self.commands.front() == Some(&Sent::Done) {
            self.commands.pop_front();
            self.first = self.first.next();
        }
    }

    /// A publish is complete; one that may come back is confirmed when the broker has also said what became of it.
    fn confirm(&mut self, id: SequenceNo, number: u64, events: &mut Vec<Event>) {
        let at = self.returnable.partition_point(|returnable| returnable.id.is_before(id));
        match self.returnable.get_mut(at) {
            Some(returnable) if returnable.id == id => {
                returnable.is_complete = true;
                self.forget_answered(events);
            }
            _ => events.push(confirmed(self.channel, number, true)),
        }
    }

    /// The broker has taken mandatory messages.
    pub(super) fn accepted(&mut self, set: SequenceSet<'_>, events: &mut Vec<Event>) {
        self.answered(set, |_| ());
        self.forget_answered(events);
    }

    /// The broker has not taken mandatory messages.
    pub(super) fn rejected(
        &mut self,
        set: SequenceSet<'_>,
        code: RejectCode,
        text: &[u8],
        events: &mut Vec<Event>,
    ) {
        let channel = self.channel;
        let code = match code {
            RejectCode::Unroutable => Some((NO_ROUTE, "NO_ROUTE")),
            RejectCode::Immediate => Some((NO_CONSUMERS, "NO_CONSUMERS")),
            _ => None,
        };
        self.answered(set, |returnable| match code {
            None => returnable.is_refused = true,
            Some((code, usual)) => {
                let text = if text.is_empty() { usual.to_owned() } else { lossy(text) };
                let message = returnable.message.clone();
                events.push(Event::Returned { channel, code, text, message });
            }
        });
        self.forget_answered(events);
    }

    /// Calls `each` for the mandatory messages of a set that have not been answered.
    fn answered(&mut self, set: SequenceSet<'_>, mut each: impl FnMut(&mut Returnable)) {
        for (first, last) in set.iter() {
            let from = self.returnable.partition_point(|returnable| returnable.id.is_before(first));
            for returnable in self.returnable.range_mut(from..) {
                if last.is_before(returnable.id) {
                    break;
                }
                if !returnable.is_answered {
                    returnable.is_answered = true;
                    each(returnable);
                }
            }
        }
    }

    fn forget_answered(&mut self, events: &mut Vec<Event>) {
        let channel = self.channel;
        self.returnable.retain(|returnable| {
            let is_over = returnable.is_complete && returnable.is_answered;
            if is_over {
                events.push(confirmed(channel, returnable.number, !returnable.is_refused));
            }
            !is_over
        });
    }

    /// A command's result.
    pub(super) fn result(&mut self, id: SequenceNo, value: &[u8], events: &mut Vec<Event>) {
        if let Some(open) = self.requests.iter_mut().find(|open| open.asking == Some(id)) {
            open.result = Some(value.to_vec());
        }
        self.answer_requests(events);
    }

    /// A message for the request that fetches under this name; given back if there is none.
    pub(super) fn fetched(
        &mut self,
        destination: &[u8],
        delivery_tag: u64,
        redelivered: bool,
        message: Message,
    ) -> Option<Message> {
        for open in &mut self.requests {
            if let Question::Get { destination: wanted, got } = &mut open.question
                && wanted.as_bytes() == destination
            {
                *got = Some((delivery_tag, redelivered, message));
                return None;
            }
        }
        Some(message)
    }

    /// Answers requests in their order, as far as they are carried out.
    fn answer_requests(&mut self, events: &mut Vec<Event>) {
        while let Some(open) = self.requests.front()
            && open.is_complete
            && (open.asking.is_none() || open.result.is_some())
        {
            let Some(open) = self.requests.pop_front() else { return };
            let reply: Reply = open.question.answer(open.result.as_deref().unwrap_or_default());
            events.push(Event::Reply { channel: self.channel, reply });
        }
    }

    /// Whether a request waits for its answer.
    pub(super) fn has_open_requests(&self) -> bool {
        !self.requests.is_empty()
    }
}

fn confirmed(channel: u16, sequence: u64, acked: bool) -> Event {
    Event::Confirmed { channel, sequence, multiple: false, acked }
}

/// The message of a transfer that this side wrote, if the broker is to say what became of it.
fn returnable(frames: &[u8]) -> Option<Message> {
    let (first, _) = frame::parse(frames, 0).ok()??;
    let (Command::MessageTransfer(MessageTransfer { destination, accept_mode, .. }), _) =
        Command::decode(first.payload).ok()?
    else {
        return None;
    };
    if accept_mode != Some(AcceptMode::Explicit) {
        return None;
    }
    let exchange = destination.unwrap_or_default();
    let mut message = None;
    let mut assembler = Assembler::new(Track::Command, LIMITS);
    let mut rest = frames;
    while let Ok(Some((frame, taken))) = frame::parse(rest, 0) {
        rest = &rest[taken..];
        match assembler.push(&frame).ok()? {
            Some(Piece::Segment { kind: SegmentType::Header, payload, .. }) => {
                let header = ContentHeader::parse(payload).ok()?.delivery_properties().ok()?;
                let key = header.routing_key.unwrap_or_default();
                let message = message.insert(Message::begin(&ENCODING, b"", exchange, key));
                message.push_properties(payload, rest.len());
            }
            Some(Piece::Body { payload, .. }) => {
                if let Some(message) = &mut message {
                    message.push_body(payload);
                }
            }
            _ => {}
        }
    }
    message
}
