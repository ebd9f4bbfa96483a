//! The few socket calls that both real transports make, none of them per message.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn set_option<T>(fd: RawFd, level: i32, name: i32, value: T) -> io::Result<()> {
    // SAFETY: `value` is a live object of the length given.
    check(unsafe {
        libc::setsockopt(fd, level, name, (&raw const value).cast(), mem::size_of::<T>() as u32)
    })?;
    Ok(())
}

fn stream_socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers; the result is checked.
    let fd = check(unsafe {
        libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: a fresh descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A listening socket and the address that it got.
pub(crate) fn listen(addr: SocketAddr, backlog: u32) -> io::Result<(OwnedFd, SocketAddr)> {
    let attempt = || {
        let socket = stream_socket(addr)?;
        let fd = socket.as_raw_fd();
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1i32)?;
        set_option(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1i32)?;
        if addr.is_ipv6() {
            set_option(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1i32)?;
        }
        let raw = RawAddr::from(addr);
        // SAFETY: a live address of the length given.
        check(unsafe { libc::bind(fd, raw.as_ptr(), raw.len()) })?;
        // SAFETY: no pointers.
        check(unsafe { libc::listen(fd, backlog.min(i32::MAX as u32) as i32) })?;
        let local = local_addr(fd)?;
        Ok((socket, local))
    };
    attempt()
        .map_err(|error: io::Error| io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}")))
}

/// A socket that is ready to be connected.
pub(crate) fn unconnected(addr: SocketAddr) -> io::Result<OwnedFd> {
    let socket = stream_socket(addr)?;
    send_at_once(socket.as_raw_fd(), addr.ip().is_loopback());
    Ok(socket)
}

/// Readies a socket that was accepted.
pub(crate) fn accepted(fd: RawFd, peer: SocketAddr, local: SocketAddr) {
    send_at_once(fd, peer.ip().is_loopback() || peer.ip() == local.ip());
}

/// Switches off the collecting of small segments, and, towards a peer on the same host, pacing: there is no path to
/// probe, and where the system's congestion control is one that paces (BBR), every send sets a timer of the kernel's.
/// Reno is in every kernel and allowed to everybody. Fails only for a socket that is dead anyway.
fn send_at_once(fd: RawFd, same_host: bool) {
    let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1i32);
    if same_host {
        let _ = set_option(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, *b"reno");
    }
}

/// Makes the coming close drop what is unsent and reset the peer.
pub(crate) fn set_abortive(fd: RawFd) {
    let _ = set_option(fd, libc::SOL_SOCKET, libc::SO_LINGER, libc::linger { l_onoff: 1, l_linger: 0 });
}

/// Says to the peer that nothing more will come.
pub(crate) fn shutdown_write(fd: RawFd) {
    // SAFETY: no pointers. It fails only for a socket that is dead anyway.
    unsafe { libc::shutdown(fd, libc::SHUT_WR) };
}

/// Stops listening, whoever else still holds the socket.
pub(crate) fn shutdown_listener(fd: RawFd) {
    // SAFETY: no pointers. It fails only for a socket that is dead anyway.
    unsafe { libc::shutdown(fd, libc::SHUT_RDWR) };
}

/// The error that a socket has met, 0 if none.
pub(crate) fn take_error(fd: RawFd) -> i32 {
    let mut error = 0i32;
    let mut len = mem::size_of::<i32>() as libc::socklen_t;
    // SAFETY: `error` and `len` are valid places of the sizes given.
    unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_ERROR, (&raw mut error).cast(), &mut len) };
    error
}

/// This end's address.
pub(crate) fn local_addr(fd: RawFd) -> io::Result<SocketAddr> {
    // SAFETY: passed on by `RawAddr::receive` with a valid place and length.
    RawAddr::receive(|addr, len| unsafe { libc::getsockname(fd, addr, len) })
}

/// The other end's address.
pub(crate) fn peer_addr(fd: RawFd) -> io::Result<SocketAddr> {
    // SAFETY: passed on by `RawAddr::receive` with a valid place and length.
    RawAddr::receive(|addr, len| unsafe { libc::getpeername(fd, addr, len) })
}

