//! The log as a shard sees it.

use std::cell::RefCell;
use std::rc::Rc;

use fulmar_core::journal::{Joined, Journal, Position, Reason, Record, StoredMessage, Ticket};

use crate::log::Log;

/// A log in the hands of its shard. The worker has the same log and does its input and output; neither calls the other
/// while it has borrowed it.
#[derive(Clone, Debug)]
pub struct Handle(Rc<RefCell<Log>>);

impl Handle {
    /// For the shard whose log it is.
    pub fn new(log: Rc<RefCell<Log>>) -> Self {
        Handle(log)
    }
}

impl Journal for Handle {
    #[inline]
    fn admit(&self, bytes: usize) -> Result<(), Reason> {
        self.0.borrow().admit(bytes)
    }

    #[inline]
    fn append(&mut self, record: &Record<'_>, joined: Joined) -> Position {
        self.0.borrow_mut().append(record, joined)
    }

    #[inline]
    fn end(&self) -> Position {
        self.0.borrow().end()
    }

    #[inline]
    fn await_end(&mut self) -> Position {
        self.0.borrow_mut().await_end()
    }

    fn retire(&mut self, at: Position, bytes: usize) {
        self.0.borrow_mut().retire(at, bytes);
    }

    fn can_page_out(&self) -> bool {
        self.0.borrow().can_page_out()
    }

    fn page_out(&mut self, message: &StoredMessage<'_>) -> Position {
        self.0.borrow_mut().page_out(message)
    }

    fn read(&mut self, ticket: Ticket, positions: &[Position]) {
        self.0.borrow_mut().read(ticket, positions);
    }

    fn run(&self) -> u32 {
        self.0.borrow().run()
    }
}
