//! When a shard with nothing to do stops looking and waits: the first knob of latency.
//!
//! Waking a sleeping thread costs several times more than all the rest of a message's way; looking in vain costs a
//! core. Used by the broker's shards and by the floor measurements, so that both idle alike. Pure: the caller tells
//! the time.

use std::fmt;
use std::str::FromStr;

/// What a thread does between two things to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Looks all the time and never waits. Takes a core.
    Spin,
    /// Looks for a while, as long as what came lately promises that something comes soon; then waits.
    #[default]
    Adaptive,
    /// Waits at once.
    Block,
}

impl IdleStrategy {
    /// Its name, as options and reports use it.
    pub fn name(self) -> &'static str {
        match self {
            IdleStrategy::Spin => "spin",
            IdleStrategy::Adaptive => "adaptive",
            IdleStrategy::Block => "block",
        }
    }
}

impl fmt::Display for IdleStrategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for IdleStrategy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "spin" => Ok(IdleStrategy::Spin),
            "adaptive" => Ok(IdleStrategy::Adaptive),
            "block" => Ok(IdleStrategy::Block),
            other => Err(format!("'{other}' is not an idle strategy (spin, adaptive or block)")),
        }
    }
}

/// Longest time that [`IdleStrategy::Adaptive`] looks before it waits, in nanoseconds.
pub const MAX_SPIN_NS: u64 = 150_000;
/// Shortest; less than a wake-up costs.
pub const MIN_SPIN_NS: u64 = 4_000;
/// Looks between two offers of the core to others. They are rare, since a neighbour that takes the core keeps it for a
/// whole time slice.
const LOOKS_PER_YIELD: u32 = 64;

/// The idle strategy of one thread, with what it has learnt.
#[derive(Clone, Debug)]
pub struct Idle {
    strategy: IdleStrategy,
    last_work_ns: u64,
    spin_ns: u64,
    looks: u32,
}

impl Idle {
    /// Starts with `strategy`, in the middle of its range.
    pub fn new(strategy: IdleStrategy) -> Self {
        Idle { strategy, last_work_ns: 0, spin_ns: MAX_SPIN_NS / 2, looks: 0 }
    }

    /// A turn had something to do. The time since the last such turn tells whether looking pays: gaps that looking
    /// can bridge raise the limit, longer ones halve it.
    #[inline]
    pub fn worked(&mut self, now_ns: u64) {
        let gap = now_ns.saturating_sub(self.last_work_ns);
        self.last_work_ns = now_ns;
        self.looks = 0;
        if gap > MAX_SPIN_NS {
            self.spin_ns = (self.spin_ns / 2).max(MIN_SPIN_NS);
        } else if gap * 2 > self.spin_ns {
            self.spin_ns = (gap * 2).min(MAX_SPIN_NS);
        }
    }

    /// A turn had nothing to do: whether to wait now, rather than to look again.
    #[inline]
    pub fn may_wait(&mut self, now_ns: u64) -> bool {
        match self.strategy {
            IdleStrategy::Spin => false,
            IdleStrategy::Block => true,
            IdleStrategy::Adaptive => {
                if now_ns.saturating_sub(self.last_work_ns) >= self.spin_ns {
                    return true;
                }
                self.looks += 1;
                if self.looks.is_multiple_of(LOOKS_PER_YIELD) {
                    std::thread::yield_now();
                }
                false
            }
        }
    }

    /// The same while the disk is flushing: the kernel ends that by work on this very processor, which a thread that looks
    /// again and again keeps waiting.
    #[inline]
    pub fn may_wait_for_disk(&self) -> bool {
        self.strategy != IdleStrategy::Spin
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks_ns(idle: &mut Idle, from_ns: u64) -> u64 {
        (0..).map(|i| i * 1_000).find(|&waited| idle.may_wait(from_ns + waited)).unwrap()
    }

    #[test]
    fn names_are_read_back() {
        for strategy in [IdleStrategy::Spin, IdleStrategy::Adaptive, IdleStrategy::Block] {
            assert_eq!(strategy.name().parse(), Ok(strategy));
        }
        assert!("busy".parse::<IdleStrategy>().is_err());
    }

    #[test]
    fn spin_never_waits_and_block_always_does() {
        assert!(!Idle::new(IdleStrategy::Spin).may_wait(u64::MAX));
        assert!(Idle::new(IdleStrategy::Block).may_wait(0));
    }

    #[test]
    fn adaptive_bridges_short_gaps_and_gives_up_on_long_ones() {
        let mut idle = Idle::new(IdleStrategy::Adaptive);
        let mut now = 0;
        for _ in 0..20 {
            now += 100_000;
            idle.worked(now);
        }
        assert!(looks_ns(&mut idle, now) > 100_000, "a gap of 100 µs is bridged");
        for _ in 0..20 {
            now += 1_000_000;
            idle.worked(now);
        }
        assert!(looks_ns(&mut idle, now) <= MIN_SPIN_NS, "gaps of 1 ms are not worth looking");
        for _ in 0..5 {
            now += 50_000;
            idle.worked(now);
        }
        assert!(looks_ns(&mut idle, now) >= 50_000, "and the limit recovers");
    }
}
