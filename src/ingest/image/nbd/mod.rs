//! A client for NBD servers: disks of QEMU in any of its formats, and what changed in them.
//!
//! | module | holds |
//! |---|---|
//! | [`uri`] | which server, which export |
//! | `wire` | the protocol's bytes |
//! | [`session`] | handshake, reads, block status, over anything that reads and writes |
//! | this | sockets, and what it means when they fall silent |
//!
//! Fixed newstyle handshake with structured replies and meta contexts; no TLS, and nothing is ever written.

pub mod session;
#[cfg(test)]
mod tests;
pub mod uri;
mod wire;

use crate::{Error, ErrorKind, Result};
use session::Session;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use uri::{Address, NbdUri};

/// How long a server may be silent while an answer is due.
pub const SILENCE: Duration = Duration::from_secs(60);

/// A connection to a server.
#[derive(Debug)]
pub enum Socket {
    /// Over the network.
    Tcp(TcpStream),
    /// On this machine.
    Unix(UnixStream),
}

impl Read for Socket {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(out),
            Self::Unix(stream) => stream.read(out),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Connects to the server of `uri` and opens the export, with those of `contexts` that it has.
///
/// # Errors
/// When nobody answers there within `silence`, and those of [`Session::open`].
pub fn connect(uri: &NbdUri, contexts: &[&str], silence: Duration) -> Result<Session<Socket>> {
    let (socket, place) = match &uri.address {
        Address::Unix(path) => {
            let place = crate::catalog::points::printable(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()));
            (UnixStream::connect(path).and_then(|stream| unix(stream, silence)), place)
        }
        Address::Tcp(host, port) => (tcp(host, *port, silence), format!("{host} port {port}")),
    };
    let failed = |e| {
        Error::io(format!("connecting to the NBD server at {place}"), e)
            .advise("is the server running, and is this its address?")
    };
    let socket = socket.map_err(failed)?;
    Session::open(socket, &uri.export, contexts).map_err(|e| e.context(format!("NBD server at {place}")))
}

fn unix(stream: UnixStream, silence: Duration) -> io::Result<Socket> {
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(silence))?;
    Ok(Socket::Unix(stream))
}

/// The first address of a host that answers.
fn tcp(host: &str, port: u16, silence: Duration) -> io::Result<Socket> {
    let mut result = Err(io::Error::new(io::ErrorKind::NotFound, "this name has no address"));
    for address in (host, port).to_socket_addrs()? {
        result = TcpStream::connect_timeout(&address, silence);
        if result.is_ok() {
            break;
        }
    }
    let stream = result?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(silence))?;
    stream.set_write_timeout(Some(silence))?;
    Ok(Socket::Tcp(stream))
}

/// An error of the connection.
fn lost(error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            Error::new(ErrorKind::Io, "the NBD server is silent; an answer was due for too long")
                .advise("look what the server does; nothing was sealed, and running again finds what is stored")
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
            Error::new(ErrorKind::Io, "the NBD server ended the connection")
                .advise("look what it says: QEMU does that when it cannot read its own disk")
        }
        _ => Error::io("talking to the NBD server", error),
    }
}
