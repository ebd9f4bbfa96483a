//! Turns, and who stands aside.

use super::*;
use crate::ShardId;

fn consumer(id: u32, priority: i32, prefetch: u32) -> Consumer {
    Consumer {
        session: SessionId { shard: ShardId(0), index: 0, generation: 0 },
        client: ClientId::NOBODY,
        id,
        no_ack: false,
        exclusive: false,
        priority,
        prefetch,
        credit: None,
        browse: false,
        selector: None,
        account: 0,
    }
}

/// Serves whoever has the turn.
fn serve(consumers: &mut Consumers) -> Option<(u32, ConsumerKey)> {
    let (key, consumer) = consumers.next()?;
    let id = consumer.id;
    consumers.served(key, 0);
    Some((id, key))
}

fn ids(consumers: &mut Consumers, turns: usize) -> Vec<u32> {
    (0..turns).map_while(|_| serve(consumers)).map(|(id, _)| id).collect()
}

#[test]
fn turns_go_round() {
    let mut consumers = Consumers::new(false);
    (1..=3).for_each(|id| consumers.add(consumer(id, 0, 0), None, false));
    assert_eq!(ids(&mut consumers, 5), [1, 2, 3, 1, 2]);
}

#[test]
fn higher_priority_goes_first_while_it_has_credit() {
    let mut consumers = Consumers::new(false);
    consumers.add(consumer(1, 0, 0), None, false);
    consumers.add(consumer(2, 5, 2), None, false);
    consumers.add(consumer(3, -1, 0), None, false);
    let (_, key) = serve(&mut consumers).unwrap();
    assert_eq!(ids(&mut consumers, 3), [2, 1, 1]);
    assert!(consumers.settled(key));
    assert_eq!(ids(&mut consumers, 2), [2, 1]);
}

#[test]
fn a_parked_consumer_is_passed_over_until_it_is_back() {
    let mut consumers = Consumers::new(false);
    consumers.add(consumer(1, 0, 0), None, false);
    consumers.add(consumer(2, 0, 0), None, false);
    let key = consumers.next().unwrap().0;
    consumers.park(key);
    assert_eq!(ids(&mut consumers, 2), [2, 2]);
    assert!(consumers.unpark(key));
    assert!(!consumers.unpark(key));
    assert_eq!(ids(&mut consumers, 2), [2, 1]);
}

#[test]
fn the_single_active_consumer_is_followed_in_order() {
    let mut consumers = Consumers::new(true);
    (1..=3).for_each(|id| consumers.add(consumer(id, 0, 0), None, false));
    assert_eq!(ids(&mut consumers, 2), [1, 1]);
    let session = SessionId { shard: ShardId(0), index: 0, generation: 0 };
    consumers.remove(consumers.find(session, 2).unwrap());
    assert_eq!(ids(&mut consumers, 1), [1]);
    consumers.remove(consumers.find(session, 1).unwrap());
    assert_eq!(ids(&mut consumers, 2), [3, 3]);
}

#[test]
fn a_key_never_reaches_the_next_user_of_its_slot() {
    let mut consumers = Consumers::new(false);
    consumers.add(consumer(1, 0, 1), None, false);
    let (_, key) = serve(&mut consumers).unwrap();
    consumers.remove(key);
    consumers.add(consumer(2, 0, 1), None, false);
    assert_eq!(ids(&mut consumers, 1), [2]);
    assert!(!consumers.settled(key));
    assert!(consumers.remove(key).is_none());
    assert_eq!(ids(&mut consumers, 1), []);
}

#[test]
fn a_run_ends_where_the_only_consumer_has_enough() {
    let mut consumers = Consumers::new(false);
    consumers.add(consumer(1, 0, 5), None, false);
    serve(&mut consumers).unwrap();
    let (key, _) = consumers.sole().unwrap();
    assert_eq!(consumers.allowance(key), 4);
    consumers.served_run(key, 3);
    assert_eq!(consumers.allowance(key), 1);
    consumers.served_run(key, 1);
    assert!(consumers.sole().is_none());
    assert_eq!(ids(&mut consumers, 1), []);
    assert!(consumers.settled(key));
    assert_eq!(ids(&mut consumers, 2), [1]);
    consumers.add(consumer(2, 0, 0), None, false);
    assert!(consumers.sole().is_none());
}

#[test]
fn prefetch_can_change_while_consuming() {
    let mut consumers = Consumers::new(false);
    consumers.add(consumer(1, 0, 0), None, false);
    let (_, key) = serve(&mut consumers).unwrap();
    assert!(!consumers.set_prefetch(key, 1));
    assert_eq!(ids(&mut consumers, 1), []);
    assert!(consumers.set_prefetch(key, 2));
    assert_eq!(ids(&mut consumers, 2), [1]);
}
