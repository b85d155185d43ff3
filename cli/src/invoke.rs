//! `outrigger invoke`.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Method;

use crate::args::InvokeArgs;
use crate::env::Env;
use crate::http::{Call, Target, escape, send};
use crate::instances::running;

/// Longer than a sidecar's own limit for an invocation (60 s), so that its answer is what one sees.
pub(crate) const LIMIT: Duration = Duration::from_secs(90);

/// The sidecar of an app: on the socket in the named folder, else the running one with this app id.
///
/// # Errors
/// If no such app runs on this machine.
pub(crate) fn sidecar_of(app_id: &str, sockets: Option<&std::path::Path>) -> anyhow::Result<Target> {
    if let Some(folder) = sockets {
        return Ok(Target::socket(folder, app_id));
    }
    let running = running()?;
    match running.iter().find(|one| one.app_id == app_id) {
        Some(one) => Ok(one.target()),
        None => bail!("no app {app_id} runs on this machine: `outrigger list` shows what does"),
    }
}

/// Calls a method and prints the answer's body as it is; 1 unless the status is 2xx or 3xx.
///
/// # Errors
/// If the app does not run here, or its sidecar does not answer.
pub(crate) async fn run(args: &InvokeArgs, env: &Env) -> anyhow::Result<u8> {
    let target = sidecar_of(&args.app_id, args.unix_domain_socket.as_deref())?;
    let verb = args.verb.to_ascii_uppercase();
    let (method, query) = match args.method.split_once('?') {
        Some((method, query)) => (method, format!("?{query}")),
        None => (args.method.as_str(), String::new()),
    };
    let path = format!(
        "/v1.0/invoke/{}/method/{}{query}",
        escape(&args.app_id, false),
        escape(method.trim_start_matches('/'), true)
    );
    let call = Call {
        method: Method::from_bytes(verb.as_bytes()).with_context(|| format!("{verb} is no HTTP verb"))?,
        path: &path,
        content_type: Some("application/json"),
        token: env.get("DAPR_API_TOKEN"),
        body: args.body.read()?.into(),
    };
    let (status, body) = send(&target, call, LIMIT).await?;
    let mut out = std::io::stdout();
    out.write_all(&body).and_then(|()| {
        // A line end for people, unless the body has its own.
        match body.last() {
            None | Some(b'\n') => out.flush(),
            Some(_) => out.write_all(b"\n"),
        }
    })?;
    if status.is_success() || status.is_redirection() {
        return Ok(0);
    }
    eprintln!("outrigger: {verb} {path} answered {status}");
    Ok(1)
}
