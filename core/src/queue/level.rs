//! One level of priority of a queue: its messages in order, the last of them out of memory where the queue is long.
//!
//! From the head on: new messages in memory, `fresh`; then, if there is a [`Tail`], those that are being read, those that
//! are out of memory and those that have come since. Beside them is what came back to its place, or was read for somebody
//! who looks further on, `returned`: it may stand anywhere.

use std::collections::{BTreeMap, VecDeque};

use super::paged::{Paged, PagedItem, SMALLEST_BYTES};
use super::ready::{Item, Kept};
use crate::MessageId;
use crate::journal::{Position, Ticket};

/// Room for this many messages is kept by an empty level; what a burst took beyond goes back.
pub(super) const KEPT_SLOTS: usize = 64 * 1024;

/// So many gaps in a row may stay, however few messages there are.
pub(super) const SPARED_GAPS: usize = 32;

/// In place of a message that was taken out of the middle.
const GAP: MessageId = MessageId { slot: u32::MAX, part: u16::MAX };

fn is_gap(item: &Item) -> bool {
    item.message == GAP
}

/// Puts a message beside others, those of a batch one by one.
fn put_apart(mut item: Item, returned: &mut BTreeMap<u64, Item>) {
    if is_gap(&item) {
        return;
    }
    while item.followers > 0 {
        let first = item.split_off_first(1);
        returned.insert(first.sequence, first);
    }
    returned.insert(item.sequence, item);
}

/// What somebody sees who looks for a message from a place on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// It is in memory; as one alone.
    Here(Item),
    /// It has to be read first.
    Away {
        /// Its level.
        level: u8,
        /// Its place.
        place: u64,
    },
}

impl Look {
    /// Where the message stands.
    pub(crate) fn place(&self) -> u64 {
        match self {
            Look::Here(item) => item.sequence,
            Look::Away { place, .. } => *place,
        }
    }

    /// The message, if it is in memory.
    pub(crate) fn here(self) -> Option<Item> {
        match self {
            Look::Here(item) => Some(item),
            Look::Away { .. } => None,
        }
    }
}

/// Messages in memory in order of arrival. Where one was taken out of the middle, a gap stays, to be passed over.
#[derive(Default)]
pub(super) struct Row {
    pub(super) items: VecDeque<Item>,
    pub(super) gaps: usize,
}

impl Row {
    /// The first message that is not before a place.
    fn next_at(&self, place: u64) -> Option<Item> {
        let from = self.items.partition_point(|item| item.last_sequence() < place);
        self.items.range(from..).find(|item| !is_gap(item)).map(|item| item.alone_at(place))
    }

    /// Takes the message at a place. Those of its batch that stand before it are as if they had come back.
    fn remove(&mut self, place: u64, returned: &mut BTreeMap<u64, Item>) -> Option<Item> {
        let at = self.items.partition_point(|item| item.last_sequence() < place);
        let found = self.items.get_mut(at).filter(|item| item.sequence <= place && !is_gap(item))?;
        while found.sequence < place {
            let before = found.split_off_first(1);
            returned.insert(before.sequence, before);
        }
        if found.followers > 0 {
            return Some(found.split_off_first(1));
        }
        let item = *found;
        found.message = GAP;
        self.gaps += 1;
        self.drop_first_gaps();
        self.close_gaps();
        Some(item)
    }

    fn drop_first_gaps(&mut self) {
        while self.items.front().is_some_and(is_gap) {
            self.items.pop_front();
            self.gaps -= 1;
        }
    }

    /// Closes the gaps once they are the greater part.
    fn close_gaps(&mut self) {
        if self.gaps >= SPARED_GAPS && 2 * self.gaps > self.items.len() {
            self.items.retain(|item| !is_gap(item));
            self.gaps = 0;
        }
    }

    #[inline]
    fn shrink(&mut self) {
        if self.items.capacity() > KEPT_SLOTS {
            self.items.shrink_to(KEPT_SLOTS / 2);
        }
    }
}

