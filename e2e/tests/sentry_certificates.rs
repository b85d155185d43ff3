//! What sentry certifies, in the eyes of two libraries that share nothing with ours, OpenSSL and Python's `cryptography`:
//! the order of the chain, who it is about, how deep it may go, and from when until when it holds.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use outrigger_e2e::sentry::{Client, openssl, python_x509, request};
use outrigger_e2e::sentry_vectors::certificates;
use outrigger_e2e::services::{RunningService, Service};
use serde_json::{Value, json};

const HOUR: i64 = 3600;
/// Clock skew that sentry allows for, and the lifetime of what it certifies, both by default.
const SKEW: i64 = 15 * 60;
const LIFE: i64 = 24 * HOUR;
const LEAF_EXTENSIONS: &str = "subjectAltName=critical,URI:spiffe://public/ns/shop/web\nkeyUsage=critical,digitalSignature\n\
                               extendedKeyUsage=serverAuth,clientAuth\n";
const ISSUER_EXTENSIONS: &str = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n";

/// Files of keys and certificates, made with OpenSSL.
struct Desk(PathBuf);

impl Desk {
    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).expect("a file of the test")
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.join(name), text).expect("a file");
    }

    fn run(&self, args: &[&str]) {
        openssl(args, b"").unwrap_or_else(|e| panic!("openssl {args:?}: {e}"));
    }

    /// A key and a certificate request for it.
    fn request(&self, name: &str, curve: &str, subject: &str) {
        let (key, csr) = (
            self.file(&format!("{name}.key")),
            self.file(&format!("{name}.csr")),
        );
        match curve {
            "" => self.run(&["genpkey", "-algorithm", "ED25519", "-out", &key]),
            curve => {
                let curve = format!("ec_paramgen_curve:{curve}");
                self.run(&["genpkey", "-algorithm", "EC", "-pkeyopt", &curve, "-out", &key]);
            }
        }
        self.run(&["req", "-new", "-key", &key, "-subj", subject, "-out", &csr]);
    }

    /// The certificate of a request by an issuer, whose files are given without their endings.
    fn certify(&self, name: &str, issuer: &str, extensions: &str) {
        self.write("ext", extensions);
        let file = |ending: &str| self.file(&format!("{name}.{ending}"));
        let (issuer_crt, issuer_key) = (format!("{issuer}.crt"), format!("{issuer}.key"));
        self.run(&[
            "x509",
            "-req",
            "-in",
            &file("csr"),
            "-CA",
            &issuer_crt,
            "-CAkey",
            &issuer_key,
            "-days",
            "1",
            "-set_serial",
            "11",
            "-extfile",
            &self.file("ext"),
            "-out",
            &file("crt"),
        ]);
    }

    /// A root and, below it, an issuer that may certify leaves only.
    fn own_authority(&self, folder: &Path) {
        std::fs::create_dir_all(folder).expect("a folder");
        self.request("root", "P-256", "/O=Corp/CN=root");
        self.write(
            "ext",
            "basicConstraints=critical,CA:TRUE,pathlen:1\nkeyUsage=critical,keyCertSign,cRLSign\n",
        );
        self.run(&[
            "x509",
            "-req",
            "-in",
            &self.file("root.csr"),
            "-signkey",
            &self.file("root.key"),
            "-days",
            "30",
            "-extfile",
            &self.file("ext"),
            "-out",
            &self.file("root.crt"),
        ]);
        self.request("issuer", "P-256", "/O=Corp/CN=issuer");
        self.write("ext", &ISSUER_EXTENSIONS.replace("CA:TRUE", "CA:TRUE,pathlen:0"));
        self.run(&[
            "x509",
            "-req",
            "-in",
            &self.file("issuer.csr"),
            "-CA",
            &self.file("root.crt"),
            "-CAkey",
            &self.file("root.key"),
            "-days",
            "20",
            "-set_serial",
            "3",
            "-extfile",
            &self.file("ext"),
            "-out",
            &self.file("issuer.crt"),
        ]);
        for (from, to) in [
            ("root.crt", "ca.crt"),
            ("issuer.crt", "issuer.crt"),
            ("issuer.key", "issuer.key"),
        ] {
            std::fs::copy(self.file(from), folder.join(to)).expect("a file");
        }
    }

    /// Whether each of the two libraries accepts a chain at a time. The second one knows no Ed25519; there the walk
    /// through the chain is the script's and only the signatures are the library's.
    fn accepted(&self, chain: &[&str], roots: &str, at: i64, ed25519: bool) -> (bool, bool) {
        let (leaf, issuers) = chain.split_first().expect("a leaf");
        self.write("v-leaf", leaf);
        self.write("v-issuers", &issuers.concat());
        self.write("v-roots", roots);
        let (at_text, file) = (at.to_string(), |name: &str| self.file(name));
        let (roots_file, issuers_file, leaf_file) = (file("v-roots"), file("v-issuers"), file("v-leaf"));
        let mut args = vec!["verify", "-attime", &at_text, "-CAfile", &roots_file];
        if !issuers.is_empty() {
            args.extend(["-untrusted", &issuers_file]);
        }
        args.push(&leaf_file);
        let first = openssl(&args, b"").is_ok();
        let item = json!({"chain": chain.concat(), "roots": roots, "at": at, "library": !ed25519});
        let second = python_x509(&json!([item])) == [Value::Null];
        (first, second)
    }
}

