//! `sentry status` and `sentry rotate`: words before the flags, which upstream's sentry ignores. They read and write
//! where the authority is kept, with sentry's own flags to find it; a running sentry does the rest.

use std::process::ExitCode;
use std::time::SystemTime;

use outrigger_process::Environment;
use outrigger_process::flags::{self, Outcome};
use outrigger_service::Failure;
use serde_json::{Value, json};

use crate::bundle::{Bundle, NewAuthority, time_text};
use crate::options::{Options, SPEC};
use crate::rotation::Rotation;
use crate::start;
use crate::store::{Store, StoreError};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Show the authority and the change of roots under way.
    Status,
    /// Begin a change of roots.
    Rotate,
}

impl Command {
    /// The command that a first word names.
    pub fn named(word: &str) -> Option<Self> {
        match word {
            "status" => Some(Self::Status),
            "rotate" => Some(Self::Rotate),
            _ => None,
        }
    }
}

/// Does it; the arguments are those after the word.
pub fn run(command: Command, args: impl Iterator<Item = String>, environment: &Environment) -> ExitCode {
    let table = SPEC.table();
    let values = match flags::parse_as(SPEC.dialect, &table, args) {
        Ok(Outcome::Values(values)) => values,
        Ok(Outcome::Help) => {
            eprintln!(
                "sentry status: show the certificate authority and the change of roots under way, as JSON"
            );
            eprintln!("sentry rotate: begin a change of roots; a running sentry carries it out");
            eprintln!(
                "Both take sentry's flags to find the authority: --mode, --issuer-credentials, --kubeconfig, …"
            );
            eprint!("{}", flags::usage("sentry", &table));
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    let done = Options::read(&values, environment).and_then(|options| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(act(command, &options, environment))
    });
    match done {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("{}", failure.text());
            ExitCode::FAILURE
        }
    }
}

async fn act(command: Command, options: &Options, environment: &Environment) -> Result<String, Failure> {
    let namespace = environment.non_empty("NAMESPACE").unwrap_or("default");
    let (store, _) = start::store(options, namespace).await?;
    let ours = NewAuthority {
        trust_domain: options.trust_domain.to_string(),
        namespace: namespace.to_owned(),
        skew: std::time::Duration::ZERO,
        ttl: options.issuer_ttl,
    };
    match command {
        Command::Status => status(&*store, &ours).await,
        Command::Rotate => rotate(&*store, &ours).await,
    }
}

async fn status(store: &dyn Store, ours: &NewAuthority) -> Result<String, Failure> {
    let stored = store.load().await?;
    let now = SystemTime::now();
    let authority = match stored.contents.material() {
        None => Value::Null,
        Some(material) => match Bundle::read(&material, now) {
            Err(error) => json!({"error": error.to_string()}),
            Ok(bundle) => {
                let roots: Vec<Value> = bundle
                    .anchors()
                    .into_iter()
                    .map(|(validity, used)| {
                        json!({
                            "notBefore": time_text(validity.not_before),
                            "notAfter": time_text(validity.not_after),
                            "inUse": used,
                        })
                    })
                    .collect();
                let issuer = bundle.issuer_validity();
                json!({
                    "madeBySentry": ours.made(&bundle),
                    "issuer": {"notBefore": time_text(issuer.not_before), "notAfter": time_text(issuer.not_after)},
                    "roots": roots,
                })
            }
        },
    };
    let rotation = match Rotation::read(&stored.contents) {
        Ok(None) => Value::Null,
        Ok(Some(rotation)) => json!({
            "phase": rotation.phase.name(),
            "reason": rotation.reason,
            "since": rotation.since,
            "until": rotation.until,
        }),
        Err(error) => json!({"error": error.to_string()}),
    };
    let status = json!({
        "place": store.place(),
        "authority": authority,
        "published": stored.published_ca == stored.contents.ca,
        "rotation": rotation,
    });
    Ok(serde_json::to_string_pretty(&status)?)
}

async fn rotate(store: &dyn Store, ours: &NewAuthority) -> Result<String, Failure> {
    for _ in 0..5 {
        let stored = store.load().await?;
        if let Some(rotation) = Rotation::read(&stored.contents)? {
            return Err(Failure::new(format!(
                "a change of roots is under way (phase {}, until {}); wait until it is over",
                rotation.phase.name(),
                rotation.until.as_deref().unwrap_or("sentry has seen it")
            )));
        }
        let now = SystemTime::now();
        let Some(material) = stored.contents.material() else {
            return Err(Failure::new(format!(
                "there is no certificate authority in {}; start sentry to have one made",
                store.place()
            )));
        };
        if !ours.made(&Bundle::read(&material, now)?) {
            return Err(Failure::new(
                "the certificate authority was not made by sentry for this trust domain and namespace (--trust-domain, $NAMESPACE) and is never replaced by it: put a new ca.crt, issuer.crt and issuer.key in place yourself",
            ));
        }
        let mut contents = stored.contents.clone();
        contents.rotation = Some(Rotation::request(now).text());
        match store.save(&contents, &stored).await {
            Ok(()) => {
                return Ok("A change of roots was asked for; `sentry status` shows how it goes".to_owned());
            }
            Err(StoreError::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Conflict.into())
}