/// What is out of memory, and what came behind it. Something is out of memory as long as there is a tail.
struct Tail {
    /// Being read, in order.
    arriving: VecDeque<PagedItem>,
    /// Which reading they belong to.
    ticket: Option<Ticket>,
    /// They are the first ones that were out of memory.
    are_first: bool,
    paged: Paged,
    back: Row,
}

/// See the module. The first place of `fresh` is no gap.
#[derive(Default)]
pub(super) struct Level {
    pub(super) fresh: Row,
    returned: BTreeMap<u64, Item>,
    /// As many as have come back and gaps there are; 0: the new ones are all there is.
    pub(super) irregular: usize,
    tail: Option<Box<Tail>>,
}

impl Level {
    /// Everything that was written down, in no order.
    pub(super) fn recorded(&self) -> impl Iterator<Item = Item> {
        let tails = self.tail.iter();
        let away =
            tails.clone().flat_map(|tail| tail.arriving.iter().copied().chain(tail.paged.iter_from(0)));
        let back = tails.flat_map(|tail| &tail.back.items);
        let here = self.returned.values().chain(&self.fresh.items).chain(back).copied();
        here.chain(away.map(|paged| paged.item)).filter(|item| item.recorded && !is_gap(item))
    }

    #[inline]
    pub(super) fn head(&self) -> Option<&Item> {
        if self.irregular == 0 {
            return self.fresh.items.front();
        }
        match (self.fresh.items.front(), self.returned.values().next()) {
            (Some(fresh), Some(returned)) => Some(fresh.min(returned)),
            (None, Some(returned)) => {
                Some(returned).filter(|head| self.first_away().is_none_or(|away| head.sequence < away))
            }
            (fresh, None) => fresh,
        }
    }

    #[inline]
    pub(super) fn push(&mut self, item: Item) {
        match &mut self.tail {
            None => self.fresh.items.push_back(item),
            Some(tail) => tail.back.items.push_back(item),
        }
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Item> {
        if self.irregular == 0 { self.pop_fresh(1) } else { self.pop_irregular() }
    }

    /// Takes the next new message, with those of its batch that follow, at most `most` in all. Gaps behind it stay.
    #[inline]
    pub(super) fn pop_fresh(&mut self, most: u16) -> Option<Item> {
        let front = self.fresh.items.front_mut()?;
        if u16::from(front.followers) >= most {
            Some(front.split_off_first(most))
        } else {
            self.fresh.items.pop_front()
        }
    }

    fn pop_irregular(&mut self) -> Option<Item> {
        let head = *self.head()?;
        if let Some(returned) = self.returned.remove(&head.sequence) {
            self.irregular -= 1;
            return Some(returned);
        }
        let item = self.pop_fresh(1);
        self.fresh.drop_first_gaps();
        self.count_irregular();
        item
    }

    pub(super) fn put_back(&mut self, item: Item) {
        self.returned.insert(item.sequence, item);
        self.irregular += 1;
    }

    /// The first message that is not before a place.
    pub(super) fn next_at(&self, place: u64) -> Option<Look> {
        let returned = self.returned.range(place..).next().map(|(_, item)| *item);
        let fresh = self.fresh.next_at(place);
        let Some(tail) = &self.tail else { return returned.into_iter().chain(fresh).min().map(Look::Here) };
        let here = returned.into_iter().chain(fresh).chain(tail.back.next_at(place)).min();
        let away = tail.next_at(place).filter(|&away| here.is_none_or(|here| away < here.sequence));
        match away {
            Some(place) => Some(Look::Away { level: tail.paged.level(), place }),
            None => here.map(Look::Here),
        }
    }

    /// Takes the message at a place, if it is in memory.
    pub(super) fn remove(&mut self, place: u64) -> Option<Item> {
        if let Some(item) = self.returned.remove(&place) {
            self.irregular -= 1;
            return Some(item);
        }
        let mut item = self.fresh.remove(place, &mut self.returned);
        if item.is_none()
            && let Some(tail) = &mut self.tail
        {
            item = tail.back.remove(place, &mut self.returned);
        }
        self.count_irregular();
        item
    }

    pub(super) fn is_empty(&self) -> bool {
        self.fresh.items.is_empty() && self.returned.is_empty() && self.tail.is_none()
    }

    #[inline]
    pub(super) fn shrink(&mut self) {
        self.fresh.shrink();
    }

    /// After messages have left from both ends of rows.
    fn count_gaps(&mut self) {
        self.fresh.gaps = self.fresh.items.iter().filter(|item| is_gap(item)).count();
        if let Some(tail) = &mut self.tail {
            tail.back.gaps = tail.back.items.iter().filter(|item| is_gap(item)).count();
        }
        self.count_irregular();
    }

    fn count_irregular(&mut self) {
        self.irregular = self.returned.len() + self.fresh.gaps;
    }
}

/// What is out of memory.
impl Level {
    /// Whether something is.
    pub(super) fn has_tail(&self) -> bool {
        self.tail.is_some()
    }

