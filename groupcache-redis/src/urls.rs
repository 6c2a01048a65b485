//! The URLs of servers. No error shows one, because URLs contain passwords.

use groupcache_core::{Error, Result};
use redis::{Client, ConnectionInfo, IntoConnectionInfo};

use crate::error::{NAME, failure_from};

/// Parses the URL in `setting`.
pub(crate) fn parse(
    setting: &str,
    url: &str,
    #[cfg(feature = "tls")] certificates: Option<&redis::TlsCertificates>,
) -> Result<ConnectionInfo> {
    let invalid = |error| {
        let hint = if url.starts_with("rediss:") && !cfg!(feature = "tls") {
            "needs the feature `tls`"
        } else {
            "is not of the form `redis://host:6379/0`, `rediss://…` or `unix:///path`"
        };
        let error = Error::from(failure_from(error));
        Error::configuration(NAME, format!("`{setting}` {hint}")).with_source(error)
    };
    if has_unescaped_login(url) {
        let message = format!(
            "`{setting}` has an `@` after its host; characters such as `/`, `?`, `#` and `@` in a password are \
             written as `%2F`, `%3F`, `%23` and `%40`"
        );
        return Err(Error::configuration(NAME, message));
    }
    let info = url.into_connection_info().map_err(invalid)?;
    if !info.addr().is_supported() {
        let message = format!("`{setting}` has a kind of address that is not supported here");
        return Err(Error::configuration(NAME, message));
    }
    #[cfg(feature = "tls")]
    let info = with_certificates(setting, info, certificates)?;
    Ok(Client::open(info).map_err(invalid)?.get_connection_info().clone())
}

#[cfg(feature = "tls")]
fn with_certificates(
    setting: &str,
    info: ConnectionInfo,
    certificates: Option<&redis::TlsCertificates>,
) -> Result<ConnectionInfo> {
    if !matches!(info.addr(), redis::ConnectionAddr::TcpTls { .. }) {
        return Ok(info);
    }
    // If several crypto providers are built in, rustls panics unless the process has a default. A default
    // that the application installed stays.
    let _already_installed = rustls::crypto::ring::default_provider().install_default();
    let Some(certificates) = certificates else { return Ok(info) };
    let client = Client::build_with_tls(info, certificates.clone()).map_err(|error| {
        let error = Error::from(failure_from(error));
        Error::configuration(NAME, format!("`tls_certificates` cannot be used for `{setting}`"))
            .with_source(error)
    })?;
    Ok(client.get_connection_info().clone())
}

/// Returns whether a part of the login is where URLs have no login. Errors and logs show host and database.
fn has_unescaped_login(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else { return url.contains('@') };
    if scheme.contains("unix") {
        return false;
    }
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, others) = rest.split_at(end);
    others.contains('@') || authority.matches('@').count() > 1
}
