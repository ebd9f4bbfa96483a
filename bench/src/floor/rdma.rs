//! Where the floor listens for RDMA: an address of the kernel's that belongs to an RDMA device.

use std::io;
use std::net::{IpAddr, SocketAddr};

use fulmar_rdma::{Side, VerbsDevice};
use fulmar_transport::Config;

/// Listens at an address, on a free port; at the first of this host's that will do if it is unspecified.
///
/// # Errors
/// What RDMA lacks here, or why the address will not do.
pub(super) fn listen(ip: IpAddr, backlog: u32) -> io::Result<(Side<VerbsDevice>, SocketAddr)> {
    let device = VerbsDevice::new().map_err(|missing| io::Error::new(io::ErrorKind::Unsupported, missing))?;
    let mut side = Side::new(device, Config::default());
    let candidates = if ip.is_unspecified() { own_addresses()? } else { vec![ip] };
    let mut last = io::Error::other("this host has no address but those of loopback");
    for ip in candidates {
        match side.listen((ip, 0).into(), backlog) {
            Ok((_, address)) => return Ok((side, address)),
            Err(error) => {
                last = io::Error::new(error.kind(), format!("no RDMA device listens on {ip}: {error}"))
            }
        }
    }
    Err(last)
}

/// The IPv4 addresses of this host's interfaces, without loopback.
fn own_addresses() -> io::Result<Vec<IpAddr>> {
    let interfaces = if_addrs::get_if_addrs()?;
    let own = interfaces.iter().map(if_addrs::Interface::ip);
    Ok(own.filter(|ip| ip.is_ipv4() && !ip.is_loopback()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_none_of_the_addresses() {
        assert!(own_addresses().unwrap().iter().all(|ip| !ip.is_loopback()));
    }
}
