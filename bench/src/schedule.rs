//! When messages are due: at a constant rate, whatever became of the earlier ones (open loop).

/// A constant rate from a start. Slot `n` is due at `start + n / rate`, computed anew for each slot, so that rounding
/// never adds up.
#[derive(Clone, Debug)]
pub struct Schedule {
    start_ns: u64,
    rate_hz: u64,
    next: u64,
}

impl Schedule {
    /// `rate_hz` messages a second, the first one at `start_ns`.
    pub fn new(start_ns: u64, rate_hz: u64) -> Self {
        assert!(rate_hz > 0, "a schedule without a rate");
        Schedule { start_ns, rate_hz, next: 0 }
    }

    /// When the next message is due.
    pub fn next_due_ns(&self) -> u64 {
        self.due_ns(self.next)
    }

    /// How many messages are due at `now_ns` and have not been taken.
    pub fn due(&self, now_ns: u64) -> u64 {
        let Some(elapsed_ns) = now_ns.checked_sub(self.start_ns) else { return 0 };
        let slots = u128::from(elapsed_ns) * u128::from(self.rate_hz) / 1_000_000_000 + 1;
        (slots as u64).saturating_sub(self.next)
    }

    /// Takes the next message; returns when it was due.
    pub fn take(&mut self) -> u64 {
        let due_ns = self.next_due_ns();
        self.next += 1;
        due_ns
    }

    fn due_ns(&self, slot: u64) -> u64 {
        self.start_ns + (u128::from(slot) * 1_000_000_000).div_ceil(u128::from(self.rate_hz)) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_rate_without_drift() {
        let mut schedule = Schedule::new(500, 3);
        let due: Vec<u64> = (0..7).map(|_| schedule.take()).collect();
        assert_eq!(due[..3], [500, 333_333_834, 666_667_167]);
        assert_eq!(due[3], 1_000_000_500);
        assert_eq!(due[6], 2_000_000_500);
    }

    #[test]
    fn a_message_is_due_from_its_moment_on_and_stays_due_until_taken() {
        let mut schedule = Schedule::new(1_000, 7_000);
        assert_eq!(schedule.due(0), 0);
        assert_eq!(schedule.due(999), 0);
        assert_eq!(schedule.due(1_000), 1);
        for _ in 0..100 {
            let due_ns = schedule.next_due_ns();
            assert_eq!(schedule.due(due_ns - 1), 0);
            assert_eq!(schedule.due(due_ns), 1);
            assert_eq!(schedule.take(), due_ns);
        }
        assert_eq!(schedule.due(schedule.next_due_ns() + 1_000_000_000), 7_001);
    }
}
