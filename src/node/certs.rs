//! An authority and certificates, for a start: each site's bears the name of its store.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};

use crate::error::Error;
use crate::node::tls::name_of;
use crate::types::StoreId;

/// The files that were made for one store.
#[derive(Clone, Debug)]
pub struct SiteFiles {
    /// The store.
    pub store: StoreId,
    /// Its certificate.
    pub cert: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Makes an authority, `ca.pem` and `ca.key`, and a certificate and a key for each of these stores, in a folder that
/// has none of these files yet.
///
/// # Errors
/// [`Error::Io`]; [`Error::Config`] where a file is there already, which stays as it is.
pub fn make(folder: &Path, stores: &[StoreId]) -> Result<(PathBuf, Vec<SiteFiles>), Error> {
    fs::create_dir_all(folder).map_err(Error::io(format!("making {}", folder.display())))?;
    let failed = |error: rcgen::Error| Error::Store(format!("making a certificate: {error}"));
    let mut authority = params(Vec::new()).map_err(failed)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    authority.distinguished_name.push(DnType::CommonName, "forebay authority");
    let key = KeyPair::generate().map_err(failed)?;
    let signed = authority.self_signed(&key).map_err(failed)?;
    let ca = folder.join("ca.pem");
    put(&ca, &signed.pem(), 0o644)?;
    put(&folder.join("ca.key"), &key.serialize_pem(), 0o600)?;
    let issuer = Issuer::new(authority, key);
    let mut files = Vec::new();
    for &store in stores {
        let mut site = params(vec![name_of(store)]).map_err(failed)?;
        site.distinguished_name.push(DnType::CommonName, store.to_string());
        site.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        site.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let signed = site.signed_by(&key, &issuer).map_err(failed)?;
        let of =
            SiteFiles { store, cert: folder.join(format!("{store}.pem")), key: folder.join(format!("{store}.key")) };
        put(&of.cert, &signed.pem(), 0o644)?;
        put(&of.key, &key.serialize_pem(), 0o600)?;
        files.push(of);
    }
    Ok((ca, files))
}

fn params(names: Vec<String>) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = rcgen::DistinguishedName::new();
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2120, 1, 1));
    Ok(params)
}

fn put(path: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    match opened.and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all())) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            Err(Error::Config(format!("{} is there already; name another folder", path.display())))
        }
        other => other.map_err(Error::io(format!("writing {}", path.display()))),
    }
}
