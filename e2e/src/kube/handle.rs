//! What a test does with any cluster: a handle on its kubeconfig.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::kube_binary;

/// `kubectl` and `helm` on one cluster, as whoever the kubeconfig says. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Kube {
    kubeconfig: PathBuf,
}

impl Kube {
    /// The cluster of that kubeconfig.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_path_buf(),
        }
    }

    /// The file, for other programs.
    #[must_use]
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs `kubectl` with `input` on its standard input and returns what it printed.
    ///
    /// # Errors
    /// What it wrote to its error output if it failed.
    pub fn kubectl(&self, args: &[&str], input: &str) -> Result<String, String> {
        self.kubectl_told(args, input).map(|(output, _)| output)
    }

    /// As [`Kube::kubectl`], with what it wrote to its error output beside (warnings of the API server, for one).
    ///
    /// # Errors
    /// What it wrote to its error output if it failed.
    pub fn kubectl_told(&self, args: &[&str], input: &str) -> Result<(String, String), String> {
        let mut child = Command::new(kube_binary("kubectl"))
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| error.to_string())?;
        if let Some(mut stdin) = child.stdin.take() {
            // A kubectl that doesn't read its input closes it; its exit status tells.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok((text(&output.stdout), text(&output.stderr)))
        } else {
            Err(text(&output.stderr))
        }
    }

    /// Creates or updates the objects in `yaml`.
    ///
    /// # Panics
    /// If the API server refuses one.
    pub fn apply(&self, yaml: &str) {
        if let Err(error) = self.kubectl(&["apply", "-f", "-"], &format!("---\n{yaml}")) {
            panic!("kubectl apply: {error}\n{yaml}");
        }
    }

    /// Creates or updates objects in a namespace; the answer is what was warned about.
    ///
    /// # Errors
    /// What the API server said if it refused one.
    pub fn apply_in(&self, namespace: &str, yaml: &str) -> Result<String, String> {
        // kubectl takes what begins with a brace for JSON.
        let yaml = format!("---\n{yaml}");
        self.kubectl_told(&["-n", namespace, "apply", "-f", "-"], &yaml)
            .map(|(_, warnings)| warnings)
    }

    /// Runs `helm` and returns what it printed.
    ///
    /// # Errors
    /// What it wrote to its error output if it failed.
    pub fn helm(&self, args: &[&str]) -> Result<String, String> {
        let home = self.kubeconfig.parent().unwrap_or(Path::new("/"));
        let output = Command::new(kube_binary("helm"))
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", home)
            .args(args)
            .output()
            .map_err(|error| error.to_string())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
        }
    }

    /// Waits until `kubectl wait` with these words succeeds.
    ///
    /// # Panics
    /// If it does not within `limit`; pods, events and logs are in the message.
    pub fn wait(&self, words: &[&str], limit: Duration) {
        let timeout = format!("--timeout={}s", limit.as_secs());
        let all: Vec<&str> = ["wait", &timeout]
            .into_iter()
            .chain(words.iter().copied())
            .collect();
        // Older than the object itself: kubectl fails at once when there is nothing to wait for yet.
        let deadline = Instant::now() + limit;
        while let Err(error) = self.kubectl(&all, "") {
            assert!(
                error.contains("no matching resources found") && Instant::now() < deadline,
                "kubectl {}: {error}\n{}",
                all.join(" "),
                self.situation()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Waits until everything of a Deployment or StatefulSet (`deploy/x`) is of its newest form and ready.
    ///
    /// # Panics
    /// If that takes longer than `limit`.
    pub fn rolled_out(&self, namespace: &str, what: &str, limit: Duration) {
        let timeout = format!("--timeout={}s", limit.as_secs());
        if let Err(error) = self.kubectl(&["-n", namespace, "rollout", "status", what, &timeout], "") {
            panic!("{what} in {namespace}: {error}\n{}", self.situation());
        }
    }

    /// Pods, recent events, and the ends of the logs of pods that are not well: for messages.
    #[must_use]
    pub fn situation(&self) -> String {
        self.told(|is_well| !is_well)
    }

    /// As [`Kube::situation`], with the ends of all pods' logs.
    #[must_use]
    pub fn whole_situation(&self) -> String {
        self.told(|_| true)
    }

    fn told(&self, wants_logs: impl Fn(bool) -> bool) -> String {
        let ask = |args: &[&str]| self.kubectl(args, "").unwrap_or_else(|error| error);
        let mut text = format!(
            "--- pods\n{}--- events\n{}",
            ask(&["get", "pods", "-A", "-o", "wide"]),
            ask(&["get", "events", "-A", "--sort-by=.lastTimestamp"])
        );
        let columns = "jsonpath={range .items[*]}{.metadata.namespace} {.metadata.name} {.status.phase} \
                       {.status.conditions[?(@.type=='Ready')].status}{'\\n'}{end}";
        for line in ask(&["get", "pods", "-A", "-o", columns]).lines() {
            if let [namespace, name, phase, ready] = line.split(' ').collect::<Vec<_>>()[..]
                && wants_logs(phase == "Succeeded" || ready == "True")
            {
                let words = [
                    "-n",
                    namespace,
                    "logs",
                    name,
                    "--all-containers",
                    "--prefix",
                    "--tail=30",
                ];
                text.push_str(&format!("--- logs of {namespace}/{name}\n{}", ask(&words)));
            }
        }
        text
    }
}
