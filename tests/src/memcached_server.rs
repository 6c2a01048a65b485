//! memcached servers that the tests start, on free ports of the loopback interface.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use crate::process::{self, free_port, have};

const START_ATTEMPTS: u32 = 500;
const START_PAUSE: Duration = Duration::from_millis(10);

/// A memcached server with a process and a port of its own. Dropping it kills the process.
#[derive(Debug)]
pub struct MemcachedServer {
    child: Option<Child>,
    port: u16,
    arguments: Vec<String>,
}

/// The servers of one list.
#[derive(Debug)]
pub struct MemcachedServers(pub Vec<MemcachedServer>);

impl MemcachedServer {
    /// Starts `memcached` with these arguments. Returns `None` if `memcached` is not installed.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Option<Self> {
        if !have("memcached") {
            return None;
        }
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { child: None, port: 0, arguments };
        server.run(free_port);
        Some(server)
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of a list of this server alone.
    #[must_use]
    pub fn url(&self) -> String {
        format!("memcached://127.0.0.1:{}", self.port)
    }

    /// Kills the server with SIGKILL, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::kill(&mut child);
        }
    }

    /// Stops the server with SIGUSR1, after which it can restore its memory (`-e`), and waits for its end.
    pub fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::send_usr1(&child);
            let _ended = child.wait();
        }
    }

    /// Kills the server if it runs, and starts it again on the same port.
    pub fn restart(&mut self) {
        self.kill();
        let port = self.port;
        self.run(|| port);
    }

    /// Pauses the server with SIGSTOP until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.child.iter().for_each(process::pause);
    }

    /// Continues the server with SIGCONT.
    pub fn resume(&self) {
        self.child.iter().for_each(process::resume);
    }

    /// Sends a command of the text protocol and returns the reply up to and including `last_line`.
    ///
    /// # Panics
    ///
    /// Panics if the server is unreachable.
    #[must_use]
    pub fn command(&self, command: &str, last_line: &str) -> String {
        self.try_command(command, last_line).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Flushes the server.
    ///
    /// # Panics
    ///
    /// Panics if the server is unreachable.
    pub fn flush_all(&self) {
        assert_eq!(self.command("flush_all", "OK"), "OK\r\n");
    }

    /// Returns one of the numbers in `stats`, such as `cmd_get`.
    ///
    /// # Panics
    ///
    /// Panics if the server is unreachable or has no such number.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        let stats = self.command("stats", "END");
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no `{name}` in {stats}"))
    }

    /// Returns the names of all keys.
    ///
    /// # Panics
    ///
    /// Panics if the server is unreachable.
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

    /// Starts the process on a port that `port` chooses for each attempt.
    fn run(&mut self, port: impl Fn() -> u16) {
        for _ in 0..5 {
            self.port = port();
            let mut command = Command::new("memcached");
            command.args(["-l", "127.0.0.1", "-U", "0", "-u", "root", "-p", &self.port.to_string()]);
            command.args(&self.arguments);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
            let mut child = command.spawn().expect("memcached starts");
            if self.becomes_ready(&mut child) {
                self.child = Some(child);
                return;
            }
            process::kill(&mut child);
        }
        panic!("memcached does not start with {:?}", self.arguments);
    }

    /// Waits until `child` is ready. Returns false if it ends, as another process has its port.
    fn becomes_ready(&self, child: &mut Child) -> bool {
        let own = format!("STAT pid {}", child.id());
        for _ in 0..START_ATTEMPTS {
            if self.try_command("stats", "END").is_ok_and(|stats| stats.lines().any(|line| line == own)) {
                return true;
            }
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            sleep(START_PAUSE);
        }
        false
    }
}

impl MemcachedServers {
    /// Starts `count` servers with the same arguments. Returns `None` if `memcached` is not installed.
    ///
    /// # Panics
    ///
    /// Panics if a server does not start.
    #[must_use]
    pub fn start(count: usize, arguments: &[&str]) -> Option<Self> {
        (0..count).map(|_| MemcachedServer::start(arguments)).collect::<Option<_>>().map(Self)
    }

    /// Returns the URL of the list of all servers.
    #[must_use]
    pub fn url(&self) -> String {
        url_of(&self.0)
    }

    /// Returns the sum of one of the numbers in `stats` over all servers.
    #[must_use]
    pub fn stat(&self, name: &str) -> u64 {
        self.0.iter().map(|server| server.stat(name)).sum()
    }

    /// Returns the names of the keys of all servers.
    #[must_use]
    pub fn keys(&self) -> Vec<String> {
        self.0.iter().flat_map(MemcachedServer::keys).collect()
    }
}

/// Returns the URL of a list of these servers.
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
