//! When messages are due, whatever became of the earlier ones (open loop).

use crate::draw::Draw;

/// The moments at which a publisher's messages are due.
#[derive(Clone, Debug)]
pub struct Schedule {
    next_due_ns: u64,
    spacing: Spacing,
}

#[derive(Clone, Debug)]
enum Spacing {
    /// Message `n` is due at `start + n / rate`, computed anew for each, so that rounding never adds up.
    Even { start_ns: u64, rate_hz: u64, next: u64 },
    /// Exponentially distributed pauses.
    Poisson { at_ns: f64, mean_ns: f64, draw: Draw },
}

impl Schedule {
    /// `rate_hz` messages a second, evenly, the first one at `start_ns`.
    pub fn even(start_ns: u64, rate_hz: u64) -> Self {
        assert!(rate_hz > 0, "a schedule without a rate");
        Schedule { next_due_ns: start_ns, spacing: Spacing::Even { start_ns, rate_hz, next: 0 } }
    }

    /// `rate_hz` messages a second on average, as independent events.
    pub fn poisson(start_ns: u64, rate_hz: u64, seed: u64) -> Self {
        assert!(rate_hz > 0, "a schedule without a rate");
        let spacing =
            Spacing::Poisson { at_ns: start_ns as f64, mean_ns: 1e9 / rate_hz as f64, draw: Draw::new(seed) };
        let mut schedule = Schedule { next_due_ns: start_ns, spacing };
        schedule.take();
        schedule
    }

    /// When the next message is due.
    #[inline]
    pub fn next_due_ns(&self) -> u64 {
        self.next_due_ns
    }

    /// Takes the next message; returns when it was due.
    #[inline]
    pub fn take(&mut self) -> u64 {
        let due_ns = self.next_due_ns;
        self.next_due_ns = match &mut self.spacing {
            Spacing::Even { start_ns, rate_hz, next } => {
                *next += 1;
                *start_ns + (u128::from(*next) * 1_000_000_000).div_ceil(u128::from(*rate_hz)) as u64
            }
            Spacing::Poisson { at_ns, mean_ns, draw } => {
                *at_ns += draw.exponential(*mean_ns);
                *at_ns as u64
            }
        };
        due_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_rate_without_drift() {
        let mut schedule = Schedule::even(500, 3);
        let due: Vec<u64> = (0..7).map(|_| schedule.take()).collect();
        assert_eq!(due[..3], [500, 333_333_834, 666_667_167]);
        assert_eq!(due[3], 1_000_000_500);
        assert_eq!(due[6], 2_000_000_500);
    }

    #[test]
    fn a_message_stays_due_until_it_is_taken() {
        let mut schedule = Schedule::even(1_000, 7_000);
        for _ in 0..100 {
            let due_ns = schedule.next_due_ns();
            assert_eq!(schedule.next_due_ns(), due_ns);
            assert_eq!(schedule.take(), due_ns);
            assert!(schedule.next_due_ns() > due_ns);
        }
    }

    #[test]
    fn a_poisson_schedule_has_its_rate_and_is_the_same_for_the_same_seed() {
        let due = |seed| {
            let mut schedule = Schedule::poisson(1_000, 10_000, seed);
            (0..100_000).map(|_| schedule.take()).collect::<Vec<u64>>()
        };
        let moments = due(3);
        assert_eq!(moments, due(3));
        assert_ne!(moments, due(4));
        let seconds = (moments[99_999] - 1_000) as f64 / 1e9;
        assert!((9.8..10.2).contains(&seconds), "100,000 messages took {seconds} s");
        let pauses: Vec<u64> = moments.windows(2).map(|pair| pair[1] - pair[0]).collect();
        let short = pauses.iter().filter(|pause| **pause < 100_000).count() as f64 / pauses.len() as f64;
        assert!((short - (1.0 - (-1.0f64).exp())).abs() < 0.01, "{short} of the pauses are below the mean");
    }
}
