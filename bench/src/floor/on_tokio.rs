//! The floor on tokio, with one thread for everything.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Lane, READ_BYTES};

/// As reports call it.
pub(super) const NAME: &str = "tokio";

/// Serves until the connections end.
pub(super) fn serve(lanes: Vec<Lane>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut copies = Vec::new();
        for Lane { from, to } in lanes {
            from.set_nonblocking(true)?;
            to.set_nonblocking(true)?;
            let (from, to) = (TcpStream::from_std(from)?, TcpStream::from_std(to)?);
            copies.push(tokio::spawn(copy(from, to)));
        }
        for end in copies {
            // The end of a connection is how every load ends.
            drop(end.await);
        }
        Ok(())
    })
}

async fn copy(mut from: TcpStream, mut to: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let received = from.read(&mut buffer).await?;
        if received == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..received]).await?;
    }
}
