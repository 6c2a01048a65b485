//! A PostgreSQL server of this test binary's own.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use groupcache_tests::servers::{free_port, have, new_directory};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgPool};

/// Runs the server until standard input is closed, which the end of the test binary does in any case.
const SUPERVISE: &str = r#"
"$1" -D "$2" -p "$3" -c max_prepared_transactions="$4" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c fsync=off -c max_connections=200 -c shared_buffers=64MB >"$2.log" 2>&1 </dev/null &
server=$!
cat >/dev/null
kill -QUIT $server 2>/dev/null
wait $server
rm -rf "${2%/*}"
"#;

/// A running server.
pub(crate) struct Server {
    port: u16,
    _supervisor: Child,
    _stdin: ChildStdin,
}

/// A database of one test.
pub(crate) struct Database {
    pub(crate) pool: PgPool,
    pub(crate) options: PgConnectOptions,
}

impl Database {
    /// Creates a database. `None` if there is no PostgreSQL.
    pub(crate) async fn create() -> Option<Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| Server::start("0")).as_ref()?).await
    }

    /// The same on a server that allows two-phase commits.
    pub(crate) async fn create_with_two_phase_commit() -> Option<Self> {
        static SERVER: OnceLock<Option<Server>> = OnceLock::new();
        Self::on(SERVER.get_or_init(|| Server::start("10")).as_ref()?).await
    }

    async fn on(server: &Server) -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let options = PgConnectOptions::new()
            .host("127.0.0.1")
            .port(server.port)
            .username("postgres")
            .database("postgres")
            .disable_statement_logging();
        let mut admin = options.connect().await.unwrap();
        let create = AssertSqlSafe(format!("CREATE DATABASE {name}"));
        sqlx::raw_sql(create).execute(&mut admin).await.unwrap();
        admin.close().await.unwrap();
        let options = options.database(&name);
        let pool = PgPoolOptions::new().max_connections(40).connect_with(options.clone()).await.unwrap();
        Some(Self { pool, options })
    }

    /// Runs statements, each on its own unless they begin a transaction.
    pub(crate) async fn run(&self, sql: &str) {
        self.try_run(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub(crate) async fn try_run(&self, sql: &str) -> sqlx::Result<()> {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await.map(drop)
    }
}

impl Server {
    fn start(max_prepared_transactions: &str) -> Option<Self> {
        let folder = programs()?;
        let directory = new_directory().join("data");
        let user = Unprivileged::find();
        user.give(directory.parent().unwrap());
        let mut initdb = Command::new(folder.join("initdb"));
        initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync", "-D"]);
        initdb.arg(&directory).current_dir("/");
        let output = user.run(&mut initdb).output().expect("initdb runs");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        for _ in 0..5 {
            let port = free_port();
            let mut supervisor = Command::new("sh");
            supervisor.args(["-c", SUPERVISE, "sh"]).arg(folder.join("postgres")).arg(&directory);
            supervisor
                .args([&port.to_string(), max_prepared_transactions])
                .current_dir("/")
                .stdin(Stdio::piped());
            let mut supervisor = user.run(&mut supervisor).spawn().expect("sh runs");
            let stdin = supervisor.stdin.take().unwrap();
            if is_ready(&folder, port) {
                return Some(Self { port, _supervisor: supervisor, _stdin: stdin });
            }
        }
        panic!("postgres does not start: {:?}", std::fs::read_to_string(directory.with_extension("log")));
    }
}

fn is_ready(folder: &Path, port: u16) -> bool {
    (0..200).any(|_| {
        std::thread::sleep(Duration::from_millis(25));
        let mut ask = Command::new(folder.join("pg_isready"));
        ask.args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()]);
        ask.status().is_ok_and(|status| status.success())
    })
}

/// The folder of the programs.
fn programs() -> Option<PathBuf> {
    let installed = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut folders: Vec<_> = installed.map(|version| version.path().join("bin")).collect();
    folders.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let found = folders.into_iter().find(|folder| {
        ["initdb", "postgres", "pg_isready"].iter().all(|program| folder.join(program).is_file())
    });
    // Says that it is skipped, or fails where nothing may be.
    if found.is_none() && have("initdb") {
        panic!("`initdb` is there, but not `postgres` and `pg_isready` beside it");
    }
    found
}

/// PostgreSQL does not run as root: the user it runs as, if that is not ours.
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