    /// The first message, if it is out of memory and nobody reads it yet.
    pub(super) fn head_away(&self) -> Option<PagedItem> {
        let tail = self.tail.as_ref()?;
        if tail.ticket.is_some() || self.head().is_some() { None } else { tail.paged.first() }
    }

    /// The bytes that are in memory before what is out of it, in `fresh` alone, about.
    pub(super) fn bytes_ahead(&self) -> u64 {
        let items = &self.fresh.items;
        items.front().map_or(0, |first| items.len() as u64 * (first.all_body_bytes() + SMALLEST_BYTES))
    }

    /// Whether there is something that was not put out of memory and could be.
    pub(super) fn may_page_out(&self) -> bool {
        let row = self.tail.as_ref().map_or(&self.fresh, |tail| &tail.back);
        !row.items.is_empty()
    }

    /// Whether something is being read.
    pub(super) fn is_reading(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.ticket.is_some())
    }

    /// Puts a message out of memory that was never in it, or some of a batch. What is in memory on the wrong side of it
    /// counts as if it had come back.
    pub(super) fn put_away(&mut self, paged: PagedItem) {
        let place = paged.item.sequence;
        let from = self.fresh.items.partition_point(|item| item.sequence < place);
        self.fresh.items.drain(from..).for_each(|item| put_apart(item, &mut self.returned));
        if let Some(tail) = &mut self.tail {
            let end = tail.back.items.partition_point(|item| item.sequence < place);
            tail.back.items.drain(..end).for_each(|item| put_apart(item, &mut self.returned));
            tail.are_first &= tail.arriving.back().is_none_or(|last| last.item.sequence < place);
        }
        if !self.fresh.items.is_empty() || !self.returned.is_empty() {
            self.count_gaps();
        }
        let tail = self.tail.get_or_insert_with(|| Tail::new(paged.item.priority));
        tail.paged.insert(paged);
    }

    /// Puts messages out of memory, beyond the first ones, until `page` says that one has to stay, or that there were
    /// enough. Gives how many, and their bytes.
    pub(super) fn page_out(
        &mut self,
        level: u8,
        kept: Kept,
        page: &mut impl FnMut(&Item) -> Option<Position>,
    ) -> (usize, u64) {
        let mut out = (0, 0);
        let mut note = |item: &Item| {
            out.0 += item.messages();
            out.1 += item.all_body_bytes();
        };
        if self.tail.is_none() && !self.split(level, kept, page, &mut note) {
            return out;
        }
        let Some(tail) = &mut self.tail else { return out };
        while let Some(item) = tail.back.items.front() {
            if is_gap(item) {
                tail.back.gaps -= 1;
            } else {
                let Some(at) = page(item) else { return out };
                note(item);
                tail.paged.insert(PagedItem::new(*item, at));
            }
            tail.back.items.pop_front();
        }
        tail.back.shrink();
        self.page_returned(page, &mut note);
        out
    }

