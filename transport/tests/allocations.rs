//! In steady state, a transport allocates nothing.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use fulmar_transport::file::{FileDone, FileOperation, OpenOptions};
use fulmar_transport::{AlignedBuf, Config, ConnId, EpollTransport, Event, Transport, UringTransport, Wait};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

fn count() {
    // A thread that is ending has no counter any more.
    let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
}

// SAFETY: everything is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are ours.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are ours.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        count();
        // SAFETY: the caller's promises are ours.
        unsafe { System.realloc(place, layout, new_size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const CONNECTIONS: usize = 20;
const MESSAGE: [u8; 64] = [7; 64];

/// Both ends of some connections that each pass a message to and fro.
fn round_trips<T: Transport>(mut server: T, mut client: T) {
    let (_, address) = server.listen("127.0.0.1:0".parse().unwrap(), 64).unwrap();
    for _ in 0..CONNECTIONS {
        client.connect(address).unwrap();
    }
    let mut events = Vec::with_capacity(1024);
    let mut received = 0;
    let mut step = |side: &mut T, counting: bool| {
        side.turn(Wait::Poll, &mut events).unwrap();
        for event in events.drain(..) {
            match event {
                Event::Connected { conn } => write(side, conn, &MESSAGE),
                Event::Received { conn, buf } => {
                    let mut copy = [0; 64];
                    let len = side.bytes(&buf).len();
                    copy[..len].copy_from_slice(side.bytes(&buf));
                    received += usize::from(counting) * len;
                    side.recycle(buf);
                    write(side, conn, &copy[..len]);
                }
                _ => {}
            }
        }
        side.flush();
        received
    };
    let mut at_start = None;
    loop {
        step(&mut server, false);
        let received = step(&mut client, true);
        if received > 2_000 * MESSAGE.len() && at_start.is_none() {
            at_start = Some(ALLOCATIONS.get());
        }
        if received > 20_000 * MESSAGE.len() {
            break;
        }
    }
    assert_eq!(ALLOCATIONS.get() - at_start.unwrap(), 0, "allocations in 18,000 round trips");
}

fn write<T: Transport>(side: &mut T, conn: ConnId, bytes: &[u8]) {
    side.output(conn).expect("open").extend_from_slice(bytes);
}

#[test]
fn uring_allocates_nothing() {
    match (UringTransport::new(Config::default()), UringTransport::new(Config::default())) {
        (Ok(server), Ok(client)) => round_trips(server, client),
        (Err(refused), _) | (_, Err(refused)) => eprintln!("skipped: {refused}"),
    }
}

#[test]
fn epoll_allocates_nothing() {
    let new = || EpollTransport::new(Config::default()).expect("epoll");
    round_trips(new(), new());
}

/// Writes, syncs and reads a file, four operations at a time.
fn file_operations<T: Transport>(mut transport: T, name: &str) {
    let mut events = Vec::with_capacity(64);
    let mut end = |transport: &mut T| -> FileDone {
        loop {
            if let Some(at) = events.iter().position(|event| matches!(event, Event::File(_)))
                && let Event::File(done) = events.remove(at)
            {
                assert!(done.result.is_ok(), "{:?}", done.result);
                return done;
            }
            transport.turn(Wait::Until(None), &mut events).unwrap();
        }
    };
    let path =
        std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
    transport.file(0, FileOperation::Open(path.clone(), OpenOptions { write: true, direct: false }));
    let file = end(&mut transport).opened().unwrap();
    let mut buffers: Vec<AlignedBuf> = (0..3).map(|_| AlignedBuf::with_capacity(4096)).collect();
    for buffer in &mut buffers {
        buffer.resize(4096);
    }
    let mut at_start = 0;
    for round in 0..1_000u64 {
        if round == 100 {
            at_start = ALLOCATIONS.get();
        }
        let (bytes, offset) = (buffers.pop().unwrap(), round % 16 * 4096);
        transport.file(1, FileOperation::Write { file, offset, bytes, sync: round % 100 == 0 });
        let bytes = buffers.pop().unwrap();
        transport.file(2, FileOperation::Write { file, offset: 16 * 4096, bytes, sync: false });
        let bytes = buffers.pop().unwrap();
        transport.file(3, FileOperation::Read { file, offset: 0, bytes });
        transport.file(4, FileOperation::Allocate(file, 4096));
        for _ in 0..4 {
            if let Some(mut bytes) = end(&mut transport).bytes {
                bytes.resize(4096);
                buffers.push(bytes);
            }
        }
    }
    assert_eq!(ALLOCATIONS.get() - at_start, 0, "allocations in 3,600 operations on files");
    std::fs::remove_file(path).unwrap();
}

#[test]
fn files_over_uring_allocate_nothing() {
    match UringTransport::new(Config::default()) {
        Ok(transport) => file_operations(transport, "uring"),
        Err(refused) => eprintln!("skipped: {refused}"),
    }
}

#[test]
fn files_over_epoll_allocate_nothing() {
    file_operations(EpollTransport::new(Config::default()).expect("epoll"), "epoll");
}
