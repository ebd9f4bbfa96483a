//! Where connections come from: an address, or a range of them.

use std::net::{IpAddr, ToSocketAddrs};

/// Addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    Any,
    Range(IpAddr, IpAddr),
}

impl Hosts {
    /// `all`, an address or name, or two with a comma between.
    pub(super) fn parse(text: &str) -> Result<Hosts, String> {
        if text == super::words::ALL {
            return Ok(Hosts::Any);
        }
        let ends: Vec<&str> = text.split(',').filter(|end| !end.is_empty()).collect();
        let (first, last) = match ends[..] {
            [one] => (address(one)?, address(one)?),
            [first, last] => (address(first)?, address(last)?),
            _ => return Err(format!("host '{text}' is neither one address nor two with a comma between")),
        };
        if first.is_ipv4() != last.is_ipv4() {
            return Err(format!("host '{text}' has addresses of two kinds"));
        }
        if first > last {
            return Err(format!("host '{text}' ends before it begins"));
        }
        Ok(Hosts::Range(first, last))
    }

    pub(super) fn contains(self, address: IpAddr) -> bool {
        match (self, address.to_canonical()) {
            (Hosts::Any, _) => true,
            (Hosts::Range(IpAddr::V4(first), IpAddr::V4(last)), IpAddr::V4(found)) => {
                (first..=last).contains(&found)
            }
            (Hosts::Range(IpAddr::V6(first), IpAddr::V6(last)), IpAddr::V6(found)) => {
                (first..=last).contains(&found)
            }
            _ => false,
        }
    }
}

fn address(text: &str) -> Result<IpAddr, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if let Ok(address) = bare.parse() {
        return Ok(address);
    }
    let found = (bare, 0).to_socket_addrs().map_err(|error| format!("host '{text}': {error}"))?;
    found.into_iter().map(|found| found.ip()).next().ok_or_else(|| format!("host '{text}' has no address"))
}