    /// Makes a tail of the new messages beyond the first ones. Whether that could be.
    fn split(
        &mut self,
        level: u8,
        kept: Kept,
        page: &mut impl FnMut(&Item) -> Option<Position>,
        note: &mut impl FnMut(&Item),
    ) -> bool {
        let items = &mut self.fresh.items;
        let Some(like) = items.front() else { return false };
        let by_bytes = kept.bytes / (like.all_body_bytes() + SMALLEST_BYTES);
        let by_messages = kept.messages.div_ceil(like.messages() as u64);
        let kept_items = usize::try_from(by_bytes.min(by_messages)).unwrap_or(usize::MAX);
        let Some(from) = (kept_items..items.len()).find(|&at| !is_gap(&items[at])) else { return false };
        let first = items[from];
        let Some(at) = page(&first) else { return false };
        let behind = items.split_off(from + 1);
        items.truncate(kept_items);
        items.shrink_to(KEPT_SLOTS.min(2 * kept_items));
        let count_gaps = |items: &VecDeque<Item>| items.iter().filter(|item| is_gap(item)).count();
        let back = match self.fresh.gaps {
            0 => Row { items: behind, gaps: 0 },
            _ => Row { gaps: count_gaps(&behind), items: behind },
        };
        self.fresh.gaps = if self.fresh.gaps == 0 { 0 } else { count_gaps(items) };
        self.count_irregular();
        let mut tail = Tail::new(level);
        tail.paged.insert(PagedItem::new(first, at));
        note(&first);
        tail.back = back;
        self.tail = Some(tail);
        true
    }

    /// Puts what somebody has looked at further on out of memory again.
    fn page_returned(
        &mut self,
        page: &mut impl FnMut(&Item) -> Option<Position>,
        note: &mut impl FnMut(&Item),
    ) {
        let Some(tail) = &mut self.tail else { return };
        // What is read next goes behind the last one of these.
        let arriving =
            tail.arriving.back().filter(|_| tail.are_first).map(|paged| paged.item.last_sequence());
        let ahead = self.fresh.items.back().map(Item::last_sequence);
        let from = arriving.or(ahead).map_or(0, |last| last + 1);
        let end = tail.back.items.front().map_or(u64::MAX, |item| item.sequence);
        if from >= end {
            return;
        }
        let mut away = Vec::new();
        for (_, item) in self.returned.range(from..end) {
            let Some(at) = page(item) else { break };
            away.push(PagedItem::new(*item, at));
        }
        for paged in &away {
            note(&paged.item);
            self.returned.remove(&paged.item.sequence);
        }
        tail.paged.insert_sorted(&away);
        self.count_irregular();
    }

    /// Notes that messages are being read: the first ones that are out of memory, or those from a place on. `false`: none
    /// are, or others are being read.
    pub(super) fn begin_read(&mut self, ticket: Ticket, place: Option<u64>, most_bytes: u64) -> bool {
        let Some(tail) = self.tail.as_mut().filter(|tail| tail.ticket.is_none()) else { return false };
        match place {
            None => tail.paged.take_first(most_bytes, &mut tail.arriving),
            Some(place) => tail.paged.take_from(place, most_bytes, &mut tail.arriving),
        }
        if tail.arriving.is_empty() {
            return false;
        }
        (tail.ticket, tail.are_first) = (Some(ticket), place.is_none());
        true
    }

    /// The messages that are being read, of which the first one comes next.
    pub(super) fn arriving(&self, ticket: Ticket) -> Option<&VecDeque<PagedItem>> {
        let tail = self.tail.as_ref().filter(|tail| tail.ticket == Some(ticket))?;
        Some(&tail.arriving)
    }

