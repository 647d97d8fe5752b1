//! The HTTP clients that services are asked with, and their connections: one for each file of authorities, for as long as
//! the file doesn't change, and one for services that speak no TLS.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use reqwest::Client;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Why there is no client.
pub(super) type ClientError = Box<dyn std::error::Error + Send + Sync>;

/// The clients that there are. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(in crate::credentials) struct Clients(Arc<Mutex<BTreeMap<Option<PathBuf>, Kept>>>);

#[derive(Clone, Debug)]
struct Kept {
    client: Client,
    /// When the file was changed that its authorities are from.
    changed: Option<SystemTime>,
}

impl Clients {
    /// A client that follows nobody elsewhere, and by TLS trusts the authorities of the file alone; nobody without one. The
    /// file, which may be large, is read on a thread for such work.
    pub(super) async fn trusting(&self, file: Option<&Path>) -> Result<Client, ClientError> {
        let changed = file.map(changed).transpose()?;
        let file = file.map(Path::to_owned);
        let kept = self.all().get(&file).cloned();
        if let Some(kept) = kept.filter(|kept| kept.changed == changed) {
            return Ok(kept.client);
        }
        let path = file.clone();
        let client = tokio::task::spawn_blocking(move || make(path.as_deref())).await??;
        let kept = Kept {
            client: client.clone(),
            changed,
        };
        self.all().insert(file, kept);
        Ok(client)
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<Option<PathBuf>, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn changed(file: &Path) -> Result<SystemTime, ClientError> {
    let changed = fs::metadata(file).and_then(|file| file.modified());
    changed.map_err(|error| unreadable(file, &error))
}

fn make(file: Option<&Path>) -> Result<Client, ClientError> {
    let authorities = file.map_or_else(|| Ok(rustls::RootCertStore::empty()), authorities);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities?)
        .with_no_client_auth();
    let client = Client::builder()
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .build();
    Ok(client?)
}

fn authorities(file: &Path) -> Result<rustls::RootCertStore, ClientError> {
    let mut store = rustls::RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(file).map_err(|error| unreadable(file, &error))?;
    // Some systems trust a certificate that this library can't read; the others count all the same.
    store.add_parsable_certificates(found.flatten());
    if store.is_empty() {
        return Err(format!("{} holds no authority", file.display()).into());
    }
    Ok(store)
}

fn unreadable(file: &Path, error: &dyn std::error::Error) -> ClientError {
    format!("the authorities in {} can't be read: {error}", file.display()).into()
}

#[cfg(test)]
mod tests {
    use super::Clients;
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    #[tokio::test]
    async fn a_client_is_kept_until_the_file_of_its_authorities_changes() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let maker = crate::identity::tests::Maker::new();
        fs::write(file.path(), maker.pem()).unwrap();
        let changed = |at: SystemTime| {
            File::options()
                .write(true)
                .open(file.path())
                .unwrap()
                .set_modified(at)
        };
        let first = SystemTime::UNIX_EPOCH + Duration::from_hours(500_000);
        changed(first).unwrap();
        let clients = Clients::default();
        clients.trusting(Some(file.path())).await.unwrap();
        // Nobody looks into it as long as it is as old as it was.
        fs::write(file.path(), "no authority").unwrap();
        changed(first).unwrap();
        clients.trusting(Some(file.path())).await.unwrap();
        changed(first + Duration::from_secs(1)).unwrap();
        let error = clients.trusting(Some(file.path())).await;
        let error = error.unwrap_err().to_string();
        assert!(error.ends_with("holds no authority"), "{error}");
        fs::remove_file(file.path()).unwrap();
        assert!(clients.trusting(Some(file.path())).await.is_err());
    }
}
