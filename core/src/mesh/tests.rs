//! The mesh as a whole: order, fairness, backlogs, sleep.

use std::sync::Arc;

use super::*;

#[cfg(not(loom))]
mod whole {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Condvar, Mutex};
    use std::time::Duration;

    use super::*;

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(&self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn counted(shards: usize, slots: usize) -> (Vec<MeshEnd<u32>>, Vec<Arc<Counter>>) {
        let counters: Vec<Arc<Counter>> = (0..shards).map(|_| Arc::default()).collect();
        let wakers = counters.iter().map(|counter| counter.clone() as Arc<dyn Wake>).collect();
        (mesh(wakers, slots), counters)
    }

    fn count(counter: &Counter) -> usize {
        counter.0.load(Ordering::SeqCst)
    }

    #[test]
    fn one_shard_has_nobody_to_talk_to() {
        let (mut ends, counters) = counted(1, 4);
        let end = &mut ends[0];
        end.publish();
        assert_eq!(end.receive(Lane::Data), None);
        assert!(end.prepare_sleep());
        end.awake();
        assert_eq!(count(&counters[0]), 0);
    }

    #[test]
    fn every_pair_and_lane_is_its_own() {
        let (mut ends, _) = counted(3, 4);
        for from in 0..3u8 {
            for to in (0..3u8).filter(|&to| to != from) {
                for (n, lane) in [Lane::Control, Lane::Reply, Lane::Data].into_iter().enumerate() {
                    ends[usize::from(from)].send(
                        ShardId(to),
                        lane,
                        u32::from(from) * 100 + u32::from(to) * 10 + n as u32,
                    );
                }
            }
        }
        ends.iter_mut().for_each(MeshEnd::publish);
        for to in 0..3u8 {
            for (n, lane) in [Lane::Control, Lane::Reply, Lane::Data].into_iter().enumerate() {
                let mut seen = Vec::new();
                while let Some((from, item)) = ends[usize::from(to)].receive(lane) {
                    assert_eq!(item, u32::from(from.0) * 100 + u32::from(to) * 10 + n as u32);
                    seen.push(from.0);
                }
                seen.sort();
                assert_eq!(seen, (0..3).filter(|&from| from != to).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_backlog_keeps_the_order_and_moves_on_when_there_is_room() {
        let (mut ends, _) = counted(2, 4);
        let [a, b] = &mut ends[..] else { unreachable!() };
        (0..10).for_each(|n| a.send(ShardId(1), Lane::Data, n));
        assert!(a.has_backlog());
        let mut seen = Vec::new();
        for n in 10..30 {
            a.publish();
            seen.extend(b.receive(Lane::Data).map(|(_, item)| item));
            a.send(ShardId(1), Lane::Data, n);
        }
        for _ in 0..10 {
            a.publish();
            seen.extend(std::iter::from_fn(|| b.receive(Lane::Data)).map(|(_, item)| item));
        }
        assert!(!a.has_backlog());
        assert_eq!(seen, (0..30).collect::<Vec<_>>());
    }

    #[test]
    fn a_full_data_lane_holds_nothing_else_back() {
        let (mut ends, _) = counted(2, 2);
        let [a, b] = &mut ends[..] else { unreachable!() };
        (0..10).for_each(|n| a.send(ShardId(1), Lane::Data, n));
        a.send(ShardId(1), Lane::Reply, 100);
        a.publish();
        assert_eq!(b.receive(Lane::Reply), Some((ShardId(0), 100)));
    }

    #[test]
    fn a_flood_from_one_shard_does_not_starve_another() {
        let (mut ends, _) = counted(3, 1024);
        (0..1000).for_each(|n| ends[0].send(ShardId(2), Lane::Data, n));
        ends[1].send(ShardId(2), Lane::Data, 5000);
        ends.iter_mut().for_each(MeshEnd::publish);
        let before = std::iter::from_fn(|| ends[2].receive(Lane::Data))
            .take_while(|(from, _)| *from == ShardId(0))
            .count();
        assert!(before <= BURST as usize, "{before} items came first");
    }

    #[test]
    fn only_a_sleeper_is_woken_and_only_once() {
        let (mut ends, counters) = counted(3, 4);
        ends[0].send(ShardId(1), Lane::Data, 1);
        ends[0].publish();
        assert_eq!(count(&counters[1]), 0, "it is awake");
        assert!(!ends[1].prepare_sleep(), "there is work");
        assert!(ends[1].receive(Lane::Data).is_some());
        assert!(ends[1].prepare_sleep());
        ends[0].send(ShardId(1), Lane::Data, 2);
        assert_eq!(count(&counters[1]), 0, "nothing is published");
        ends[0].publish();
        assert_eq!(count(&counters[1]), 1);
        ends[2].send(ShardId(1), Lane::Reply, 3);
        ends[2].publish();
        assert_eq!(count(&counters[1]), 1, "somebody has woken it already");
        ends[1].awake();
        ends[0].send(ShardId(1), Lane::Data, 4);
        ends[0].publish();
        assert_eq!(count(&counters[1]), 1);
    }

    #[test]
    fn room_wakes_a_sleeper_with_a_backlog_and_no_other() {
        let (mut ends, counters) = counted(2, 2);
        let [a, b] = &mut ends[..] else { unreachable!() };
        (0..2).for_each(|n| a.send(ShardId(1), Lane::Data, n));
        assert!(a.prepare_sleep(), "everything fits");
        assert!(b.receive(Lane::Data).is_some());
        b.publish();
        assert_eq!(count(&counters[0]), 0, "it waits for no room");
        a.awake();
        (2..4).for_each(|n| a.send(ShardId(1), Lane::Data, n));
        assert!(a.prepare_sleep(), "the ring is full");
        assert!(b.receive(Lane::Data).is_some());
        assert_eq!(count(&counters[0]), 0);
        b.publish();
        assert_eq!(count(&counters[0]), 1);
        a.awake();
        a.publish();
        assert!(!a.has_backlog());
    }

    /// A waker that blocks a real thread.
    #[derive(Default)]
    struct Sleep {
        woken: Mutex<bool>,
        changed: Condvar,
    }

    impl Wake for Sleep {
        fn wake(&self) {
            *self.woken.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    impl Sleep {
        fn wait(&self) {
            let woken = self.woken.lock().unwrap();
            let (mut woken, timeout) =
                self.changed.wait_timeout_while(woken, Duration::from_secs(60), |woken| !*woken).unwrap();
            assert!(!timeout.timed_out(), "a wake-up was lost");
            *woken = false;
        }
    }

    /// Two threads play ping-pong with bursts larger than the rings and sleep whenever they may.
    #[test]
    fn threads_that_sleep_lose_nothing() {
        let rounds = if cfg!(miri) { 5 } else { 2_000 };
        let burst = 7;
        let sleeps: Vec<Arc<Sleep>> = (0..2).map(|_| Arc::default()).collect();
        let wakers = sleeps.iter().map(|sleep| sleep.clone() as Arc<dyn Wake>).collect();
        let mut ends = mesh::<u32>(wakers, 2);
        let (b, a) = (ends.pop().unwrap(), ends.pop().unwrap());
        let play = move |mut end: MeshEnd<u32>, sleep: Arc<Sleep>, other: ShardId, starts: bool| {
            if starts {
                (0..burst).for_each(|n| end.send(other, Lane::Data, n));
            }
            let mut expected = 0;
            while expected < rounds * burst {
                while let Some((_, item)) = end.receive(Lane::Data) {
                    assert_eq!(item, expected);
                    expected += 1;
                    let answer = if starts { item + burst } else { item };
                    if answer < rounds * burst {
                        end.send(other, Lane::Data, answer);
                    }
                }
                end.publish();
                if expected < rounds * burst && end.prepare_sleep() {
                    sleep.wait();
                    end.awake();
                }
            }
            while end.has_backlog() {
                end.publish();
                std::thread::yield_now();
            }
        };
        let sleep = sleeps[1].clone();
        let thread = std::thread::spawn(move || play(b, sleep, ShardId(0), false));
        play(a, sleeps[0].clone(), ShardId(1), true);
        thread.join().unwrap();
    }
}

/// Models of the sleep protocol. With the fence in `Bell::lie_down` or the one in `announce` taken out, loom finds the
/// run in which the sleeper misses the item and the sender misses the flag, and reports a deadlock.
#[cfg(loom)]
mod loom_models {
    use loom::sync::{Condvar, Mutex};

    use super::*;

    /// A thread's sleep, as a waker of the transport has it: a wake before the wait ends it at once.
    struct Sleep {
        woken: Mutex<bool>,
        changed: Condvar,
    }

    impl Wake for Sleep {
        fn wake(&self) {
            *self.woken.lock().unwrap() = true;
            self.changed.notify_one();
        }
    }

    impl Sleep {
        fn wait(&self) {
            let mut woken = self.woken.lock().unwrap();
            while !*woken {
                woken = self.changed.wait(woken).unwrap();
            }
            *woken = false;
        }
    }

    fn pair(slots: usize) -> (MeshEnd<u32>, Arc<Sleep>, MeshEnd<u32>, Arc<Sleep>) {
        let wakers: [Arc<Sleep>; 2] =
            std::array::from_fn(|_| Arc::new(Sleep { woken: Mutex::new(false), changed: Condvar::new() }));
        let mut ends = mesh(wakers.iter().map(|waker| waker.clone() as Arc<dyn Wake>).collect(), slots);
        let (b, a) = (ends.pop().unwrap(), ends.pop().unwrap());
        let [sleep_a, sleep_b] = wakers;
        (a, sleep_a, b, sleep_b)
    }

    fn bounded(model: impl Fn() + Send + Sync + 'static) {
        let mut builder = loom::model::Builder::new();
        builder.preemption_bound = Some(3);
        builder.check(model);
    }

    /// Whoever sleeps is woken by what is published.
    #[test]
    fn loom_no_wake_up_for_an_item_is_lost() {
        bounded(|| {
            let (mut a, _, mut b, sleep_b) = pair(2);
            let receiver = loom::thread::spawn(move || {
                let mut seen = 0;
                while seen < 2 {
                    match b.receive(Lane::Data) {
                        Some((_, item)) => {
                            assert_eq!(item, seen);
                            seen += 1;
                        }
                        None => {
                            if b.prepare_sleep() {
                                sleep_b.wait();
                                b.awake();
                            }
                        }
                    }
                }
            });
            for n in 0..2 {
                a.send(ShardId(1), Lane::Data, n);
                a.publish();
            }
            receiver.join().unwrap();
        });
    }

    /// Whoever sleeps on a full ring is woken by room.
    #[test]
    fn loom_no_wake_up_for_room_is_lost() {
        bounded(|| {
            let (mut a, sleep_a, mut b, sleep_b) = pair(1);
            let receiver = loom::thread::spawn(move || {
                let mut seen = 0;
                while seen < 2 {
                    match b.receive(Lane::Data) {
                        Some((_, item)) => {
                            assert_eq!(item, seen);
                            seen += 1;
                        }
                        None => {
                            if b.prepare_sleep() {
                                sleep_b.wait();
                                b.awake();
                            }
                        }
                    }
                }
            });
            (0..2).for_each(|n| a.send(ShardId(1), Lane::Data, n));
            a.publish();
            loop {
                a.publish();
                if !a.has_backlog() {
                    break;
                }
                // Preparing may itself move the backlog on; then nobody needs to be waited for.
                if a.prepare_sleep() && a.has_backlog() {
                    sleep_a.wait();
                    a.awake();
                }
            }
            receiver.join().unwrap();
        });
    }
}
