//! A channel's connection, as those see it who look after it while others use it.

use std::{io, net::SocketAddr};

use super::Socket;
use crate::tcp::kernel::{self, Info};

/// A look at the connection under a channel. It keeps the socket open, too.
#[derive(Clone)]
pub struct Line(pub(super) Socket);

impl Line {
    /// What the kernel knows of it.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn info(&self) -> io::Result<Info> {
        kernel::info(&*self.0)
    }

    /// Where the other end is.
    ///
    /// # Errors
    /// If it is no longer connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.0.get_ref().peer_addr()
    }

    /// Ends the connection at once, whatever waits in it. The other end is told by a RST, which waits for nothing:
    /// closing would put a FIN behind the bytes that are not acknowledged (`connect(2)`, AF_UNSPEC).
    ///
    /// # Errors
    /// If it was not connected.
    pub fn cut(&self) -> io::Result<()> {
        Ok(rustix::net::connect_unspec(&*self.0)?)
    }
}
