//! Programs that tests start, signals to them, and the ports and directories that they use.

use std::io::Write;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Pid, Signal, kill_process};

/// Returns whether `program` is installed.
///
/// If it is not, writes to standard error that the test is skipped.
///
/// # Panics
///
/// Panics if the program is not installed and the environment has `GROUPCACHE_REQUIRE_SERVERS=1`.
#[must_use]
pub fn have(program: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        let required = std::env::var("GROUPCACHE_REQUIRE_SERVERS").is_ok_and(|value| value == "1");
        assert!(!required, "`{program}` is not installed; see tests/servers.sh");
        // The test harness captures `eprintln`, but not this.
        let mut stderr = std::io::stderr().lock();
        let _written = writeln!(stderr, "SKIPPED: `{program}` is not installed; see tests/servers.sh");
    }
    found
}

/// Stops a process with SIGSTOP.
pub(crate) fn pause(child: &Child) {
    send(child, Signal::STOP);
}

/// Continues a process with SIGCONT.
pub(crate) fn resume(child: &Child) {
    send(child, Signal::CONT);
}

/// Sends SIGUSR1.
pub(crate) fn send_usr1(child: &Child) {
    send(child, Signal::USR1);
}

fn send(child: &Child, signal: Signal) {
    let sent = kill_process(Pid::from_child(child), signal);
    assert!(sent.is_ok(), "cannot send {signal:?}: {sent:?}");
}

/// Kills a process and waits for its end.
pub fn kill(child: &mut Child) {
    // The process may have ended by itself.
    let _already_ended = child.kill();
    let _already_ended = child.wait();
}

/// Returns a free port of the loopback interface.
///
/// # Panics
///
/// Panics if there is none.
#[must_use]
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// Makes a temporary directory that no other test uses.
///
/// # Panics
///
/// Panics if the directory cannot be made.
#[must_use]
pub fn new_directory() -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let name = format!("groupcache-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let directory = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    directory
}
