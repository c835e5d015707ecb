//! TLS 1.3 in both directions: each site shows a certificate that the common authority has signed and that bears the
//! name of its store.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::version::TLS13;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::error::Error;
use crate::node::config::TlsFiles;
use crate::node::ended::Ended;
use crate::node::frames::Connection;
use crate::types::StoreId;

/// How long a connection may take to be made, and to be made safe.
pub(super) const CONNECT: Duration = Duration::from_secs(5);

/// The name that a store's certificate bears.
#[must_use]
pub(super) fn name_of(store: StoreId) -> String {
    format!("{store}.forebay")
}

/// Whose a connection may be.
pub(super) enum Names {
    /// Anybody's: it goes over loopback, or without TLS on demand.
    Any,
    /// Those in a certificate that the authority has signed.
    Of(CertificateDer<'static>),
}

impl Names {
    /// It may be this store's.
    pub(super) fn are_of(&self, store: StoreId) -> bool {
        let Self::Of(certificate) = self else { return true };
        let Ok(name) = ServerName::try_from(name_of(store)) else { return false };
        ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }
}

/// How connections are made safe; plain where there are no certificates.
#[derive(Clone)]
pub(super) struct Tls(Option<(TlsAcceptor, TlsConnector)>);

impl Tls {
    pub(super) fn new(files: Option<&TlsFiles>) -> Result<Self, Error> {
        let Some(files) = files else { return Ok(Self(None)) };
        let wrong = |path: &std::path::Path, error: &dyn std::fmt::Display| {
            Error::Config(format!("[replication.tls] {}: {error}", path.display()))
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&files.ca).map_err(|error| wrong(&files.ca, &error))? {
            roots.add(certificate).map_err(|error| wrong(&files.ca, &error))?;
        }
        let chain = certificates(&files.cert).map_err(|error| wrong(&files.cert, &error))?;
        let key = PrivateKeyDer::from_pem_file(&files.key).map_err(|error| wrong(&files.key, &error))?;
        let roots = Arc::new(roots);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider));
        let verifier = verifier.build().map_err(|error| wrong(&files.ca, &error))?;
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| wrong(&files.cert, &error))?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain.clone(), key.clone_key())
            .map_err(|error| wrong(&files.cert, &error))?;
        let client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(|error| wrong(&files.cert, &error))?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain, key)
            .map_err(|error| wrong(&files.cert, &error))?;
        Ok(Self(Some((TlsAcceptor::from(Arc::new(server)), TlsConnector::from(Arc::new(client))))))
    }

    /// The server's side of a connection, and whose it may be.
    pub(super) async fn accept(&self, stream: TcpStream) -> io::Result<(Connection, Names)> {
        let Some((acceptor, _)) = &self.0 else { return Ok((Box::new(stream), Names::Any)) };
        let stream = acceptor.accept(stream).await?;
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let certificate = certificate.ok_or(io::ErrorKind::PermissionDenied)?.clone().into_owned();
        Ok((Box::new(stream), Names::Of(certificate)))
    }

    /// A connection to this store at this address.
    pub(super) async fn dial(&self, address: &str, store: StoreId) -> Result<Connection, Ended> {
        let connected = timeout(CONNECT, async {
            let stream = prepared(TcpStream::connect(address).await?);
            self.connect(stream, store).await
        });
        connected.await.map_err(|_| Ended::Silent(CONNECT.as_millis()))?.map_err(Ended::Io)
    }

    /// The client's side of a connection to this store.
    async fn connect(&self, stream: TcpStream, store: StoreId) -> io::Result<Connection> {
        let Some((_, connector)) = &self.0 else { return Ok(Box::new(stream)) };
        let name = ServerName::try_from(name_of(store)).map_err(io::Error::other)?;
        Ok(Box::new(connector.connect(name, stream).await?))
    }
}

/// Small frames are not held back for larger ones.
pub(super) fn prepared(stream: TcpStream) -> TcpStream {
    // A connection without it is slower, and as good.
    let _ = stream.set_nodelay(true);
    stream
}

fn certificates(path: &std::path::Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(found) if found.is_empty() => Err("no certificate in it".to_owned()),
        Ok(found) => Ok(found),
        Err(error) => Err(error.to_string()),
    }
}
