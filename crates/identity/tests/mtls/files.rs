//! The identity as files, and other eyes on what we make: `openssl`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use outrigger_identity::testing::TestCa;
use outrigger_identity::{KeyAlgorithm, csr};

use crate::support::{World, options};

const WEB: &str = "spiffe://public/ns/shop/web";

fn openssl(args: &[&str]) -> (bool, String) {
    let output = Command::new("openssl")
        .args(args)
        .stdin(Stdio::null())
        .output()
        .expect("openssl is installed (`cargo xtask setup`)");
    let said = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&said).into_owned(),
    )
}

#[test]
fn openssl_verifies_our_requests_and_we_verify_its() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    for algorithm in [
        KeyAlgorithm::Ed25519,
        KeyAlgorithm::EcdsaP256,
        KeyAlgorithm::Rsa2048,
    ] {
        let request = csr::build(&algorithm.generate().unwrap()).unwrap();
        std::fs::write(file("ours.csr"), request).unwrap();
        let (good, said) = openssl(&["req", "-in", &file("ours.csr"), "-noout", "-verify", "-text"]);
        assert!(good && said.contains("verify OK"), "{algorithm:?} {said}");
    }
    let keys: [(&[&str], bool); 7] = [
        (&["ED25519"], true),
        (&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], true),
        (&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], true),
        (&["EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"], false),
        (&["RSA", "-pkeyopt", "rsa_keygen_bits:3072"], true),
        (&["RSA", "-pkeyopt", "rsa_keygen_bits:1024"], false),
        (&["ED448"], false),
    ];
    for (key, want) in keys {
        let (made, said) = openssl(&[&["genpkey", "-out", &file("key"), "-algorithm"], key].concat());
        assert!(made, "{said}");
        let (made, said) = openssl(&[
            "req",
            "-new",
            "-key",
            &file("key"),
            "-subj",
            "/CN=anything",
            "-addext",
            "subjectAltName=URI:spiffe://x/y",
            "-out",
            &file("theirs.csr"),
        ]);
        assert!(made, "{said}");
        let read = csr::parse(&std::fs::read(file("theirs.csr")).unwrap());
        assert_eq!(read.is_ok(), want, "{key:?} {read:?}");
        if let Err(error) = read {
            assert!(
                error
                    .to_string()
                    .starts_with("invalid certificate signing request: "),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn the_directory_of_the_identity_is_replaced_in_one_step() {
    let (world, ca) = (World::new(), TestCa::new());
    ca.set_ttl(Duration::from_secs(3));
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("identity");
    let mut settings = options(&ca, WEB);
    settings.write_to = Some(target.clone());
    let security = world.start(settings).await;
    let check = |target: &Path| {
        let version = target.canonicalize().unwrap();
        let file = |name: &str| version.join(name).display().to_string();
        assert_eq!(version.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        for name in ["key.pem", "cert.pem", "ca.pem"] {
            assert_eq!(
                version.join(name).metadata().unwrap().permissions().mode() & 0o777,
                0o600
            );
        }
        let (good, said) = openssl(&[
            "verify",
            "-CAfile",
            &file("ca.pem"),
            "-untrusted",
            &file("cert.pem"),
            &file("cert.pem"),
        ]);
        assert!(good, "{said}");
        let public = |args: &[&str]| openssl(args).1;
        assert_eq!(
            public(&["pkey", "-in", &file("key.pem"), "-pubout"]),
            public(&["x509", "-in", &file("cert.pem"), "-noout", "-pubkey"])
        );
        version
    };
    let first = check(&target);
    let mut renewals = security.renewals().unwrap();
    tokio::time::timeout(Duration::from_secs(10), renewals.changed())
        .await
        .unwrap()
        .unwrap();
    let second = check(&target);
    assert_ne!(first, second);
    assert!(!first.exists());
}

#[tokio::test]
async fn somebody_elses_files_are_never_replaced() {
    let (world, ca) = (World::new(), TestCa::new());
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("full")).unwrap();
    std::fs::write(dir.path().join("full/precious"), "x").unwrap();
    std::fs::write(dir.path().join("file"), "x").unwrap();
    for name in ["full", "file"] {
        let mut settings = options(&ca, WEB);
        settings.write_to = Some(dir.path().join(name));
        let started = outrigger_identity::Security::start(settings, world.stop.clone(), &world.tasks).await;
        let error = started.err().unwrap().to_string();
        assert!(error.starts_with("cannot write the identity to"), "{error}");
    }
    assert!(dir.path().join("full/precious").is_file() && dir.path().join("file").is_file());
}
