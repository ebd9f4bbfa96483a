//! How a shard that sleeps is woken, and one that does not is left alone.
//!
//! Sleeper: raise the flag, full barrier, look at every ring once more, wait. Sender: publish, full barrier, look at the
//! flag. Of the two barriers one comes first, so that either the sleeper sees the item or the sender sees the flag.

use std::sync::Arc;

use super::Wake;
use super::atomic::{AtomicU8, Ordering, Padded, fence};

/// Awake: it will look at its rings before it sleeps.
const AWAKE: u8 = 0;
/// Sleeps until something arrives.
const FOR_ITEMS: u8 = 1;
/// Sleeps until something arrives or a full ring to another shard has room.
const FOR_ITEMS_OR_ROOM: u8 = 2;

/// What happened to a shard that may sleep.
#[derive(Clone, Copy)]
pub(super) enum News {
    /// Items were published for it.
    Items = 1,
    /// Room was made in a ring that it writes.
    Room = 2,
}

/// One shard's flag, in a cache line of its own, and how to wake its thread.
pub(super) struct Bell {
    flag: Padded<AtomicU8>,
    waker: Arc<dyn Wake>,
}

impl Bell {
    pub(super) fn new(waker: Arc<dyn Wake>) -> Self {
        Bell { flag: Padded(AtomicU8::new(AWAKE)), waker }
    }

    /// The owner announces its sleep; it has to look at its rings once more afterwards.
    pub(super) fn lie_down(&self, wants_room: bool) {
        // An exchange, so that the flag goes up after whatever `ring` took down, in loom's eyes too, which keeps open
        // where a plain store falls among exchanges that its thread has not seen.
        self.flag.0.swap(if wants_room { FOR_ITEMS_OR_ROOM } else { FOR_ITEMS }, Ordering::Relaxed);
        // Pairs with the one in `announce`.
        fence(Ordering::SeqCst);
    }

    /// The owner is up.
    pub(super) fn get_up(&self) {
        self.flag.0.store(AWAKE, Ordering::Relaxed);
    }

    /// Another shard has news for the owner and has issued [`announce`] since it made them visible. Of several that
    /// find the owner asleep, one wakes it.
    pub(super) fn ring(&self, news: News) {
        if self.flag.0.load(Ordering::Relaxed) >= news as u8
            && self.flag.0.swap(AWAKE, Ordering::Relaxed) != AWAKE
        {
            self.waker.wake();
        }
    }
}

/// Orders what this thread has published before its look at the sleepers' flags.
pub(super) fn announce() {
    // Pairs with the one in `Bell::lie_down`.
    fence(Ordering::SeqCst);
}
