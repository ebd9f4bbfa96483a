//! What outlives the process, and what journals call it.

use super::*;

#[test]
fn queues_that_outlive_the_process_have_keys_of_their_own() {
    let mut world = World::new();
    let mut declared = |rules, durable, exclusive, name: &str| {
        world.rules = rules;
        let request = queue_with(name, |options| (options.durable, options.exclusive) = (durable, exclusive));
        let id = world.ask_as(1, &request).unwrap().queue.unwrap();
        world.topology.queue_by_id(id).unwrap().store_key
    };
    assert_eq!(declared(Rules::Amqp091, false, false, "transient"), None);
    assert_eq!(declared(Rules::Amqp091, true, true, "goes with its connection"), None);
    let first = declared(Rules::Amqp091, true, false, "durable").unwrap();
    let second = declared(Rules::Amqp010, true, true, "outlives its connection").unwrap();
    assert!(second > first);

    let id = world.topology.queue_by_key(first).unwrap();
    world.topology.apply(&Change::QueueOwned(id, Some(connection(1))));
    assert_eq!(world.topology.queue_by_id(id).unwrap().store_key, Some(first), "whoever owns it");
    world.topology.apply(&Change::QueueOwned(id, None));
    world.ask(&delete_queue("durable")).unwrap();
    assert_eq!(world.topology.queue_by_key(first), None);
    world.topology.skip_store_keys(StoreKey(1 << 40));
    let again = world.ask_as(1, &queue_with("durable", |options| options.durable = true)).unwrap().queue;
    let again = world.topology.queue_by_id(again.unwrap()).unwrap().store_key;
    assert_eq!(again, Some(StoreKey(1 << 40)), "no key is given twice");
}
