//! A plain TCP client for the checks: every wait has a limit.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpStream};

use crate::limit;
use crate::master::SOON;

/// A connection to a server of the scenario.
#[derive(Debug)]
pub struct Tcp(TcpStream);

impl Tcp {
    /// Connects to a port of this machine.
    ///
    /// # Errors
    /// The system's own.
    pub fn connect(port: u16) -> io::Result<Self> {
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).and_then(Self::over)
    }

    /// Takes over a connection that was made or accepted elsewhere.
    ///
    /// # Errors
    /// The system's own.
    pub fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(limit(SOON)))?;
        stream.set_write_timeout(Some(limit(SOON)))?;
        Ok(Self(stream))
    }

    /// Sends `text`.
    ///
    /// # Panics
    /// If the server does not take it.
    pub fn say(&mut self, text: &str) {
        self.0.write_all(text.as_bytes()).expect("the server takes it");
    }

    /// Reads exactly `text`.
    ///
    /// # Panics
    /// If something else comes, or nothing in time.
    pub fn hear(&mut self, text: &str) {
        let mut bytes = vec![0; text.len()];
        self.0.read_exact(&mut bytes).expect("the server answers");
        assert_eq!(String::from_utf8_lossy(&bytes), text);
    }

    /// Reads one line, without its end.
    ///
    /// # Panics
    /// If none comes in time.
    pub fn line(&mut self) -> String {
        let mut line = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            self.0.read_exact(&mut byte).expect("the server answers with a line");
            line.push(byte[0]);
        }
        line.pop();
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Reads to the server's end: what came, and whether the end was orderly (else it was a reset).
    ///
    /// # Panics
    /// If the end does not come in time.
    pub fn rest(&mut self) -> (String, bool) {
        let mut text = Vec::new();
        let is_orderly = match self.0.read_to_end(&mut text) {
            Ok(_) => true,
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => false,
            Err(error) => panic!("the server neither ends nor resets: {error}"),
        };
        (String::from_utf8_lossy(&text).into_owned(), is_orderly)
    }
}

/// Is nobody listening there?
#[must_use]
pub fn is_refused(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}
