//! Messages and batches: parts found, references counted, buffers coming back.

use super::*;
use crate::test_support::Plain;

fn header(body_bytes: u64) -> MessageHeader<'static> {
    MessageHeader {
        encoding: &Plain,
        exchange: b"x",
        routing_key: b"key",
        properties: b"props",
        body_bytes,
        priority: 3,
        ttl_ms: None,
        persistent: false,
        has_headers: false,
    }
}

fn store() -> MessageStore {
    MessageStore::new(ShardId(0), &Limits::default())
}

#[test]
fn parts_are_found_again() {
    let mut store = store();
    let id = store.begin(&header(6));
    store.append(id, b"bo");
    store.append(id, b"dy!!");
    let view = store.view(id);
    assert_eq!(view.exchange, b"x");
    assert_eq!(view.routing_key, b"key");
    assert_eq!(view.properties, b"props");
    assert_eq!(view.body, b"body!!");
    assert_eq!(store.get(id).address(), (&b"xkey"[..], 1));
    store.release(id);
}

#[test]
fn a_message_made_at_once_is_like_one_made_in_parts() {
    let mut store = store();
    let parts = store.begin(&MessageHeader { ttl_ms: Some(5), has_headers: true, ..header(4) });
    store.append(parts, b"body");
    let mut head = MessageHead::new(&header(0));
    head.set(&MessageHeader { ttl_ms: Some(5), has_headers: true, ..header(9) });
    let begun = store.begin_with(&MessageHeader { ttl_ms: Some(5), has_headers: true, ..header(4) }, b"bo");
    store.append(begun, b"dy");
    for id in [store.whole(&head, b"body"), begun] {
        let (one, other) = (store.get(parts), store.get(id));
        assert_eq!(one.bytes, other.bytes);
        assert_eq!(one.address(), other.address());
        assert_eq!((one.view().properties, one.view().body), (other.view().properties, other.view().body));
        assert_eq!(
            (one.ttl_ms(), one.priority(), one.has_headers()),
            (other.ttl_ms(), other.priority(), other.has_headers())
        );
    }
}

#[test]
fn a_batch_is_taken_apart() {
    let mut store = store();
    let head = MessageHead::new(&header(0));
    let first = store.batch(&head, ClientId::NOBODY, 2, [b"ab", b"cd", b"ef"].iter().map(|body| &body[..]));
    let (second, third) = (first.after(1), first.after(2));
    for (id, body) in [(first, b"ab"), (second, b"cd"), (third, b"ef")] {
        let view = store.view(id);
        assert_eq!((view.routing_key, view.properties, view.body), (&b"key"[..], &b"props"[..], &body[..]));
    }
    assert_eq!((store.get(second).total_bytes(), store.get(second).body_bytes()), (11, 2));
    let others: Vec<_> = store.bodies_after(first, 2).map(<[u8]>::to_vec).collect();
    assert_eq!(others, [b"cd", b"ef"]);
    let derived = store.derive(second, b"", b"k", b"", None);
    assert_eq!(store.view(derived).body, b"cd");
    store.release(derived);
    store.retain(third);
    store.release_many(first, 2);
    // Alone by now, and yet in a buffer with the others.
    store.release(third);
    let moved = store.extract(third);
    assert_eq!((moved.view().body, moved.total_bytes(), moved.messages()), (&b"ef"[..], 11, 1));
    assert_eq!((store.live(), store.held_bytes()), (0, 0));
}

#[test]
fn a_batch_moves_whole_or_as_a_copy_of_its_part() {
    let mut here = store();
    let mut there = MessageStore::new(ShardId(1), &Limits::default());
    let head = MessageHead::new(&header(0));
    let first = here.batch(&head, ClientId::NOBODY, 2, [b"ab", b"cd", b"ef"].iter().map(|body| &body[..]));
    here.release(first);
    let part = here.extract_batch(first.after(1), 2);
    assert_eq!((part.messages(), here.live()), (2, 0));
    let moved = there.insert(part);
    let bodies = |store: &MessageStore, id: MessageId| {
        [store.view(id).body.to_vec(), store.view(id.after(1)).body.to_vec()]
    };
    assert_eq!(bodies(&there, moved), [b"cd", b"ef"]);
    let address = there.view(moved).exchange.as_ptr();
    let whole = there.extract_batch(moved, 2);
    assert_eq!((whole.view().exchange.as_ptr(), whole.messages(), there.live()), (address, 2, 0));
    let back = here.insert(whole);
    assert_eq!(bodies(&here, back), [b"cd", b"ef"]);
    here.release_many(back, 2);
    assert_eq!(here.live(), 0);
}

#[test]
fn the_last_release_frees_and_the_slot_and_buffer_come_back() {
    let mut store = store();
    let id = store.begin(&header(0));
    store.retain(id);
    store.release(id);
    assert_eq!(store.live(), 1);
    store.release(id);
    assert_eq!((store.live(), store.held_bytes()), (0, 0));
    assert_eq!(store.pooled_bytes(), 64);
    assert_eq!(store.begin(&header(0)), id);
    assert_eq!(store.pooled_bytes(), 0);
}

#[test]
fn a_declared_size_takes_no_memory_by_itself() {
    let mut store = store();
    let id = store.begin(&header(100 << 20));
    assert!(store.held_bytes() <= 2 * PROMISED_BODY_BYTES);
    let chunk = vec![7; 50_000];
    for _ in 0..20 {
        store.append(id, &chunk);
    }
    assert_eq!(store.view(id).body.len(), 1_000_000);
    assert!(store.held_bytes() <= 2 << 20);
    store.release(id);
    assert_eq!(store.held_bytes(), 0);
}

#[test]
fn extracting_moves_the_last_reference_and_copies_others() {
    let mut store = store();
    let id = store.begin(&header(1));
    store.append(id, b"b");
    let address = store.view(id).exchange.as_ptr();
    store.retain(id);
    let copy = store.extract(id);
    assert_ne!(copy.view().exchange.as_ptr(), address);
    assert_eq!(copy.view().body, b"b");
    let moved = store.extract(id);
    assert_eq!(moved.view().exchange.as_ptr(), address);
    assert_eq!((store.live(), store.held_bytes()), (0, 0));
}

#[test]
fn foreign_buffers_are_set_aside() {
    let mut there = store();
    let mut here = MessageStore::new(ShardId(1), &Limits::default());
    let id = there.begin(&header(0));
    let moved = there.extract(id);
    let id = here.insert(moved);
    here.release(id);
    assert_eq!(here.pooled_bytes(), 0);
    let (owner, buffer) = here.pop_foreign().unwrap();
    assert_eq!(owner, ShardId(0));
    there.take_back(buffer);
    assert_eq!(there.pooled_bytes(), 64);
}
