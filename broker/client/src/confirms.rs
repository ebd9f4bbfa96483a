//! Publishes whose answer the broker owes.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use crate::Error;

/// The unconfirmed publishes of a channel, in order.
#[derive(Default)]
pub(crate) struct Confirms {
    /// Sequence number of the first slot; the first publish of a connection has 1.
    first: u64,
    /// `None` once answered out of order.
    slots: VecDeque<Option<Slot>>,
    open: usize,
    /// Refused or lost since somebody last asked.
    failed: Option<Error>,
}

/// One publish.
pub(crate) struct Slot {
    /// Who waits for the answer.
    pub waiter: Option<oneshot::Sender<Result<(), Error>>>,
    /// The frames, if they shall be sent again.
    pub frames: Box<[u8]>,
}

impl Confirms {
    pub(crate) fn new() -> Self {
        Confirms { first: 1, ..Default::default() }
    }

    /// How many are open.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// The next publish.
    pub(crate) fn push(&mut self, slot: Slot) {
        self.slots.push_back(Some(slot));
        self.open += 1;
    }

    /// The broker's answer. Numbers that are not open are ignored.
    pub(crate) fn settle(&mut self, sequence: u64, multiple: bool, acked: bool) {
        let result = || if acked { Ok(()) } else { Err(Error::Nacked) };
        if multiple {
            // 0 stands for all.
            let last = if sequence == 0 { u64::MAX } else { sequence };
            while self.first <= last && !self.slots.is_empty() {
                self.finish(0, result());
                self.slots.pop_front();
                self.first += 1;
            }
        } else if let Some(index) = sequence.checked_sub(self.first) {
            self.finish(usize::try_from(index).unwrap_or(usize::MAX), result());
        }
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    /// Ends all that are open with an error.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        for index in 0..self.slots.len() {
            self.finish(index, Err(error.clone()));
        }
        self.slots.clear();
    }

    /// Over a new connection numbers begin at 1 again: closes the gaps. The frames that are left are to be sent in
    /// this order.
    pub(crate) fn renumber(&mut self) -> impl Iterator<Item = &[u8]> {
        self.slots.retain(Option::is_some);
        self.first = 1;
        self.slots.iter().flatten().map(|slot| &*slot.frames)
    }

    /// The first failure since the last call.
    pub(crate) fn take_failure(&mut self) -> Result<(), Error> {
        self.failed.take().map_or(Ok(()), Err)
    }

    fn finish(&mut self, index: usize, result: Result<(), Error>) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else {
            return;
        };
        self.open -= 1;
        if let Err(error) = &result {
            self.failed.get_or_insert_with(|| error.clone());
        }
        if let Some(waiter) = slot.waiter {
            // Nobody may wait any more.
            let _ = waiter.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(count: usize) -> (Confirms, Vec<oneshot::Receiver<Result<(), Error>>>) {
        let mut confirms = Confirms::new();
        let receivers = (0..count).map(|index| {
            let (waiter, receiver) = oneshot::channel();
            confirms.push(Slot { waiter: Some(waiter), frames: Box::new([index as u8]) });
            receiver
        });
        let receivers = receivers.collect();
        (confirms, receivers)
    }

    fn answers(receivers: &mut [oneshot::Receiver<Result<(), Error>>]) -> String {
        let answer = |receiver: &mut oneshot::Receiver<_>| match receiver.try_recv() {
            Ok(Ok(())) => 'a',
            Ok(Err(Error::Nacked)) => 'n',
            Ok(Err(_)) => 'e',
            Err(_) => '-',
        };
        receivers.iter_mut().map(answer).collect()
    }

    #[test]
    fn answers_come_alone_out_of_order_and_in_groups() {
        let (mut confirms, mut receivers) = with(5);
        confirms.settle(2, false, false);
        assert_eq!((confirms.open(), answers(&mut receivers).as_str()), (4, "-n---"));
        confirms.settle(3, true, true);
        confirms.settle(3, false, true);
        assert_eq!((confirms.open(), answers(&mut receivers).as_str()), (2, "a-a--"));
        confirms.settle(99, false, true);
        confirms.settle(0, true, true);
        assert_eq!((confirms.open(), answers(&mut receivers).as_str()), (0, "---aa"));
        assert!(matches!(confirms.take_failure(), Err(Error::Nacked)));
        assert!(confirms.take_failure().is_ok());
    }

    #[test]
    fn what_is_sent_again_is_numbered_anew() {
        let (mut confirms, mut receivers) = with(4);
        confirms.settle(2, false, true);
        let frames: Vec<u8> = confirms.renumber().flatten().copied().collect();
        assert_eq!(frames, [0, 2, 3]);
        confirms.settle(2, true, true);
        assert_eq!(answers(&mut receivers), "aaa-");
        confirms.fail_all(&Error::Closed);
        assert_eq!((confirms.open(), answers(&mut receivers).as_str()), (0, "---e"));
    }
}
