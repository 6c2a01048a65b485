//! The first contact with a server: resolves its name, performs the handshake, and makes sure that all
//! addresses of the name lead to one server.

use std::io::ErrorKind as Io;
use std::net::SocketAddr;
use std::sync::Arc;

use futures_util::future::join_all;
use groupcache_core::ErrorKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::error::Failure;
use crate::handshake::{self, ServerInfo};
use crate::left_servers::LeftServers;
use crate::resolver::KnownAddresses;
use crate::settings::Settings;

/// A server that was found under its name.
pub(crate) struct Contact {
    /// The address to connect to.
    pub(crate) address: SocketAddr,
    pub(crate) addresses: Arc<KnownAddresses>,
    pub(crate) info: ServerInfo,
}

/// A connection on which the handshake is complete.
struct Greeted {
    address: SocketAddr,
    stream: TcpStream,
    info: ServerInfo,
}

/// Why an address has no server to compare with the others.
enum Unreached {
    /// Nothing listens there, or there is no route to it from this host.
    Absent(Failure),
    /// A server may be there.
    Unknown(Failure),
}

/// Resolves `name` and performs the handshake with its server, on a connection of its own, which is closed
/// afterwards: the client library offers only the meta protocol on its connections.
///
/// # Errors
///
/// [`ErrorKind::Configuration`] if the name leads to several servers. Processes that pick different ones do
/// not see each other's invalidations.
pub(crate) async fn establish(
    name: &str,
    settings: &Settings,
    left: &LeftServers,
) -> Result<Contact, Failure> {
    let limit = settings.connect_time_limit;
    let now = settings.clock.now();
    let contact = timeout(limit, async {
        let addresses = settings.resolver.resolve(name).await?;
        left.resolved(&addresses);
        let (Greeted { address, info, .. }, absent) = match addresses[..] {
            [address] => (greet(address, settings).await.map_err(Unreached::into_failure)?, vec![]),
            _ => one_server(&addresses, settings).await?,
        };
        let verified = addresses.into_iter().filter(|address| !absent.contains(address)).collect();
        let addresses = Arc::new(KnownAddresses::new(verified, absent, now));
        Ok(Contact { address, addresses, info })
    });
    contact.await.unwrap_or_else(|_| Err(Failure::timeout(limit, "connect_time_limit")))
}

async fn greet(address: SocketAddr, settings: &Settings) -> Result<Greeted, Unreached> {
    let mut stream = TcpStream::connect(address).await.map_err(|error| {
        let is_absent = matches!(
            error.kind(),
            Io::ConnectionRefused
                | Io::HostUnreachable
                | Io::NetworkUnreachable
                | Io::AddrNotAvailable
                | Io::Unsupported
        );
        let failure = Failure::from_io(error);
        if is_absent { Unreached::Absent(failure) } else { Unreached::Unknown(failure) }
    })?;
    let info = handshake::perform(&mut stream, &*settings.clock).await.map_err(Unreached::Unknown)?;
    Ok(Greeted { address, stream, info })
}

/// Returns the one server that all addresses lead to, and the addresses at which no server is.
async fn one_server(
    addresses: &[SocketAddr],
    settings: &Settings,
) -> Result<(Greeted, Vec<SocketAddr>), Failure> {
    // Less than the limit, so that an address that does not respond is named in the error.
    let limit = settings.connect_time_limit / 2;
    let attempts = join_all(addresses.iter().map(|address| async move {
        let greeted = timeout(limit, greet(*address, settings)).await;
        let late = |_| Err(Unreached::Unknown(Failure::timeout(limit, "half of `connect_time_limit`")));
        greeted.unwrap_or_else(late).map_err(|unreached| (*address, unreached))
    }));
    let (mut greeted, mut unreached) = (Vec::new(), Vec::new());
    for attempt in attempts.await {
        match attempt {
            Ok(one) => greeted.push(one),
            Err(one) => unreached.push(one),
        }
    }
    if greeted.is_empty() || !unreached.iter().all(|one| is_other_family(addresses, one)) {
        return Err(unreached.swap_remove(0).1.into_failure_of_one(addresses));
    }
    let mut first = greeted.remove(0);
    let absent = unreached.into_iter().map(|(address, _)| address).collect();
    #[cfg(groupcache_mutants)]
    if groupcache_core::mutants::is_on("one_of_several") {
        return Ok((first, absent));
    }
    match timeout(limit, is_one_server(&mut first, &mut greeted)).await {
        Ok(Ok(true)) => Ok((first, absent)),
        Ok(Ok(false)) => Err(several_servers(addresses)),
        Ok(Err(failure)) => Err(failure),
        Err(_) => Err(Failure::timeout(limit, "half of `connect_time_limit`")),
    }
}

