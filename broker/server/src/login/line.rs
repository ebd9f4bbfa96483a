//! Where passwords wait to be checked, which takes tens of milliseconds each: who is least likely to guess goes first.
//!
//! 1. Whoever has failed goes behind whoever has not, the more often the further; among equals, addresses from which
//!    somebody has logged in before go first, and then who came first.
//! 2. No more than [`MAX_WAITING`] wait: beyond that the last in the line is turned away.
//! 3. Who has waited for as long as a handshake may take is forgotten: its connection is gone.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use fulmar_policy::patience::Patience;

/// Passwords that may wait; some megabytes, and half a minute of checking.
const MAX_WAITING: usize = 1000;
/// Addresses from which somebody has logged in that are remembered.
const MAX_FRIENDS: usize = 10_000;

/// The line. `Q` is what waits.
pub struct Line<Q> {
    waiting: Vec<Waiting<Q>>,
    friends: HashSet<IpAddr>,
}

struct Waiting<Q> {
    question: Q,
    address: IpAddr,
    asked: Instant,
    /// It has been made to wait for its failures already.
    has_paused: bool,
}

/// What comes out of the line.
#[derive(Debug, PartialEq)]
pub enum Next<Q> {
    /// To be checked now.
    Check(Q),
    /// To be brought back at this time.
    Later(Instant, Q),
    /// To be turned away, for the failures from its address.
    Refuse(Q),
}

impl<Q> Default for Line<Q> {
    fn default() -> Self {
        Line { waiting: Vec::new(), friends: HashSet::new() }
    }
}

impl<Q> Line<Q> {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Somebody has logged in from there.
    pub fn befriend(&mut self, address: IpAddr) {
        if self.friends.len() >= MAX_FRIENDS {
            self.friends.clear();
        }
        self.friends.insert(address);
    }

    /// Puts a question into the line, in its place; returns whom there is no room for.
    pub fn push(
        &mut self,
        question: Q,
        (address, asked): (IpAddr, Instant),
        has_paused: bool,
        patience: &Patience,
    ) -> Option<Q> {
        self.waiting.push(Waiting { question, address, asked, has_paused });
        if self.waiting.len() <= MAX_WAITING {
            return None;
        }
        let last = self.by_rank(patience).max().map(|(_, place)| place)?;
        Some(self.waiting.swap_remove(last).question)
    }

    /// Who is next; those who have waited for more than `most` are forgotten.
    pub fn next(&mut self, patience: &mut Patience, now: Instant, most: Duration) -> Option<Next<Q>> {
        self.waiting.retain(|waiting| now.saturating_duration_since(waiting.asked) < most);
        let (_, place) = self.by_rank(patience).min()?;
        let Waiting { question, address, has_paused, .. } = self.waiting.swap_remove(place);
        if has_paused {
            return Some(Next::Check(question));
        }
        Some(match patience.turn(address, now, most) {
            Some(due) if due <= now => Next::Check(question),
            Some(due) => Next::Later(due, question),
            None => Next::Refuse(question),
        })
    }

    /// How far back each one is, and its place.
    fn by_rank(&self, patience: &Patience) -> impl Iterator<Item = ((u32, bool, Instant), usize)> {
        self.waiting.iter().enumerate().map(|(place, waiting)| {
            let is_stranger = !self.friends.contains(&waiting.address);
            ((patience.failures(waiting.address), is_stranger, waiting.asked), place)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: Duration = Duration::from_secs(10);

    fn address(last: u32) -> IpAddr {
        IpAddr::from(last.to_be_bytes())
    }

    struct Scene {
        line: Line<u32>,
        patience: Patience,
        start: Instant,
    }

    impl Scene {
        fn new() -> Self {
            Scene { line: Line::default(), patience: Patience::default(), start: Instant::now() }
        }

        /// Somebody asks, so many milliseconds after the start.
        fn ask(&mut self, question: u32, from: u32, at_ms: u64) -> Option<u32> {
            let asked = self.start + Duration::from_millis(at_ms);
            self.line.push(question, (address(from), asked), false, &self.patience)
        }

        fn next(&mut self, at_ms: u64) -> Option<Next<u32>> {
            self.line.next(&mut self.patience, self.start + Duration::from_millis(at_ms), MOST)
        }
    }

    #[test]
    fn who_came_first_goes_first_but_friends_before_strangers_and_guessers_last() {
        let mut scene = Scene::new();
        scene.line.befriend(address(4));
        scene.patience.failed(address(1), scene.start);
        for (question, from) in [(10, 1), (20, 2), (30, 3), (40, 4)] {
            assert_eq!(scene.ask(question, from, u64::from(question)), None);
        }
        let order: Vec<_> = std::iter::from_fn(|| scene.next(100)).collect();
        assert_eq!(order, [40, 20, 30, 10].map(Next::Check));
        assert!(scene.line.is_empty());
    }

    #[test]
    fn many_from_one_address_are_slowed_though_they_came_before_the_first_had_failed() {
        let mut scene = Scene::new();
        for question in 0..100 {
            scene.ask(question, 1, 0);
        }
        let mut checked = 0;
        while let Some(next) = scene.next(1) {
            if matches!(next, Next::Check(_)) {
                checked += 1;
                let now = scene.start + Duration::from_millis(1);
                scene.patience.failed(address(1), now);
            }
        }
        assert!(checked < 10, "{checked} were checked at once");
    }

    #[test]
    fn who_has_paused_does_not_pause_again() {
        let mut scene = Scene::new();
        for _ in 0..8 {
            scene.patience.failed(address(1), scene.start);
        }
        scene.ask(1, 1, 0);
        assert!(matches!(scene.next(1), Some(Next::Later(_, 1))));
        scene.line.push(1, (address(1), scene.start), true, &scene.patience);
        assert_eq!(scene.next(2000), Some(Next::Check(1)));
    }

    #[test]
    fn the_line_is_bounded_and_the_last_are_turned_away() {
        let mut scene = Scene::new();
        scene.patience.failed(address(1), scene.start);
        for question in 0..MAX_WAITING as u32 {
            assert_eq!(scene.ask(question, 1, u64::from(question)), None);
        }
        assert_eq!(scene.ask(5000, 2, 5000), Some(MAX_WAITING as u32 - 1));
        assert_eq!(scene.ask(6000, 1, 6000), Some(6000));
        assert_eq!(scene.next(6001), Some(Next::Check(5000)));
    }

    #[test]
    fn who_has_no_time_left_is_forgotten() {
        let mut scene = Scene::new();
        scene.ask(1, 1, 0);
        scene.ask(2, 2, 5000);
        assert_eq!(scene.next(10_001), Some(Next::Check(2)));
        assert_eq!(scene.next(10_001), None);
    }
}
