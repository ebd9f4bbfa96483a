//! The kernel's transports, over loopback, and what only they can show.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fulmar_transport::{Config, EpollTransport, Transport, UringTransport, Wait};

use crate::cases::come_and_go;
use crate::world::{Side, World, connect, listen, pattern, until};

/// Two transports over the loopback interface.
pub struct RealWorld<T> {
    server: Side<T>,
    client: Side<T>,
}

pub type UringWorld = RealWorld<UringTransport>;
pub type EpollWorld = RealWorld<EpollTransport>;

/// Making a transport, or saying why not.
pub trait Make: Transport + Sized {
    fn make(config: Config) -> Option<Self>;
}

impl Make for UringTransport {
    fn make(config: Config) -> Option<Self> {
        match UringTransport::new(config) {
            Ok(transport) => Some(transport),
            Err(refused) => {
                eprintln!("skipped: {refused}");
                None
            }
        }
    }
}

impl Make for EpollTransport {
    fn make(config: Config) -> Option<Self> {
        Some(EpollTransport::new(config).expect("epoll"))
    }
}

impl<T: Make> World for RealWorld<T> {
    type T = T;

    fn new(server: Config, client: Config) -> Option<Self> {
        Some(RealWorld { server: Side::new(T::make(server)?), client: Side::new(T::make(client)?) })
    }

    fn sides(&mut self) -> (&mut Side<T>, &mut Side<T>) {
        (&mut self.server, &mut self.client)
    }

    fn advance(&mut self) {
        std::thread::yield_now();
    }

    fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }
}

/// Waits in the kernel, not by looking again and again.
pub fn a_wait_ends_when_it_should<T: Make>() {
    let Some(transport) = T::make(Config::default()) else { return };
    let mut side = Side::new(transport);
    side.turn(Wait::Poll);
    let start = side.transport.now_ns();
    side.turn(Wait::Until(Some(start + 30_000_000)));
    let waited = side.transport.now_ns() - start;
    assert!((30_000_000..2_000_000_000).contains(&waited), "waited {waited} ns");
    // A time that has passed is not waited for.
    side.turn(Wait::Until(Some(start)));
}

/// Every wake is told, before a wait and during one, and a thousand of them are told as few.
pub fn another_thread_wakes<T: Make>() {
    let Some(transport) = T::make(Config::default()) else { return };
    let mut side = Side::new(transport);
    let waker = side.transport.waker();
    for _ in 0..1_000 {
        waker.wake();
    }
    side.turn(Wait::Until(None));
    assert_eq!(side.woken, 1);
    let asked = Arc::new(AtomicUsize::new(0));
    let thread = std::thread::spawn({
        let asked = asked.clone();
        move || {
            for count in 1..=200 {
                asked.store(count, Ordering::Release);
                waker.wake();
                if count % 10 == 0 {
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
        }
    });
    // A lost wake would leave this waiting; the limit makes that a failure.
    let limit = side.transport.now_ns() + 10_000_000_000;
    let mut seen = 0;
    while seen < 200 {
        let woken_before = side.woken;
        side.turn(Wait::Until(Some(limit)));
        assert!(side.transport.now_ns() < limit, "a wake was lost after {seen}");
        if side.woken > woken_before {
            seen = asked.load(Ordering::Acquire);
        }
    }
    thread.join().expect("the waking thread");
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("procfs").count()
}

fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("procfs");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).expect("a number") * 4096
}

/// Runs the test of that name alone in a process of its own, where nothing else opens descriptors or takes memory.
fn alone(name: &str, test: impl FnOnce()) {
    if std::env::var("FULMAR_TEST_ALONE").is_ok() {
        return test();
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", name, "--nocapture"])
        .env("FULMAR_TEST_ALONE", "1")
        .output()
        .expect("starting this program again");
    let passed = String::from_utf8_lossy(&output.stdout).contains("1 passed");
    assert!(output.status.success() && passed, "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn coming_and_going_leaves_nothing<T: Make>(name: &str) {
    alone(name, || {
        let Some(warm) = come_and_go::<RealWorld<T>>(400) else { return };
        drop(warm);
        let (descriptors, memory) = (open_descriptors(), resident_bytes());
        let Some(world) = come_and_go::<RealWorld<T>>(2_000) else { return };
        // Each transport still has itself, its waker and at most one listener.
        let left = open_descriptors() - descriptors;
        assert!(left <= 5, "{left} descriptors are left");
        let grown = resident_bytes().saturating_sub(memory);
        assert!(grown < 8 << 20, "{grown} bytes are left");
        drop(world);
        assert!(open_descriptors() <= descriptors, "a transport that is gone holds descriptors");
    });
}

/// What a connection costs that has talked once and is quiet now.
pub fn quiet_connections_are_small<T: Make>(name: &str) {
    const CONNECTIONS: usize = 1_000;
    alone(name, || {
        let Some(mut world) = RealWorld::<T>::new(Config::default(), Config::default()) else { return };
        let (_, address) = listen(&mut world);
        let (first, at_client) = connect(&mut world, address);
        world.sides().0.echo = true;
        world.sides().1.write(at_client, &pattern(64));
        until(&mut world, "an echo", |server, _| server.received_len(first) == 64);
        let before = resident_bytes();
        let conns: Vec<_> = (0..CONNECTIONS).map(|_| connect(&mut world, address)).collect();
        for (_, at_client) in &conns {
            world.sides().1.write(*at_client, &pattern(64));
        }
        until(&mut world, "echoes", |_, client| {
            conns.iter().all(|(_, conn)| client.received_len(*conn) == 64)
        });
        // Both ends are here, and so is the test's own record of them.
        let each = resident_bytes().saturating_sub(before) / CONNECTIONS;
        assert!(each < 8 * 1024, "{each} bytes a pair of connections");
    });
}

macro_rules! real_cases {
    ($name:ident, $transport:ty) => {
        mod $name {
            #[test]
            fn a_wait_ends_when_it_should() {
                super::a_wait_ends_when_it_should::<$transport>();
            }

            #[test]
            fn another_thread_wakes() {
                super::another_thread_wakes::<$transport>();
            }

            #[test]
            fn coming_and_going_leaves_nothing() {
                let name = concat!("real::", stringify!($name), "::coming_and_going_leaves_nothing");
                super::coming_and_going_leaves_nothing::<$transport>(name);
            }

            #[test]
            fn quiet_connections_are_small() {
                let name = concat!("real::", stringify!($name), "::quiet_connections_are_small");
                super::quiet_connections_are_small::<$transport>(name);
            }
        }
    };
}

real_cases!(uring, fulmar_transport::UringTransport);
real_cases!(epoll, fulmar_transport::EpollTransport);
