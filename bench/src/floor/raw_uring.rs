//! The floor on io_uring alone: for each lane one receive, then sends until all of it has left, then the next receive.
//!
//! The kernel completes operations of this thread whenever the thread enters or is interrupted, so that a thread which
//! spins on the completion queue sees them without a system call.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;

use io_uring::{IoUring, opcode, types};

use super::{Lane, READ_BYTES};

/// As reports call it.
pub(super) const NAME: &str = "raw io_uring";

/// Entries of the ring: operations that may wait to be submitted.
const ENTRIES: u32 = 256;

/// A lane and what it has received.
struct Flow {
    lane: Lane,
    buffer: Box<[u8]>,
    received: usize,
    sent: usize,
}

/// A ring.
///
/// # Errors
/// The system refuses io_uring.
pub(super) fn open() -> io::Result<IoUring> {
    IoUring::new(ENTRIES)
}

/// Serves until the connections end; `spin`: never waits in the kernel.
pub(super) fn serve(mut ring: IoUring, lanes: Vec<Lane>, spin: bool) -> io::Result<()> {
    let buffer = || vec![0; READ_BYTES].into_boxed_slice();
    let mut flows: Vec<Flow> =
        lanes.into_iter().map(|lane| Flow { lane, buffer: buffer(), received: 0, sent: 0 }).collect();
    for index in 0..flows.len() {
        push(&mut ring, &mut flows, index)?;
    }
    ring.submit()?;
    let (mut open, mut done) = (flows.len(), Vec::new());
    while open > 0 {
        match spin {
            // The queue of submissions is empty unless something completed.
            true if done.is_empty() => std::hint::spin_loop(),
            true => drop(ring.submit()?),
            false => drop(ring.submit_and_wait(1)?),
        }
        done.clear();
        done.extend(ring.completion().map(|entry| (entry.user_data() as usize, entry.result())));
        for &(index, result) in &done {
            if flows[index].completed(result) {
                push(&mut ring, &mut flows, index)?;
            } else {
                // The end of a connection is how every load ends.
                drop(flows[index].lane.to.shutdown(Shutdown::Both));
                open -= 1;
            }
        }
    }
    Ok(())
}

impl Flow {
    /// Takes the result of the operation; returns whether there is a next one.
    fn completed(&mut self, result: i32) -> bool {
        let Ok(bytes @ 1..) = usize::try_from(result) else { return false };
        if self.received == 0 {
            self.received = bytes;
        } else {
            self.sent += bytes;
            if self.sent == self.received {
                (self.received, self.sent) = (0, 0);
            }
        }
        true
    }
}

/// Queues the next operation of a lane: a receive, or a send of what has not left.
fn push(ring: &mut IoUring, flows: &mut [Flow], index: usize) -> io::Result<()> {
    let flow = &mut flows[index];
    let entry = if flow.received == 0 {
        let socket = types::Fd(flow.lane.from.as_raw_fd());
        opcode::Recv::new(socket, flow.buffer.as_mut_ptr(), flow.buffer.len() as u32).build()
    } else {
        let rest = &flow.buffer[flow.sent..flow.received];
        let socket = types::Fd(flow.lane.to.as_raw_fd());
        opcode::Send::new(socket, rest.as_ptr(), rest.len() as u32).flags(libc::MSG_NOSIGNAL).build()
    };
    let entry = entry.user_data(index as u64);
    // SAFETY: buffer and sockets belong to the flow, which lives until no operation is under way; a lane has one at a time.
    let pushed = unsafe { ring.submission().push(&entry) };
    if pushed.is_err() {
        ring.submit()?;
        // SAFETY: as above.
        unsafe { ring.submission().push(&entry) }.map_err(|_| io::Error::other("the ring stays full"))?;
    }
    Ok(())
}
