//! The floor with blocking reads and writes.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::{Lane, READ_BYTES};

/// As reports call it.
pub(super) const NAME: &str = "blocking";

/// Serves until the connections end.
pub(super) fn serve(lanes: Vec<Lane>) -> io::Result<()> {
    std::thread::scope(|scope| {
        for lane in lanes {
            // The end of a connection is how every load ends.
            scope.spawn(move || drop(copy(lane.from, lane.to)));
        }
    });
    Ok(())
}

fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let received = from.read(&mut buffer)?;
        if received == 0 {
            return to.shutdown(Shutdown::Both);
        }
        to.write_all(&buffer[..received])?;
    }
}
