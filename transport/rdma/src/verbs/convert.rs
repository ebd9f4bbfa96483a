//! Between the libraries' data and a [`Device`](crate::Device)'s: addresses, private data, completions.

use std::ffi::c_int;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::{mem, ptr};

use crate::device::{Completed, Completion, Piece, Private};
use crate::sys::{self, CmEvent};

pub(super) fn error_number(status: c_int, otherwise: c_int) -> c_int {
    if status == 0 { otherwise } else { status.abs() }
}

/// What the other side sent along with an event.
pub(super) fn private(event: &CmEvent) -> Private {
    let parameters = &event.parameters;
    if parameters.private_data.is_null() {
        return Private::new(&[]);
    }
    // SAFETY: so many bytes lie there until the event is acknowledged.
    let bytes = unsafe {
        std::slice::from_raw_parts(
            parameters.private_data.cast::<u8>(),
            usize::from(parameters.private_data_bytes),
        )
    };
    Private::new(bytes)
}

pub(super) fn raw_piece(piece: Piece) -> sys::Piece {
    sys::Piece { address: piece.address as u64, bytes: piece.bytes, key: piece.key }
}

pub(super) fn read_completion(raw: &sys::WorkCompletion) -> Completion {
    let result = match raw.status {
        0 if raw.opcode & sys::WC_OPCODE_RECV != 0 => Ok(Completed::Received {
            bytes: raw.bytes,
            immediate: (raw.flags & sys::WC_FLAG_WITH_IMM != 0).then(|| u32::from_be(raw.immediate)),
        }),
        0 => Ok(Completed::Sent),
        status => Err(status),
    };
    Completion { token: raw.id, result }
}

pub(super) fn raw_addr(addr: SocketAddr) -> libc::sockaddr_storage {
    // SAFETY: all zeros are a value of it.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    match addr {
        SocketAddr::V4(addr) => {
            let raw = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: addr.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from(*addr.ip()).to_be() },
                sin_zero: [0; 8],
            };
            // SAFETY: the storage is large and aligned enough for every kind of address.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(raw) };
        }
        SocketAddr::V6(addr) => {
            let raw = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: addr.port().to_be(),
                sin6_flowinfo: addr.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                sin6_scope_id: addr.scope_id(),
            };
            // SAFETY: as above.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(raw) };
        }
    }
    storage
}

pub(super) fn socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that it is one, and the storage is large and aligned enough for it.
            let raw = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in>() };
            let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
            Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above.
            let raw = unsafe { &*ptr::from_ref(storage).cast::<libc::sockaddr_in6>() };
            let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
            let port = u16::from_be(raw.sin6_port);
            Some(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_pass_unchanged() {
        for addr in ["10.8.0.1:5672", "[2001:db8::1]:443"] {
            let addr = addr.parse().unwrap();
            assert_eq!(socket_addr(&raw_addr(addr)), Some(addr));
        }
        // SAFETY: all zeros are a value of it.
        assert_eq!(socket_addr(&unsafe { mem::zeroed() }), None);
    }
}