    /// What comes next is here. Whether that was the last one of those being read.
    pub(super) fn arrive(&mut self, message: MessageId) -> Option<(Item, bool)> {
        let tail = self.tail.as_mut()?;
        let PagedItem { item, .. } = tail.arriving.pop_front()?;
        let item = Item { message, ..item };
        let is_last = tail.arriving.is_empty();
        if tail.are_first {
            self.fresh.items.push_back(item);
        } else {
            put_apart(item, &mut self.returned);
            self.irregular = self.returned.len() + self.fresh.gaps;
        }
        if is_last {
            tail.ticket = None;
            self.end_tail();
        }
        Some((item, is_last))
    }

    /// What is missing of those being read stays out of memory.
    pub(super) fn give_up_read(&mut self, ticket: Ticket) {
        let Some(tail) = self.tail.as_mut().filter(|tail| tail.ticket == Some(ticket)) else { return };
        tail.ticket = None;
        let missing: Vec<PagedItem> = tail.arriving.drain(..).collect();
        tail.paged.insert_sorted(&missing);
    }

    /// Takes the first message that is out of memory, whether it is being read or not.
    pub(super) fn pop_away(&mut self) -> Option<PagedItem> {
        let tail = self.tail.as_mut()?;
        let popped = match tail.arriving.front().filter(|_| tail.are_first || tail.paged.is_empty()) {
            Some(_) => tail.arriving.pop_front(),
            None => tail.paged.pop(),
        };
        if tail.arriving.is_empty() {
            tail.ticket = None;
        }
        self.end_tail();
        popped
    }

    /// Where the record is of the message at a place that is out of memory.
    pub(super) fn away_at(&mut self, place: u64) -> Option<Position> {
        let tail = self.tail.as_mut()?;
        if let Some(paged) = tail.find_arriving(place) {
            return Some(paged.at);
        }
        tail.paged.position_at(place)
    }

    /// The record of a message that is out of memory is elsewhere now; whether it was at `old` until now. `None`: no such
    /// message is.
    pub(super) fn relocate(&mut self, place: u64, old: Position, new: Position) -> Option<bool> {
        let tail = self.tail.as_mut()?;
        let Some(paged) = tail.find_arriving(place) else { return tail.paged.relocate(place, old, new) };
        let is_moved = paged.at == old;
        paged.at = if is_moved { new } else { paged.at };
        Some(is_moved)
    }

    /// The place of the first message that is out of memory.
    fn first_away(&self) -> Option<u64> {
        self.tail.as_ref()?.next_at(0)
    }

    /// Once nothing is out of memory any more, what came behind it is as everything else.
    fn end_tail(&mut self) {
        let is_over = |tail: &mut Box<Tail>| tail.paged.is_empty() && tail.arriving.is_empty();
        let Some(mut tail) = self.tail.take_if(is_over) else { return };
        if self.fresh.items.is_empty() {
            tail.back.drop_first_gaps();
            self.fresh = tail.back;
        } else {
            self.fresh.items.append(&mut tail.back.items);
            self.fresh.gaps += tail.back.gaps;
        }
        self.count_irregular();
    }
}

impl Tail {
    fn new(level: u8) -> Box<Self> {
        Box::new(Tail {
            arriving: VecDeque::new(),
            ticket: None,
            are_first: false,
            paged: Paged::new(level),
            back: Row::default(),
        })
    }

    /// The place of the first message that is out of memory and not before a place.
    fn next_at(&self, place: u64) -> Option<u64> {
        let at = self.arriving.partition_point(|paged| paged.item.last_sequence() < place);
        let arriving = self.arriving.get(at).map(|paged| paged.item.sequence.max(place));
        arriving.into_iter().chain(self.paged.next_at(place)).min()
    }

    fn find_arriving(&mut self, place: u64) -> Option<&mut PagedItem> {
        let at = self.arriving.partition_point(|paged| paged.item.last_sequence() < place);
        self.arriving.get_mut(at).filter(|paged| paged.item.sequence <= place)
    }
}
