//! Waiting for sockets, and the little else that needs the system directly.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

/// Descriptors to wait for; kept between waits.
#[derive(Default)]
pub struct PollSet(Vec<libc::pollfd>);

impl PollSet {
    /// Forgets all descriptors.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Waits also for `socket`, to be readable, writable or both.
    pub fn add(&mut self, socket: &impl AsRawFd, readable: bool, writable: bool) {
        let fd: RawFd = socket.as_raw_fd();
        let events = if readable { libc::POLLIN } else { 0 } | if writable { libc::POLLOUT } else { 0 };
        self.0.push(libc::pollfd { fd, events, revents: 0 });
    }

    /// Until one is ready or the time is over.
    ///
    /// # Errors
    /// The system's.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        let timeout = libc::timespec {
            tv_sec: timeout.as_secs() as libc::time_t,
            tv_nsec: timeout.subsec_nanos().into(),
        };
        // SAFETY: the pointer and the length are those of a vector that outlives the call; the mask may be null.
        let ready = unsafe {
            libc::ppoll(self.0.as_mut_ptr(), self.0.len() as libc::nfds_t, &timeout, std::ptr::null())
        };
        match ready {
            0.. => Ok(()),
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
                error => Err(error),
            },
        }
    }
}

/// Which of many descriptors can be read, without asking each.
#[derive(Debug)]
pub struct Readiness {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

impl Readiness {
    /// Of descriptors, which are told by their places.
    ///
    /// # Errors
    /// The system's.
    pub fn new<'a, S: AsRawFd + 'a>(sockets: impl ExactSizeIterator<Item = &'a S>) -> io::Result<Self> {
        // SAFETY: takes a plain number; what it returns is checked and then owned by nobody else.
        let epoll = unsafe {
            match libc::epoll_create1(libc::EPOLL_CLOEXEC) {
                -1 => return Err(io::Error::last_os_error()),
                fd => OwnedFd::from_raw_fd(fd),
            }
        };
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; sockets.len().max(1)];
        for (place, socket) in sockets.enumerate() {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: place as u64 };
            // SAFETY: both descriptors are open, and the event is a local that the call only reads.
            let added = unsafe {
                libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, socket.as_raw_fd(), &mut event)
            };
            if added != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(Readiness { epoll, events })
    }

    /// The places of those that can be read now.
    ///
    /// # Errors
    /// The system's.
    pub fn now(&mut self) -> io::Result<impl Iterator<Item = usize> + '_> {
        let room = self.events.len() as i32;
        // SAFETY: the pointer and the length are those of a vector that outlives the call.
        let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), self.events.as_mut_ptr(), room, 0) };
        let ready = match ready {
            0.. => ready as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => 0,
                error => return Err(error),
            },
        };
        Ok(self.events[..ready].iter().map(|event| event.u64 as usize))
    }
}

impl AsRawFd for Readiness {
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

/// Makes timed waits of this thread end on time instead of up to 50 µs later.
pub fn wake_on_time() {
    // SAFETY: takes plain numbers. Failure leaves the default, which costs only accuracy.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

/// How long this thread has been ready to run and had no core, in nanoseconds; 0 where the system does not tell.
pub fn core_wait_ns() -> u64 {
    wait_in("/proc/thread-self/schedstat".as_ref())
}

/// The same of all threads of a process that run now, together.
pub fn process_core_wait_ns(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.map(|task| wait_in(&task.path().join("schedstat"))).sum()
}

/// Processor time that this thread has taken, in nanoseconds, that of the kernel on its behalf included.
pub fn thread_cpu_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: gets the address of a local. Failure leaves zeros.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn wait_in(schedstat: &Path) -> u64 {
    let stat = std::fs::read_to_string(schedstat).unwrap_or_default();
    stat.split_whitespace().nth(1).and_then(|wait| wait.parse().ok()).unwrap_or(0)
}

/// Binds this thread to the last of the processors that it may use, as the broker does with a single shard.
///
/// # Errors
/// The system's.
pub fn pin_to_last_processor() -> io::Result<()> {
    let size = size_of::<libc::cpu_set_t>();
    // SAFETY: a set of processors is a bit field, for which zero is a value; both calls get its address and size.
    unsafe {
        let mut allowed: libc::cpu_set_t = std::mem::zeroed();
        if libc::sched_getaffinity(0, size, &mut allowed) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut processors = (0..libc::CPU_SETSIZE as usize).rev();
        let last = processors.find(|&cpu| libc::CPU_ISSET(cpu, &allowed)).unwrap_or(0);
        let mut one: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(last, &mut one);
        if libc::sched_setaffinity(0, size, &one) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Lets this process have as many descriptors as the system allows; returns how many that is.
pub fn raise_descriptor_limit() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: both calls get the address of a local. Failure leaves the limit that there was.
    unsafe {
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) == 0 && limit.rlim_cur < limit.rlim_max {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &limit);
        }
    }
    limit.rlim_cur
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn tells_which_of_many_can_be_read() {
        let mut pairs: Vec<(UnixStream, UnixStream)> = (0..40).map(|_| UnixStream::pair().unwrap()).collect();
        let sockets: Vec<UnixStream> = pairs.iter().map(|pair| pair.1.try_clone().unwrap()).collect();
        let mut readiness = Readiness::new(sockets.iter()).unwrap();
        assert_eq!(readiness.now().unwrap().count(), 0);
        for place in [3, 39] {
            pairs[place].0.write_all(b"x").unwrap();
        }
        // Until it has been read, not only once.
        for _ in 0..2 {
            let mut places: Vec<usize> = readiness.now().unwrap().collect();
            places.sort_unstable();
            assert_eq!(places, [3, 39]);
        }
        pairs[3].1.read_exact(&mut [0]).unwrap();
        assert_eq!(readiness.now().unwrap().collect::<Vec<_>>(), [39]);
    }
}