fn now() -> i64 {
    let passed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(passed.as_secs()).unwrap_or_default()
}

fn split(chain: &str) -> Vec<&str> {
    chain.split_inclusive("-----END CERTIFICATE-----\n").collect()
}

fn start(dir: &Path) -> RunningService {
    let service = Service::named("sentry").expect("sentry is in the list of services");
    RunningService::start(service, dir, &[], &[])
}

async fn certified(sentry: &RunningService, csr: &str) -> String {
    let mut client = Client::connect(sentry.port(0))
        .await
        .expect("sentry takes connections");
    let answer = client
        .sign(&request("web", "shop", csr.as_bytes()))
        .await
        .expect("an answer");
    let answer = answer.expect("a certificate");
    String::from_utf8_lossy(&answer.workload_certificate).into_owned()
}

async fn examine(own_authority: bool) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let desk = Desk(dir.path().to_path_buf());
    let credentials = dir.path().join("credentials");
    if own_authority {
        desk.own_authority(&credentials);
    }
    let mut sentry = start(dir.path());
    sentry.wait_ready().await;
    let ed25519 = !own_authority;
    desk.request("leaf", if ed25519 { "" } else { "P-256" }, "/CN=anybody");
    let before = now();
    let chain = certified(&sentry, &desk.text("leaf.csr")).await;
    let after = now();
    let read = |name: &str| std::fs::read_to_string(credentials.join(name)).expect("a file of sentry's");
    let roots = read("ca.crt");

    // Order: the leaf, then what signed it, and no root.
    let parts = split(&chain);
    let issuers = read("issuer.crt");
    assert_eq!(parts[1..], split(&issuers));
    let shown = certificates(&chain);
    let extension = |at: usize, name: &str| {
        let all = shown[at]["extensions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|extension| extension["name"] == name)
    };
    assert_eq!(shown[0]["issuer"], shown[1]["subject"]);
    // Whom it is about: the id and nothing of what the request said.
    assert_eq!(shown[0]["subject"], "");
    assert_eq!(
        extension(0, "subjectAltName").map(|names| (names["critical"].clone(), names["value"].clone())),
        Some((
            json!(true),
            json!(["UniformResourceIdentifier:spiffe://public/ns/shop/web"])
        ))
    );
    // A leaf is no authority, its issuer is.
    let is_ca = |at: usize| extension(at, "basicConstraints").map(|found| found["value"]["ca"].clone());
    assert_ne!(is_ca(0), Some(json!(true)));
    assert_eq!(is_ca(1), Some(json!(true)));

    // From when until when: a clock that is slow by the allowed skew accepts it already, and a slower one does not.
    let ok = (true, true);
    let refused = (false, false);
    for (what, at, want) in [
        ("now", after, ok),
        (
            "a clock that is slow",
            after - SKEW + 60,
            if own_authority { refused } else { ok },
        ),
        ("a clock that is too slow", before - SKEW - 60, refused),
        ("shortly before its end", before + LIFE - 60, ok),
        ("after its end", after + LIFE + 60, refused),
        ("a day before the beginning", before - LIFE, refused),
    ] {
        assert_eq!(
            desk.accepted(&parts, &roots, at, ed25519),
            want,
            "{what}, own: {own_authority}"
        );
    }
    assert_eq!(
        desk.accepted(&parts[..1], &roots, after, ed25519),
        refused,
        "without its issuer"
    );

    // How deep: a leaf certifies nobody, and the user's issuer (pathlen:0) certifies leaves only.
    let folder = |name: &str| credentials.join(name).display().to_string();
    desk.write("leaf.crt", parts[0]);
    desk.request("below", if ed25519 { "" } else { "P-256" }, "/");
    desk.certify("below", &desk.file("leaf"), LEAF_EXTENSIONS);
    let below = desk.text("below.crt");
    let deep: Vec<&str> = std::iter::once(below.as_str())
        .chain(parts.iter().copied())
        .collect();
    assert_eq!(
        desk.accepted(&deep, &roots, now(), ed25519),
        refused,
        "below a leaf"
    );
    if own_authority {
        desk.request("second", "P-256", "/O=Corp/CN=second");
        desk.certify("second", &folder("issuer"), ISSUER_EXTENSIONS);
        desk.certify("below", &desk.file("second"), LEAF_EXTENSIONS);
        let (below, second) = (desk.text("below.crt"), desk.text("second.crt"));
        let deep = [below.as_str(), second.as_str(), parts[1]];
        assert_eq!(
            desk.accepted(&deep, &roots, now(), ed25519),
            refused,
            "below pathlen:0"
        );
    }
}

#[tokio::test]
async fn two_other_libraries_agree_on_what_sentrys_own_authority_certifies() {
    examine(false).await;
}

#[tokio::test]
async fn two_other_libraries_agree_on_what_a_users_authority_certifies() {
    examine(true).await;
}
