//! Slows down who guesses passwords: after some failures, logins from an address are looked at one after the other, with
//! a pause between them that doubles. Others are not held up.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Failures that cost nothing.
const FREE_FAILURES: u32 = 5;
/// The first pause.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest.
const LONGEST: Duration = Duration::from_secs(8);
/// How long it takes until a failure is forgotten.
const FORGIVEN_AFTER: Duration = Duration::from_secs(20);
/// Addresses that are remembered. When there are more, those whose failures are the fewest are forgotten.
const MAX_ADDRESSES: usize = 10_000;

/// What is remembered of addresses from which logins failed.
#[derive(Debug, Default)]
pub struct Patience {
    addresses: HashMap<IpAddr, Record>,
}

#[derive(Debug)]
struct Record {
    failures: u32,
    /// When the last one was, or was forgiven.
    since: Instant,
    /// Before this no further login is looked at.
    next: Instant,
}

impl Record {
    fn forgive(&mut self, now: Instant) {
        while self.failures > 0 && now.saturating_duration_since(self.since) >= FORGIVEN_AFTER {
            self.failures -= 1;
            self.since += FORGIVEN_AFTER;
        }
    }

    fn pause(&self) -> Duration {
        match self.failures.checked_sub(FREE_FAILURES) {
            None => Duration::ZERO,
            Some(more) => LONGEST.min(SHORTEST * (1 << more.min(10))),
        }
    }
}

impl Patience {
    /// When a login from an address may be looked at, and takes that turn. `None`: not within `most`, it is to be refused.
    pub fn turn(&mut self, address: IpAddr, now: Instant, most: Duration) -> Option<Instant> {
        let Some(record) = self.addresses.get_mut(&address) else { return Some(now) };
        record.forgive(now);
        let pause = record.pause();
        if pause.is_zero() {
            return Some(now);
        }
        let due = record.next.max(now);
        if due > now + most {
            return None;
        }
        record.next = due + pause;
        Some(due)
    }

    /// How many logins from an address have failed, those that are forgiven left out as of the last one.
    pub fn failures(&self, address: IpAddr) -> u32 {
        self.addresses.get(&address).map_or(0, |record| record.failures)
    }

    /// A login from an address failed.
    pub fn failed(&mut self, address: IpAddr, now: Instant) {
        if self.addresses.len() >= MAX_ADDRESSES && !self.addresses.contains_key(&address) {
            self.make_room(now);
        }
        let record = self.addresses.entry(address).or_insert(Record { failures: 0, since: now, next: now });
        record.forgive(now);
        record.failures += 1;
        record.since = now;
        record.next = record.next.max(now + record.pause());
    }

    fn make_room(&mut self, now: Instant) {
        self.addresses.values_mut().for_each(|record| record.forgive(now));
        let mut failures: Vec<u32> = self.addresses.values().map(|record| record.failures).collect();
        let middle = failures.len() / 2;
        let median = *failures.select_nth_unstable(middle).1;
        self.addresses.retain(|_, record| record.failures > median);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    fn address(last: u32) -> IpAddr {
        IpAddr::from(last.to_be_bytes())
    }

    #[test]
    fn who_fails_often_waits_longer_and_longer_and_others_do_not() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        for _ in 0..FREE_FAILURES - 1 {
            patience.failed(address(1), start);
            assert_eq!(patience.turn(address(1), start, MOST), Some(start));
        }
        let mut now = start;
        let mut pauses = Vec::new();
        for _ in 0..8 {
            patience.failed(address(1), now);
            let due = patience.turn(address(1), now, MOST).unwrap();
            pauses.push((due - now).as_millis());
            now = due;
        }
        assert!(pauses.is_sorted() && pauses[0] == 250 && *pauses.last().unwrap() >= 4000, "{pauses:?}");
        assert_eq!(patience.turn(address(2), now, MOST), Some(now));
    }

    #[test]
    fn many_at_once_take_turns_and_the_rest_is_refused() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for _ in 0..=FREE_FAILURES {
            patience.failed(address(1), now);
        }
        let turns: Vec<_> = (0..1000).filter_map(|_| patience.turn(address(1), now, MOST)).collect();
        assert!(turns.is_sorted_by(|a, b| a < b) && turns.len() < 25, "{}", turns.len());
    }

    #[test]
    fn failures_are_forgiven() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for _ in 0..FREE_FAILURES {
            patience.failed(address(1), now);
        }
        assert!(patience.turn(address(1), now, MOST).unwrap() > now);
        let later = now + FORGIVEN_AFTER;
        assert_eq!(patience.turn(address(1), later, MOST), Some(later));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut patience, now) = (Patience::default(), Instant::now());
        for _ in 0..10 {
            patience.failed(address(7), now);
        }
        for last in 100..100 + 3 * MAX_ADDRESSES as u32 {
            patience.failed(address(last), now);
            assert!(patience.addresses.len() <= MAX_ADDRESSES);
        }
        assert!(
            patience.turn(address(7), now, MOST).is_none_or(|due| due > now),
            "who failed most is remembered"
        );
    }
}
