//! The Redis backend over TLS.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use groupcache_core::{Cache, Group};
use groupcache_redis::RedisBackend;
use groupcache_redis::redis::{ClientTlsConfig, TlsCertificates};
use groupcache_tests::process::{have, new_directory};
use groupcache_tests::redis_server::RedisServer;

/// A certificate authority and its certificate for 127.0.0.1, valid for a day.
struct Certificates(PathBuf);

impl Certificates {
    fn make() -> Option<Self> {
        if !have("openssl") {
            return None;
        }
        let made = Self(new_directory());
        made.openssl(
            "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=authority -keyout ca.key -out ca.pem",
        );
        made.openssl("req -newkey rsa:2048 -nodes -subj /CN=server -keyout server.key -out server.csr");
        std::fs::write(made.0.join("names"), "subjectAltName=IP:127.0.0.1").expect("written");
        made.openssl(
            "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 1 -extfile names \
             -out server.pem",
        );
        Some(made)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command.args(arguments.split_whitespace()).current_dir(&self.0);
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        assert!(status.is_ok_and(|status| status.success()), "openssl {arguments}");
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("a path").to_owned()
    }

    fn pem(&self, name: &str) -> Vec<u8> {
        std::fs::read(Path::new(&self.path(name))).expect("a file")
    }

    fn server(&self, client_certificates: &str) -> Option<RedisServer> {
        let (certificate, key, authority) =
            (self.path("server.pem"), self.path("server.key"), self.path("ca.pem"));
        RedisServer::start(&[
            "--tls-port",
            "TLS_PORT",
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &authority,
            "--tls-auth-clients",
            client_certificates,
        ])
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _in_use = std::fs::remove_dir_all(&self.0);
    }
}

fn url(server: &RedisServer) -> String {
    format!("rediss://127.0.0.1:{}/", server.port())
}

#[tokio::test]
async fn only_a_trusted_server_is_accepted() {
    let Some(certificates) = Certificates::make() else { return };
    let Some(server) = certificates.server("no") else { return };
    let trusted = TlsCertificates { client_tls: None, root_cert: Some(certificates.pem("ca.pem")) };
    let backend =
        RedisBackend::builder(url(&server)).tls_certificates(trusted.clone()).build().expect("builds");
    backend.connect().await.expect("connects");
    let cache = Cache::builder(backend).build();
    let value = cache.get_or_load("page", Group::new("g"), || async { Ok::<_, ()>(1_u64) }).await;
    assert_eq!(value, Ok(1));
    cache.invalidate(Group::new("g")).await.expect("acknowledged");

    let untrusting = RedisBackend::builder(url(&server)).build().expect("builds");
    let error = untrusting.connect().await.expect_err("the platform does not know this authority");
    let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
    assert!(cause.contains("UnknownIssuer"), "{error:?}");
    let plain = RedisBackend::builder(server.url()).build().expect("builds");
    assert!(plain.connect().await.is_err(), "the server speaks TLS only");
    let other_name = format!("rediss://localhost:{}/", server.port());
    let other_name = RedisBackend::builder(other_name).tls_certificates(trusted).build().expect("builds");
    assert!(other_name.connect().await.is_err(), "the certificate is for 127.0.0.1");
}

#[tokio::test]
async fn a_server_may_ask_for_a_certificate() {
    let Some(certificates) = Certificates::make() else { return };
    let Some(server) = certificates.server("yes") else { return };
    let root_cert = Some(certificates.pem("ca.pem"));
    let own = ClientTlsConfig {
        client_cert: certificates.pem("server.pem"),
        client_key: certificates.pem("server.key"),
    };
    let with = |client_tls| {
        let certificates = TlsCertificates { client_tls, root_cert: root_cert.clone() };
        RedisBackend::builder(url(&server)).tls_certificates(certificates).build().expect("builds")
    };
    with(Some(own)).connect().await.expect("connects");
    assert!(with(None).connect().await.is_err());
}

#[test]
fn the_error_names_an_invalid_certificate() {
    let garbage = ClientTlsConfig { client_cert: b"garbage".to_vec(), client_key: b"garbage".to_vec() };
    let certificates = TlsCertificates { client_tls: Some(garbage), root_cert: None };
    let error = RedisBackend::builder("rediss://127.0.0.1/").tls_certificates(certificates).build();
    let error = error.map(drop).expect_err("no certificate");
    assert!(error.to_string().contains("`tls_certificates`"), "{error}");
}
