//! PostgreSQL servers that the tests start, on free ports of the loopback interface.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use crate::process::{free_port, have, new_directory};

/// Runs the server until standard input is closed, which the end of the test binary does in any case.
const SUPERVISE: &str = r#"
"$1" -D "$2" -p "$3" -c max_prepared_transactions="$4" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c fsync=off -c max_connections=300 -c shared_buffers=64MB >"$2.log" 2>&1 </dev/null &
server=$!
cat >/dev/null
kill -QUIT $server 2>/dev/null
wait $server
rm -rf "${2%/*}"
"#;

/// A PostgreSQL server with a process, a port and a directory of its own. Dropping it stops the server, and so
/// does the end of the process that started it, even a crash.
#[derive(Debug)]
pub struct PostgresServer {
    programs: PathBuf,
    port: u16,
    supervisor: Child,
    stdin: Option<ChildStdin>,
}

impl PostgresServer {
    /// Starts a server with this `max_prepared_transactions`. Returns `None` if PostgreSQL is not installed.
    ///
    /// # Panics
    ///
    /// Panics if the server does not start.
    #[must_use]
    pub fn start(max_prepared_transactions: u32) -> Option<Self> {
        let programs = programs()?;
        // Another process may take the port meanwhile.
        let started = (0..5).find_map(|_| Self::try_start(&programs, max_prepared_transactions));
        Some(started.expect("postgres starts"))
    }

    fn try_start(programs: &Path, max_prepared_transactions: u32) -> Option<Self> {
        let directory = new_directory().join("data");
        let user = Unprivileged::find();
        user.give(directory.parent()?);
        let mut initdb = Command::new(programs.join("initdb"));
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
        initdb.arg(&directory).current_dir("/");
        let output = user.run(&mut initdb).output().expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let port = free_port();
        let mut supervisor = Command::new("sh");
        supervisor.args(["-c", SUPERVISE, "sh"]).arg(programs.join("postgres")).arg(&directory);
        supervisor
            .args([port.to_string(), max_prepared_transactions.to_string()])
            .current_dir("/")
            .stdin(Stdio::piped());
        let mut supervisor = user.run(&mut supervisor).spawn().expect("sh runs");
        let stdin = supervisor.stdin.take().expect("piped");
        let server = Self { programs: programs.to_owned(), port, supervisor, stdin: Some(stdin) };
        if server.is_ready() {
            return Some(server);
        }
        eprintln!("postgres: {:?}", std::fs::read_to_string(directory.with_extension("log")));
        None
    }

    /// Returns the port.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL of a database. The database `postgres` is always there.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// Runs statements with `psql`, as a person does.
    ///
    /// # Panics
    ///
    /// Panics if they fail.
    pub fn psql(&self, database: &str, sql: &str) {
        let mut psql = Command::new(self.programs.join("psql"));
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d"]).arg(self.url(database)).args(["-c", sql]);
        let output = psql.output().expect("psql runs");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn is_ready(&self) -> bool {
        (0..400).any(|_| {
            std::thread::sleep(Duration::from_millis(25));
            let mut ask = Command::new(self.programs.join("pg_isready"));
            ask.args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]);
            ask.status().is_ok_and(|status| status.success())
        })
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.stdin.take());
        if let Err(error) = self.supervisor.wait() {
            eprintln!("{error}");
        }
    }
}

/// Returns the folder of the programs.
fn programs() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = installed.map(|version| version.path().join("bin")).collect();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let found = folders.into_iter().find(|folder| {
        ["initdb", "postgres", "pg_isready", "psql"].iter().all(|program| folder.join(program).is_file())
    });
    // Reports that the test is skipped, or fails where no test may be.
    if found.is_none() && have("initdb") {
        panic!("`initdb` is installed, but not `postgres`, `pg_isready` and `psql` beside it");
    }
    found
}

/// The user and group that PostgreSQL runs as, if not ours: it refuses to run as root.
struct Unprivileged(Option<(u32, u32)>);

impl Unprivileged {
    fn find() -> Self {
        let id = |arguments: &[&str]| {
            let output = Command::new("id").args(arguments).output().ok()?;
            String::from_utf8(output.stdout).ok()?.trim().parse::<u32>().ok()
        };
        if id(&["-u"]) != Some(0) {
            return Self(None);
        }
        let user = ["postgres", "nobody"]
            .into_iter()
            .find_map(|name| Some((id(&["-u", name])?, id(&["-g", name])?)));
        Self(Some(user.expect("a user without rights")))
    }

    fn give(&self, directory: &Path) {
        if let Some((user, group)) = self.0 {
            std::os::unix::fs::chown(directory, Some(user), Some(group)).expect("root may give");
        }
    }

    fn run<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match self.0 {
            Some((user, group)) => command.uid(user).gid(group),
            None => command,
        }
    }
}