/// Returns whether the address is the only one of its protocol family, and absent: many servers have an IPv4
/// and an IPv6 address, and listen at one of them, or have clients that can reach only one.
fn is_other_family(addresses: &[SocketAddr], (address, unreached): &(SocketAddr, Unreached)) -> bool {
    let is_v4 = |address: &SocketAddr| address.is_ipv4();
    matches!(unreached, Unreached::Absent(_))
        && addresses.len() == 2
        && addresses.iter().filter(|other| is_v4(other) == is_v4(address)).count() == 1
}

/// Returns whether all connections lead to one server: stores an item through the first and looks for it
/// through the others. Process numbers and start times do not tell: in containers they are often equal.
async fn is_one_server(first: &mut Greeted, others: &mut [Greeted]) -> Result<bool, Failure> {
    if others.is_empty() {
        return Ok(true);
    }
    let key = format!("groupcache:handshake:{:032x}", rand::random::<u128>());
    let stored = respond(&mut first.stream, &format!("ms {key} 1 T{MARK_SECONDS}\r\n1\r\n")).await?;
    if stored != "HD" {
        let message = format!("cannot tell whether the addresses of the name lead to one server: {stored}");
        return Err(Failure::new(ErrorKind::Unavailable, message));
    }
    let find = format!("mg {key}\r\n");
    let found = join_all(others.iter_mut().map(|other| respond(&mut other.stream, &find))).await;
    let mut is_one = true;
    for response in found {
        is_one &= response? == "HD";
    }
    respond(&mut first.stream, &format!("md {key}\r\n")).await?;
    Ok(is_one)
}

/// Sends a command and returns the line that is the response.
async fn respond(stream: &mut TcpStream, command: &str) -> Result<String, Failure> {
    stream.write_all(command.as_bytes()).await.map_err(Failure::from_io)?;
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let read = stream.read_buf(&mut line).await.map_err(Failure::from_io)?;
        if read == 0 {
            return Err(Failure::from_io(Io::UnexpectedEof.into()));
        }
        if line.len() > LINE_BYTES_MAX {
            return Err(Failure::unexpected("mg"));
        }
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn several_servers(addresses: &[SocketAddr]) -> Failure {
    let list = list(addresses);
    let message = format!(
        "the name resolves to several servers ({list}), but each name in `servers` and `overlap` must lead to \
         one server, or processes do not see each other's invalidations; list a name or an address of each \
         server instead: `memcached://{}`",
        list.replace(' ', "")
    );
    Failure::new(ErrorKind::Configuration, message)
}

fn list(addresses: &[SocketAddr]) -> String {
    let mut addresses = addresses.to_vec();
    // The same for each process, whatever the order that its resolver returned.
    addresses.sort_unstable();
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

impl Unreached {
    fn into_failure(self) -> Failure {
        match self {
            Self::Absent(failure) | Self::Unknown(failure) => failure,
        }
    }

    /// Returns the failure of one of several addresses.
    fn into_failure_of_one(self, addresses: &[SocketAddr]) -> Failure {
        let failure = self.into_failure();
        let message = format!(
            "{failure}; the name resolves to {}, and all of them must lead to one server",
            list(addresses)
        );
        failure.with_message(message)
    }
}

/// The time to live of the item that tells whether two addresses lead to one server.
const MARK_SECONDS: u32 = 60;
/// More than any response to these commands.
const LINE_BYTES_MAX: usize = 2048;
