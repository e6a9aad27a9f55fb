//! A server, and HTTP/1.1 by hand, so that tests see what is on the wire.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use sandscope_tests::{Background, guest};

/// A guest, served.
pub struct Server {
    pub process: Background,
    pub address: String,
}

impl Server {
    /// The guest `session`.
    pub fn start(flags: &[&str]) -> Self {
        Self::of(&guest("session"), flags)
    }

    pub fn of(component: &Path, flags: &[&str]) -> Self {
        let mut args = vec!["serve", "--addr", "127.0.0.1:0"];
        args.extend(flags);
        args.push(component.to_str().unwrap());
        let (process, line) = Background::start(&args, "serving");
        let address = line.rsplit("http://").next().unwrap().trim().to_owned();
        Self { process, address }
    }

    pub fn connect(&self) -> Client {
        let socket = TcpStream::connect(&self.address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client(BufReader::new(socket))
    }

    /// One request on a connection of its own.
    pub fn ask(&self, head: &str, body: &str) -> Answer {
        let mut client = self.connect();
        client.send(head, body);
        client.answer()
    }

    pub fn terminate(&mut self) -> ExitStatus {
        self.signal();
        self.process.0.wait().unwrap()
    }

    pub fn signal(&self) {
        let pid = self.process.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    }
}

/// A connection that is kept.
pub struct Client(pub BufReader<TcpStream>);

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Client {
    /// `head` is a method, a path and headers, one a line.
    pub fn send(&mut self, head: &str, body: &str) {
        let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
        let headers: String = headers.lines().map(|line| format!("{}\r\n", line.trim())).collect();
        let length = body.len();
        let text =
            format!("{line} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        self.0.get_mut().write_all(text.as_bytes()).unwrap();
    }

    /// Sends the head only, and waits until the guest reads the body: then it runs.
    pub fn start(&mut self, line: &str, length: usize) {
        let headers = format!("Host: localhost\r\nExpect: 100-continue\r\nContent-Length: {length}");
        self.0.get_mut().write_all(format!("{line} HTTP/1.1\r\n{headers}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(self.answer().status, 100);
    }

    pub fn answer(&mut self) -> Answer {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert_ne!(self.0.read_line(&mut head).unwrap(), 0, "the connection ended: {head}");
        }
        let status = head[9..12].parse().unwrap();
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
        let body = if lower.contains("transfer-encoding: chunked") {
            self.chunks()
        } else {
            let mut body = vec![0; length.map_or(0, |length| length.trim().parse().unwrap())];
            self.0.read_exact(&mut body).unwrap();
            body
        };
        Answer { status, head, body: String::from_utf8(body).unwrap() }
    }

    /// A body in chunks.
    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let length = usize::from_str_radix(line.trim(), 16).unwrap();
            let mut chunk = vec![0; length + 2];
            self.0.read_exact(&mut chunk).unwrap();
            if length == 0 {
                return body;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
}
