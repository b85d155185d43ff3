//! The certificates of a test cluster: one authority for everything, ECDSA keys because they are made in a moment.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

/// A certificate authority and the folder where it puts what it issues.
#[derive(Debug)]
pub struct Pki {
    issuer: Issuer<'static, KeyPair>,
    ca_pem: String,
    folder: PathBuf,
}

/// A certificate with its key, as files and as text.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The certificate's file, PEM.
    pub cert: PathBuf,
    /// The key's file, PEM, PKCS #8.
    pub key: PathBuf,
    /// The certificate, PEM.
    pub cert_pem: String,
    /// The key, PEM.
    pub key_pem: String,
}

impl Pki {
    /// A new authority whose files lie in `folder`, which is created; its own certificate is `ca.crt`.
    ///
    /// # Panics
    /// If a file cannot be written.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        fs::create_dir_all(folder).expect("the work folder can be written");
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, "test-cluster");
        let ca_pem = params.self_signed(&key).expect("an authority signs itself").pem();
        fs::write(folder.join("ca.crt"), &ca_pem).expect("the work folder can be written");
        Self {
            issuer: Issuer::new(params, key),
            ca_pem,
            folder: folder.to_path_buf(),
        }
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// The file with the authority's certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Issues a certificate for both ends of a connection: `names` are DNS names and addresses, `organisation` is the
    /// Kubernetes group, `name` the Kubernetes user and the stem of the file names.
    ///
    /// # Panics
    /// If a name is not a DNS name or an address, or a file cannot be written.
    #[must_use]
    pub fn issue(&self, name: &str, organisation: Option<&str>, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|&n| n.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("DNS names and addresses");
        params.distinguished_name.push(DnType::CommonName, name);
        if let Some(organisation) = organisation {
            params
                .distinguished_name
                .push(DnType::OrganizationName, organisation);
        }
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate().expect("a key can be made");
        let cert_pem = params
            .signed_by(&key, &self.issuer)
            .expect("the authority signs")
            .pem();
        let stem = name.replace(':', "-");
        let identity = Identity {
            cert: self.folder.join(format!("{stem}.crt")),
            key: self.folder.join(format!("{stem}.key")),
            key_pem: key.serialize_pem(),
            cert_pem,
        };
        fs::write(&identity.cert, &identity.cert_pem).expect("the work folder can be written");
        fs::write(&identity.key, &identity.key_pem).expect("the work folder can be written");
        identity
    }

    /// Writes a kubeconfig for `identity` at `server` (a URL) and returns its path.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn kubeconfig(&self, name: &str, identity: &Identity, server: &str) -> PathBuf {
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: test\n\
             clusters:\n- name: test\n  cluster:\n    server: {server}\n    certificate-authority: {ca}\n\
             users:\n- name: test\n  user:\n    client-certificate: {cert}\n    client-key: {key}\n\
             contexts:\n- name: test\n  context: {{cluster: test, user: test}}\n",
            ca = self.ca_file().display(),
            cert = identity.cert.display(),
            key = identity.key.display(),
        );
        let path = self.folder.join(format!("{name}.kubeconfig"));
        fs::write(&path, text).expect("the work folder can be written");
        path
    }
}
