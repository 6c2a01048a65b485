//! Real servers, started by the tests that use them, on free ports of the loopback interface.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::Duration;

use groupcache_redis::redis;

const START_ATTEMPTS: u32 = 500;
const START_PAUSE: Duration = Duration::from_millis(10);

/// Whether `program` can be run. If not, says so where people see it, and fails where
/// `GROUPCACHE_REQUIRE_SERVERS=1` is set: there nothing may be skipped.
///
/// # Panics
///
/// See above.
#[must_use]
pub fn have(program: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        let required = std::env::var("GROUPCACHE_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
        assert!(!required, "`{program}` is not installed; see tests/servers.sh");
        // Past the capture of the test harness.
        let mut stderr = std::io::stderr().lock();
        let _written = writeln!(stderr, "SKIPPED: `{program}` is not installed; see tests/servers.sh");
    }
    found
}

/// A Redis server of its own process, port and directory. Killed, and its directory removed, when
/// dropped.
#[derive(Debug)]
pub struct RedisServer {
    child: Option<Child>,
    port: u16,
    directory: PathBuf,
    arguments: Vec<String>,
    password: Option<String>,
}

impl RedisServer {
    /// Starts one with these arguments of `redis-server`, without persistence unless they say so.
    /// `None` if there is no `redis-server`.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_in(new_directory(), arguments)
    }

    /// The same in a directory that has files for it, which then is the server's.
    ///
    /// # Panics
    ///
    /// If it does not start.
    #[must_use]
    pub fn start_in(directory: PathBuf, arguments: &[&str]) -> Option<Self> {
        if !have("redis-server") {
            return None;
        }
        let password = arguments.iter().position(|argument| *argument == "--requirepass");
        let password = password.and_then(|at| arguments.get(at + 1)).map(ToString::to_string);
        let arguments = arguments.iter().map(ToString::to_string).collect();
        let mut server = Self { child: None, port: free_port(), directory, arguments, password };
        server.run();
        Some(server)
    }

    /// The port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// How clients reach it.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.password {
            Some(password) => format!("redis://:{password}@127.0.0.1:{}/", self.port),
            None => format!("redis://127.0.0.1:{}/", self.port),
        }
    }

    /// Ends it as a crash does (`kill -9`).
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _already_gone = child.kill();
            let _already_gone = child.wait();
        }
    }

    /// Starts it again after [`kill`](Self::kill): same port, same directory.
    pub fn restart(&mut self) {
        self.kill();
        self.run();
    }

    /// Removes what it saved.
    pub fn forget_snapshot(&self) {
        // There may be none.
        let _none = std::fs::remove_file(self.directory.join("dump.rdb"));
    }

    /// Stops it in its tracks (SIGSTOP), until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal("-STOP");
    }

    /// Lets it go on (SIGCONT).
    pub fn resume(&self) {
        self.signal("-CONT");
    }

    /// Runs a command, such as `"CONFIG SET maxmemory 1mb"`, and returns its answer.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached or refuses.
    pub fn run_command<T: redis::FromRedisValue>(&self, command: &str) -> T {
        self.try_command(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// The same.
    ///
    /// # Errors
    ///
    /// If the server cannot be reached or refuses.
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

    /// A field of `INFO section`.
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    #[must_use]
    pub fn info(&self, section: &str, field: &str) -> Option<String> {
        let info: String = self.run_command(&format!("INFO {section}"));
        let prefix = format!("{field}:");
        info.lines().find_map(|line| line.trim_end().strip_prefix(&prefix)).map(str::to_owned)
    }

    /// How often the server has run `command` (as `INFO commandstats` calls it, such as `mget`).
    ///
    /// # Panics
    ///
    /// If the server cannot be reached.
    #[must_use]
    pub fn calls(&self, command: &str) -> u64 {
        let stats = self.info("commandstats", &format!("cmdstat_{command}"));
        stats
            .and_then(|stats| stats.split(',').next()?.strip_prefix("calls=")?.parse().ok())
            .unwrap_or_default()
    }

    /// Waits until `condition` guards.
    ///
    /// # Panics
    ///
    /// If it does not within ten seconds.
    pub fn wait_until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if condition(self) {
                return;
            }
            sleep(START_PAUSE);
        }
        panic!("waited in vain until {what}");
    }

    fn run(&mut self) {
        for _ in 0..5 {
            let log = std::fs::File::create(self.directory.join("log")).expect("a log file");
            let mut command = Command::new("redis-server");
            // A sentinel's own file comes first and takes no other settings.
            if self.arguments.last().is_some_and(|last| last == "--sentinel") {
                let (file, others) = self.arguments.split_first().expect("a file");
                command.arg(file).args(["--port", &self.port.to_string()]).args(others);
            } else {
                let (main, tls) = if self.arguments.iter().any(|argument| argument == "--tls-port") {
                    ("0".to_owned(), Some(self.port.to_string()))
                } else {
                    (self.port.to_string(), None)
                };
                command.args(["--port", &main, "--save", "", "--appendonly", "no"]);
                command.args(self.arguments.iter().map(|argument| match &tls {
                    Some(port) if argument == "TLS_PORT" => port.as_str(),
                    _ => argument.as_str(),
                }));
            }
            command.args(["--bind", "127.0.0.1", "--dir"]).arg(&self.directory);
            command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null());
            let mut child = command.spawn().expect("redis-server starts");
            for _ in 0..START_ATTEMPTS {
                if TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).is_ok() {
                    self.child = Some(child);
                    if self.is_ready() {
                        return;
                    }
                    child = self.child.take().expect("just put there");
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
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        panic!("redis-server does not start:\n{log}");
    }

    fn is_ready(&self) -> bool {
        if self.arguments.iter().any(|argument| argument == "--tls-port") {
            return true;
        }
        self.try_command::<redis::Value>("PING").is_ok()
    }

    fn signal(&self, signal: &str) {
        let Some(child) = &self.child else { return };
        let sent = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()), "cannot send {signal}");
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        // Left behind if somebody looks at it; it is in the system's directory for such files.
        let _in_use = std::fs::remove_dir_all(&self.directory);
    }
}

/// A port that nobody listens on.
///
/// # Panics
///
/// If there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// A directory of this process's own.
///
/// # Panics
///
/// If it cannot be made.
#[must_use]
pub fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("groupcache-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    directory
}