/// A socket address as the kernel has it.
pub(crate) enum RawAddr {
    V4(libc::sockaddr_in),
    V6(libc::sockaddr_in6),
}

impl RawAddr {
    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        match self {
            RawAddr::V4(raw) => (&raw const *raw).cast(),
            RawAddr::V6(raw) => (&raw const *raw).cast(),
        }
    }

    pub(crate) fn len(&self) -> libc::socklen_t {
        match self {
            RawAddr::V4(raw) => mem::size_of_val(raw) as libc::socklen_t,
            RawAddr::V6(raw) => mem::size_of_val(raw) as libc::socklen_t,
        }
    }

    fn receive(
        call: impl FnOnce(*mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int,
    ) -> io::Result<SocketAddr> {
        let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
        let mut len = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
        check(call(storage.as_mut_ptr().cast(), &mut len))?;
        // SAFETY: zeroed at first, which is a valid value, then written to by the kernel.
        let storage = unsafe { storage.assume_init() };
        match i32::from(storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says that it is one, and the storage is large and aligned enough for it.
                let raw = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
                Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let raw = unsafe { &*(&raw const storage).cast::<libc::sockaddr_in6>() };
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                Ok(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), raw.sin6_flowinfo, raw.sin6_scope_id)
                    .into())
            }
            family => Err(io::Error::other(format!("address of unknown family {family}"))),
        }
    }
}

impl From<SocketAddr> for RawAddr {
    fn from(addr: SocketAddr) -> Self {
        match addr {
            SocketAddr::V4(addr) => RawAddr::V4(libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
                sin_zero: [0; 8],
            }),
            SocketAddr::V6(addr) => RawAddr::V6(libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: addr.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: addr.scope_id(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn congestion_control(fd: RawFd) -> String {
        let mut name = [0u8; 16];
        let mut len = name.len() as libc::socklen_t;
        // SAFETY: `name` and `len` are valid places of the sizes given.
        check(unsafe {
            libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_CONGESTION, name.as_mut_ptr().cast(), &mut len)
        })
        .unwrap();
        String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned()
    }

    #[test]
    #[cfg_attr(miri, ignore = "needs sockets")]
    fn nothing_is_paced_within_a_host() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let client = TcpStream::connect(addr).unwrap();
        let usual = congestion_control(client.as_raw_fd());
        let (server, peer) = listener.accept().unwrap();
        let elsewhere = "192.0.2.1:1".parse().unwrap();
        accepted(server.as_raw_fd(), elsewhere, addr);
        assert_eq!(congestion_control(server.as_raw_fd()), usual);
        accepted(server.as_raw_fd(), peer, addr);
        assert_eq!(congestion_control(server.as_raw_fd()), "reno");
        assert_eq!(congestion_control(unconnected(addr).unwrap().as_raw_fd()), "reno");
        assert_eq!(congestion_control(unconnected(elsewhere).unwrap().as_raw_fd()), usual);
    }

    /// Hands an address over as the kernel does.
    fn there_and_back(addr: SocketAddr) -> SocketAddr {
        let raw = RawAddr::from(addr);
        RawAddr::receive(|place, len| {
            // SAFETY: both are live, apart from each other, and as long as said.
            unsafe {
                assert!(raw.len() <= *len);
                std::ptr::copy_nonoverlapping(raw.as_ptr().cast::<u8>(), place.cast(), raw.len() as usize);
                *len = raw.len();
            }
            0
        })
        .unwrap()
    }

    #[test]
    fn addresses_pass_unchanged() {
        for addr in ["127.0.0.1:5672", "[2001:db8::1]:443"] {
            let addr = addr.parse().unwrap();
            assert_eq!(there_and_back(addr), addr);
        }
        let scoped = SocketAddrV6::new(Ipv6Addr::LOCALHOST, 1, 2, 3).into();
        assert_eq!(there_and_back(scoped), scoped);
    }

    #[test]
    fn an_address_that_was_not_given_is_an_error() {
        assert!(RawAddr::receive(|_, _| 0).is_err());
        assert!(RawAddr::receive(|_, _| -1).is_err());
    }
}
