//! The kernel's transports, over loopback, and what only they can show.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fulmar_transport::{
    CloseReason, Config, EpollTransport, IoChoice, Transport, UringTransport, Wait, open,
};

use crate::cases::come_and_go;
use crate::world::{Side, World, connect, listen, pattern, until};

/// Two transports over the loopback interface.
pub struct RealWorld<T> {
    server: Side<T>,
    client: Side<T>,
    directory: Option<PathBuf>,
}

impl<T> Drop for RealWorld<T> {
    fn drop(&mut self) {
        if let Some(directory) = self.directory.take() {
            let _ = std::fs::remove_dir_all(directory);
        }
    }
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
        let (server, client) = (Side::new(T::make(server)?), Side::new(T::make(client)?));
        Some(RealWorld { server, client, directory: None })
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

    fn directory(&mut self) -> PathBuf {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let made = || {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("transport-{}-{number}", std::process::id());
            let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
            std::fs::create_dir_all(&path).expect("a directory");
            path
        };
        self.directory.get_or_insert_with(made).clone()
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

/// A transport may be made on one thread and run on another.
pub fn moves_to_its_thread<T: Make + Send + 'static>() {
    let Some(mut world) = RealWorld::<T>::new(Config::default(), Config::default()) else { return };
    let (_, address) = listen(&mut world);
    std::thread::spawn(move || {
        let (at_server, at_client) = connect(&mut world, address);
        world.sides().1.write(at_client, b"hello");
        until(&mut world, "the bytes", |server, _| server.received(at_server) == b"hello");
    })
    .join()
    .expect("the other thread");
}

/// A peer that says all it has to say, closes its side and then reads, as netcat does.
pub fn a_half_closed_peer_is_answered<T: Make>() {
    let Some(transport) = T::make(Config::default()) else { return };
    let mut side = Side::new(transport);
    side.echo = true;
    let (_, address) = side.transport.listen("127.0.0.1:0".parse().unwrap(), 64).expect("listening");
    let peer = std::thread::spawn(move || {
        let mut stream = std::net::TcpStream::connect(address).expect("connecting");
        stream.write_all(&pattern(20_000)).expect("writing");
        stream.shutdown(std::net::Shutdown::Write).expect("a half-close");
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        stream.read_to_end(&mut answer).expect("reading");
        assert_eq!(answer, pattern(20_000));
    });
    let limit = side.transport.now_ns() + 10_000_000_000;
    while side.closed.is_empty() {
        side.turn(Wait::Until(Some(limit)));
        assert!(side.transport.now_ns() < limit, "it never ends");
    }
    peer.join().expect("the peer");
    assert_eq!(*side.reason(side.accepted[0]), CloseReason::Peer);
}

pub fn listens_on_ipv6<T: Make>() {
    let Some(mut world) = RealWorld::<T>::new(Config::default(), Config::default()) else { return };
    let Ok((_, address)) = world.sides().0.transport.listen("[::1]:0".parse().unwrap(), 16) else {
        return eprintln!("skipped: no IPv6 here");
    };
    assert!(address.is_ipv6() && address.port() != 0);
    connect(&mut world, address);
}

pub fn a_taken_address_is_named<T: Make>() {
    let Some(mut transport) = T::make(Config::default()) else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = taken.local_addr().expect("its address");
    let error = transport.listen(address, 16).expect_err("the address is taken");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

/// Runs out of descriptors, waits without burning the processor, and goes on when there are some again.
pub fn survives_running_out_of_descriptors<T: Make>(name: &str) {
    alone(name, || {
        let Some(transport) = T::make(Config::default()) else { return };
        let mut side = Side::new(transport);
        let limit = libc::rlimit { rlim_cur: open_descriptors() as u64 + 11, rlim_max: 1024 };
        // SAFETY: a live limit; this process runs this test alone.
        assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }, 0);
        let (_, address) = side.transport.listen("127.0.0.1:0".parse().unwrap(), 64).expect("listening");
        side.turn(Wait::Poll);
        let mut clients: Vec<_> =
            (0..9).map(|_| std::net::TcpStream::connect(address).expect("connecting")).collect();
        let turns = {
            let until = side.transport.now_ns() + 300_000_000;
            let mut turns = 0;
            while side.transport.now_ns() < until {
                side.turn(Wait::Until(Some(until)));
                turns += 1;
            }
            turns
        };
        assert!(side.accepted.len() < clients.len(), "the limit was not met");
        assert!(turns < 100, "{turns} turns while nothing could be done");
        clients.drain(..6);
        let limit = side.transport.now_ns() + 5_000_000_000;
        while side.accepted.len() < 9 {
            side.turn(Wait::Until(Some(limit)));
            assert!(side.transport.now_ns() < limit, "{} of 9 accepted", side.accepted.len());
        }
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
            fn moves_to_its_thread() {
                super::moves_to_its_thread::<$transport>();
            }

            #[test]
            fn a_half_closed_peer_is_answered() {
                super::a_half_closed_peer_is_answered::<$transport>();
            }

            #[test]
            fn listens_on_ipv6() {
                super::listens_on_ipv6::<$transport>();
            }

            #[test]
            fn a_taken_address_is_named() {
                super::a_taken_address_is_named::<$transport>();
            }

            #[test]
            fn survives_running_out_of_descriptors() {
                let name = concat!("real::", stringify!($name), "::survives_running_out_of_descriptors");
                super::survives_running_out_of_descriptors::<$transport>(name);
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

#[test]
fn the_choice_is_followed() {
    assert_eq!(open(Config::default(), IoChoice::Epoll).expect("epoll").name(), "epoll");
    // io_uring where it is allowed, epoll elsewhere; never an error.
    let chosen = open(Config::default(), IoChoice::Auto).expect("either");
    match UringTransport::new(Config::default()) {
        Ok(_) => assert_eq!(chosen.name(), "io_uring"),
        Err(refused) => {
            assert_eq!(chosen.name(), "epoll");
            let error = open(Config::default(), IoChoice::Uring).err().expect("refused");
            assert_eq!(error.to_string(), refused.to_string());
        }
    }
}
