//! Redis servers that the tests start, on free ports of the loopback interface.

use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use groupcache_redis::redis;

use crate::process::{self, free_port, have, new_directory};

const START_ATTEMPTS: u32 = 500;
const START_PAUSE: Duration = Duration::from_millis(10);

/// A Redis server with a process, a port and a directory of its own. Dropping it kills the process and
/// removes the directory.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    password: Option<String>,
}

impl RedisServer {
    /// Starts `redis-server` with these arguments, by default without persistence.
    ///
    /// Returns `None` if `redis-server` is not installed.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_in(new_directory(), arguments)
    }

    /// Does the same in a directory with files for the server. Dropping the server removes the directory.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start.
    #[must_use]
    pub fn start_in(directory: PathBuf, arguments: &[&str]) -> Option<Self> {
        if !have("redis-server") {
            return None;
        }
        let password = arguments.iter().position(|argument| *argument == "--requirepass");
        let password = password.and_then(|at| arguments.get(at + 1)).map(ToString::to_string);
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { child: None, port: 0, directory, arguments, password };
        server.run(free_port);
        Some(server)
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the directory of the server.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Returns the URL for clients.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}/", self.port),
            None => format!("redis://127.0.0.1:{}/", self.port),
        }
    }

    /// Kills the server with SIGKILL, as a crash does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            process::kill(&mut child);
        }
    }

    /// Kills the server if it runs, and starts it again on the same port and in the same directory.
    pub fn restart(&mut self) {
        self.kill();
        let port = self.port;
        self.run(|| port);
    }

    /// Removes the snapshot that the server has saved.
    pub fn forget_snapshot(&self) {
        // There may be none.
        let _none = std::fs::remove_file(self.directory.join("dump.rdb"));
    }

    /// Pauses the server with SIGSTOP until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.child.iter().for_each(process::pause);
    }

    /// Continues the server with SIGCONT.
    pub fn resume(&self) {
        self.child.iter().for_each(process::resume);
    }

    /// Runs a command, such as `"CONFIG SET maxmemory 1mb"`, and returns the reply.
    ///
    /// # Panics
    ///
    /// Panics if the server is unreachable or refuses the command.
    pub fn run_command<T: redis::FromRedisValue>(&self, command: &str) -> T {
        self.try_command(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Does the same, but returns failures.
    ///
    /// # Errors
    ///
    /// Returns an error if the server is unreachable or refuses the command.
    pub fn try_command<T: redis::FromRedisValue>(&self, command: &str) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url())?;
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        connection.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut built = redis::Cmd::new();
        for word in command.split(' ') {
            built.arg(word.replace("\u{a0}", " "));
        }
        built.query(&mut connection)
    }

    /// Returns a field of `INFO section`.
    ///
    /// # Panics
    ///
    /// Panics if the server is unreachable.
    #[must_use]
    pub fn info(&self, section: &str, field: &str) -> Option<String> {
        let info: String = self.run_command(&format!("INFO {section}"));
        let prefix = format!("{field}:");
        info.lines().find_map(|line| line.trim_end().strip_prefix(&prefix)).map(str::to_owned)
    }

    /// Returns how often the server has run `command`, by its name in `INFO commandstats`, such as `mget`.
    ///
    /// # Panics
    ///
    /// Panics if the server is unreachable.
    #[must_use]
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.info("commandstats", &format!("cmdstat_{command}"));
        stats
            .and_then(|stats| stats.split(',').next()?.strip_prefix("calls=")?.parse().ok())
            .unwrap_or_default()
    }

    /// Waits until `condition` is true.
    ///
    /// # Panics
    ///
    /// Panics after ten seconds.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if condition(self) {
                return;
            }
            sleep(START_PAUSE);
        }
        panic!("waited in vain until {what}");
    }

    /// Starts the process on a port that `port` chooses for each attempt.
    fn run(&mut self, port: impl Fn() -> u16) {
        for _ in 0..5 {
            self.port = port();
            let mut child = self.command().spawn().expect("redis-server starts");
            if self.becomes_ready(&mut child) {
                self.child = Some(child);
                return;
            }
            process::kill(&mut child);
        }
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        panic!("redis-server does not start:\n{log}");
    }

    fn command(&self) -> Command {
        let mut command = Command::new("redis-server");
        let port = self.port.to_string();
        // The configuration file of a sentinel comes first, and it takes no other settings.
        if self.arguments.last().is_some_and(|last| last == "--sentinel") {
            let (file, others) = self.arguments.split_first().expect("a file");
            command.arg(file).args(["--port", &port]).args(others);
        } else {
            let plain = if self.is_tls() { "0" } else { &port };
            command.args(["--port", plain, "--save", "", "--appendonly", "no"]);
            command.args(self.arguments.iter().map(|argument| match argument.as_str() {
                "TLS_PORT" => &port,
                argument => argument,
            }));
        }
        let log = std::fs::File::create(self.directory.join("log")).expect("a log file");
        command.args(["--bind", "127.0.0.1", "--dir"]).arg(&self.directory);
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
        command
    }

    /// Waits until `child` is ready. Returns false if it ends, as another process has its port.
    fn becomes_ready(&self, child: &mut Child) -> bool {
        for _ in 0..START_ATTEMPTS {
            if self.is_ready(child.id()) {
                return true;
            }
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                return false;
            }
            sleep(START_PAUSE);
        }
        false
    }

    /// Returns whether a server replies on the port, and is this process and no other.
    fn is_ready(&self, process_id: u32) -> bool {
        if self.is_tls() {
            return TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok();
        }
        let own = format!("process_id:{process_id}");
        self.try_command::<redis::Value>("PING").is_ok()
            && self
                .try_command::<String>("INFO server")
                .is_ok_and(|info| info.lines().any(|line| line.trim_end() == own))
    }

    fn is_tls(&self) -> bool {
        self.arguments.iter().any(|argument| argument == "--tls-port")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        // A directory that cannot be removed stays in the temporary directory of the system.
        let _in_use = std::fs::remove_dir_all(&self.directory);
    }
}
