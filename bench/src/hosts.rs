//! Recipients on one machine, each at an address of its own and so with a connection pool of its own at the sender.

use std::io;

use tokio::net::TcpListener;

/// Listens at the addresses of so many, at the same port of each, which is free.
///
/// # Errors
/// When an address can't be had.
pub async fn listen(count: usize) -> io::Result<(u16, Vec<TcpListener>)> {
    let first = TcpListener::bind(address(0, 0)).await?;
    let port = first.local_addr()?.port();
    let mut listeners = vec![first];
    for host in 1..count {
        listeners.push(TcpListener::bind(address(host, port)).await?);
    }
    Ok((port, listeners))
}

/// Where one of them is, of at most 255: `host:port`.
pub fn address(host: usize, port: u16) -> String {
    format!("127.0.1.{}:{port}", host + 1)
}
