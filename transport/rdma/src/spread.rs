//! Connections for several threads where one listens: who asks to connect is handed over before being answered.
//!
//! 1. Threads take turns, so that connections are spread evenly, as they are over sockets that share a port.
//! 2. Whoever is not taken over by anybody is refused: nothing waits for a thread that has ended.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

use fulmar_transport::Waker;

use crate::device::{Device, Private};

/// Somebody on the way to another thread.
pub(crate) struct Handed<P> {
    pub(crate) parcel: P,
    /// Of the side that listens.
    pub(crate) listener: u32,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) private: Private,
}

/// The way to a thread's [`Inbox`]; shut until that thread can be woken.
pub struct Door<D: Device> {
    sender: Sender<Handed<D::Parcel>>,
    waker: Arc<OnceLock<Arc<dyn Waker>>>,
}

/// Where a thread finds who was handed over to it.
pub struct Inbox<D: Device> {
    receiver: Receiver<Handed<D::Parcel>>,
    waker: Arc<OnceLock<Arc<dyn Waker>>>,
}

/// A door and what is behind it.
pub fn door<D: Device>() -> (Door<D>, Inbox<D>) {
    let (sender, receiver) = channel();
    let waker = Arc::new(OnceLock::new());
    (Door { sender, waker: waker.clone() }, Inbox { receiver, waker })
}

impl<D: Device> Inbox<D> {
    /// From now on somebody may be handed over; the waker is used for each.
    pub(crate) fn open(&self, waker: Arc<dyn Waker>) {
        let _ = self.waker.set(waker);
    }

    pub(crate) fn take(&self) -> Option<Handed<D::Parcel>> {
        self.receiver.try_recv().ok()
    }
}

/// The doors of all threads, seen from the one that listens.
pub(crate) struct Spread<D: Device> {
    /// `None` for the thread's own.
    doors: Vec<Option<Door<D>>>,
    next: usize,
}

impl<D: Device> Spread<D> {
    /// Over these; the own one takes its share without a door.
    pub(crate) fn new(own: usize, doors: Vec<Door<D>>) -> Self {
        let doors = doors.into_iter().enumerate().map(|(at, door)| (at != own).then_some(door)).collect();
        Spread { doors, next: 0 }
    }

    /// Whose turn it is: the place of another thread, or `None` for the own one.
    pub(crate) fn next(&mut self) -> Option<usize> {
        for _ in 0..self.doors.len() {
            let at = self.next;
            self.next = (at + 1) % self.doors.len();
            match &self.doors[at] {
                Some(door) if door.waker.get().is_none() => {}
                Some(_) => return Some(at),
                None => return None,
            }
        }
        None
    }

    /// Hands over; to nobody, if that thread has ended.
    pub(crate) fn hand(&mut self, to: usize, handed: Handed<D::Parcel>) {
        let Some(door) = &self.doors[to] else { return };
        match (door.sender.send(handed), door.waker.get()) {
            (Ok(()), Some(waker)) => waker.wake(),
            // It ends, and so does this one.
            _ => self.doors[to] = None,
        }
    }
}
