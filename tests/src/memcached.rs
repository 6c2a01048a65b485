//! Real memcached servers, started by the tests that use them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::servers::{free_port, have};

const START_ATTEMPTS: u32 = 500;
const START_PAUSE: Duration = Duration::from_millis(10);

/// A memcached server of its own process and port. Killed when dropped.
#[derive(Debug)]
pub struct MemcachedServer {
    child: Option<Child>,
    port: u16,
    arguments: Vec<String>,
}

/// Several servers of one list.
#[derive(Debug)]
pub struct MemcachedServers(pub Vec<MemcachedServer>);

impl MemcachedServer {
    /// Starts one with these arguments of `memcached`. `None` if there is none.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Option<Self> {
        if !have("memcached") {
            return None;
        }
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { child: None, port: free_port(), arguments };
        server.run();
        Some(server)
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// A list of this server alone.
    #[must_use]
    pub fn url(&self) -> String {
        format!("memcached://127.0.0.1:{}", self.port)
    }

    /// Ends it as a crash does (`kill -9`).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _already_gone = child.kill();
            let _already_gone = child.wait();
        }
    }

    /// Ends it in the orderly way after which it may keep its memory (`-e`), and waits for that.
    pub fn stop(&mut self) {
        self.signal("-USR1");
        if let Some(mut child) = self.child.take() {
            let _ended = child.wait();
        }
    }

    /// Starts it again on the same port, killing it first if it runs.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Stops it in its tracks (SIGSTOP), until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Sends a command of the text protocol and returns what is answered, up to a line that ends so.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    #[must_use]
    pub fn command(&self, command: &str, last_line: &str) -> String {
        self.try_command(command, last_line).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Forgets everything.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    pub fn flush_all(&self) {
        assert_eq!(self.command("flush_all", "OK"), "OK\r\n");
    }

    /// A number among its statistics, such as `cmd_get`.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached, or has no such statistic.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.command("stats", "END");
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no `{name}` in {stats}"))
    }

    /// The names of all its keys.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        let dump = self.command("lru_crawler metadump all", "END");
        dump.lines()
            .filter_map(|line| Some(line.strip_prefix("key=")?.split(' ').next()?.to_owned()))
            .collect()
    }

    fn try_command(&self, command: &str, last_line: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(format!("{command}\r\n").as_bytes())?;
        let (mut answer, last_line) = (Vec::new(), format!("{last_line}\r\n"));
        let mut buffer = [0; 16 << 10];
        while !answer.ends_with(last_line.as_bytes()) {
            let read = stream.read(&mut buffer)?;
            if read == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
            answer.extend_from_slice(&buffer[..read]);
        }
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    fn run(&mut self) {
        for _ in 0..5 {
            let mut command = Command::new("memcached");
            command.args(["-l", "127.0.0.1", "-U", "0", "-u", "root", "-p", &self.port.to_string()]);
            command.args(&self.arguments);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("memcached starts");
            for _ in 0..START_ATTEMPTS {
                if self.try_command("mn", "MN").is_ok() {
                    self.child = Some(child);
                    return;
                }
                if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                    // Another process was quicker to take the port, or it is not free again yet.
                    break;
                }
                sleep(START_PAUSE);
            }
            let _already_gone = child.kill();
            let _already_gone = child.wait();
        }
        panic!("memcached does not start with {:?}", self.arguments);
    }

    fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {signal}");
    }
}

impl MemcachedServers {
    /// Starts that many with the same arguments. `None` if there is no `memcached`.
    ///
    /// # Panics
    ///
    /// If one does not start.
    #[must_use]
    pub fn start(count: usize, arguments: &[&str]) -> Option<Self> {
        (0..count).map(|_| MemcachedServer::start(arguments)).collect::<Option<_>>().map(Self)
    }

    /// The list of all.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(&self.0)
    }

    /// A statistic, of all servers together.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        self.0.iter().map(|server| server.stat(name)).sum()
    }

    /// The keys of all.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.0.iter().flat_map(MemcachedServer::keys).collect()
    }
}

/// The list of these servers.
pub fn url_of<'a>(servers: impl IntoIterator<Item = &'a MemcachedServer>) -> String {
    let addresses: Vec<_> =
        servers.into_iter().map(|server| format!("127.0.0.1:{}", server.port())).collect();
    format!("memcached://{}", addresses.join(","))
}

impl Drop for MemcachedServer {
    fn drop(&mut self) {
        self.kill();
    }
}
