//! Files as a source of changes (standalone mode): directories are watched, and read anew when something happens in
//! them, and from time to time in any case.
//!
//! A file that cannot be read counts as it was when it last could, so that a slip of the pen takes nothing away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use outrigger_resources::disk::{self, Document, Documents, Filter, Selected};
use outrigger_resources::{Component, Configuration, HttpEndpoint, Resiliency, Resource, Subscription};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Change, Closed, ResourceChange, ResourceSink, Resources};

/// Editors write in several steps: files are read once nothing has happened for this long, …
const QUIET: Duration = Duration::from_millis(50);
/// … or after this long in any case.
const PATIENCE: Duration = Duration::from_secs(1);

/// Reads the Configuration of the files that `--config` names.
pub type LoadConfiguration = Arc<dyn Fn() -> Result<Configuration, String> + Send + Sync>;

/// What is watched.
#[derive(Clone)]
pub struct FileSource {
    /// `--resources-path`
    pub directories: Vec<PathBuf>,
    /// `--config`
    pub configurations: Vec<PathBuf>,
    /// Reads the latter.
    pub load: LoadConfiguration,
    /// The Configuration in force.
    pub configuration: Configuration,
    /// `NAMESPACE`
    pub namespace: String,
    /// App id.
    pub app_id: String,
    /// How often everything is read in any case.
    pub interval: Duration,
}

impl FileSource {
    /// Reports changes until shutdown, or until they are no longer taken.
    pub async fn run(self, sink: ResourceSink, shutdown: CancellationToken) {
        let (told, mut events) = watch::channel(());
        // Kept: dropping it ends the watch.
        let _watcher = self.watch(&told);
        let mut reader = Reader::new(self.clone());
        loop {
            // Reading files may block for as long as a network file system likes.
            let read = tokio::task::spawn_blocking(move || {
                let changes = reader.read();
                (reader, changes)
            });
            let Ok((again, changes)) = read.await else {
                // It panicked, which the runtime has reported: without a reader nothing is reloaded any more.
                return;
            };
            reader = again;
            let send = async {
                for change in changes {
                    sink.send(change).await?;
                }
                Ok::<_, Closed>(())
            };
            if !matches!(shutdown.run_until_cancelled(send).await, Some(Ok(()))) {
                return;
            }
            let next = async {
                if tokio::time::timeout(self.interval, events.changed())
                    .await
                    .is_ok()
                {
                    settle(&mut events).await;
                }
            };
            if shutdown.run_until_cancelled(next).await.is_none() {
                return;
            }
        }
    }

    /// A watcher of everything that can be watched; what cannot is read at intervals only.
    fn watch(&self, told: &watch::Sender<()>) -> Option<RecommendedWatcher> {
        let told = told.clone();
        let handler = move |event: notify::Result<notify::Event>| {
            // Reading is an event as well, but no change.
            if event.is_ok_and(|event| !event.kind.is_access()) {
                told.send_replace(());
            }
        };
        let mut watcher = match notify::recommended_watcher(handler) {
            Ok(watcher) => watcher,
            Err(error) => {
                tracing::warn!(
                    "resources cannot be watched, changes are found every {:?} only: {error}",
                    self.interval
                );
                return None;
            }
        };
        for directory in self.watched() {
            if let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive) {
                tracing::warn!(
                    "{} cannot be watched, changes are found every {:?} only: {error}",
                    directory.display(),
                    self.interval
                );
            }
        }
        Some(watcher)
    }

    /// A file is watched by its directory, since it may be replaced by another one of its name.
    fn watched(&self) -> BTreeSet<PathBuf> {
        let parents = self.configurations.iter().map(|file| match file.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
            _ => PathBuf::from("."),
        });
        self.directories.iter().cloned().chain(parents).collect()
    }
}

/// Waits until nothing happens any more.
async fn settle(events: &mut watch::Receiver<()>) {
    let end = Instant::now() + PATIENCE;
    while tokio::time::timeout(QUIET, events.changed()).await.is_ok() {
        if Instant::now() >= end {
            return;
        }
    }
}

/// Reads, and remembers what could be read.
struct Reader {
    source: FileSource,
    good: BTreeMap<PathBuf, Vec<Document>>,
    /// Of each file that may hold policies, in the order of reading.
    policies: Vec<(PathBuf, Option<Resiliency>)>,
    configuration: Configuration,
    /// What was complained about when last read, so that it is not said again and again.
    complained: BTreeSet<String>,
}

impl Reader {
    fn new(source: FileSource) -> Self {
        Self {
            good: BTreeMap::new(),
            policies: Vec::new(),
            configuration: source.configuration.clone(),
            complained: BTreeSet::new(),
            source,
        }
    }

    fn read(&mut self) -> Vec<ResourceChange> {
        let mut complaints = BTreeSet::new();
        let mut changes = Vec::new();
        if !self.source.configurations.is_empty() {
            match (self.source.load)() {
                Ok(configuration) if configuration == self.configuration => {}
                Ok(configuration) => {
                    self.configuration = configuration.clone();
                    changes.push(ResourceChange::Configuration(Box::new(configuration)));
                }
                Err(error) => {
                    complaints.insert(format!("the Configuration stays as it was: {error}"));
                }
            }
        }
        match self.resources(&mut complaints) {
            Ok(resources) => changes.extend([
                ResourceChange::Resiliency(Change::All(resources.resiliencies)),
                ResourceChange::Component(Change::All(resources.components)),
                ResourceChange::HttpEndpoint(Change::All(resources.http_endpoints)),
                ResourceChange::Subscription(Change::All(resources.subscriptions)),
            ]),
            Err(error) => {
                complaints.insert(format!("resources stay as they were: {error}"));
            }
        }
        for complaint in complaints.difference(&self.complained) {
            tracing::error!("while reloading: {complaint}");
        }
        self.complained = complaints;
        changes
    }

    fn resources(&mut self, complaints: &mut BTreeSet<String>) -> Result<Resources, disk::LoadError> {
        let directories = &self.source.directories;
        let read = disk::read(directories)?;
        let resiliencies = self.resiliencies(complaints);
        let (documents, good) = with_last_good(read, &self.good, complaints);
        let filter = Filter {
            namespace: &self.source.namespace,
            app_id: &self.source.app_id,
        };
        let resources = Resources {
            components: select::<Component>(&documents, filter, complaints)?,
            subscriptions: select::<Subscription>(&documents, filter, complaints)?,
            http_endpoints: select::<HttpEndpoint>(&documents, filter, complaints)?,
            resiliencies,
        };
        self.good = good;
        Ok(resources)
    }

    /// The policies; of a broken file those that were last read of it.
    fn resiliencies(&mut self, complaints: &mut BTreeSet<String>) -> Vec<Resiliency> {
        // What is wrong with a directory the other resources say.
        let files = disk::resiliency_files(&self.source.directories, &mut Vec::new());
        let known = std::mem::take(&mut self.policies);
        for (path, read) in files {
            let policies = read.unwrap_or_else(|complaint| {
                complaints.insert(complaint);
                let mut known = known.iter();
                known.find_map(|(at, policies)| (*at == path).then(|| policies.clone())?)
            });
            self.policies.push((path, policies));
        }
        let all = self.policies.iter().filter_map(|(_, policies)| policies.as_ref());
        let of_app = all.filter(|resource| resource.in_scope(&self.source.app_id));
        of_app.cloned().collect()
    }
}

fn select<T: Resource>(
    documents: &Documents,
    filter: Filter<'_>,
    complaints: &mut BTreeSet<String>,
) -> Result<Vec<T>, disk::LoadError> {
    let Selected { resources, warnings } = documents.select::<T>(filter)?;
    complaints.extend(warnings);
    Ok(resources)
}

/// The documents with those of broken files replaced by what was last read of them; and the good ones by file.
fn with_last_good(
    read: Documents,
    good: &BTreeMap<PathBuf, Vec<Document>>,
    complaints: &mut BTreeSet<String>,
) -> (Documents, BTreeMap<PathBuf, Vec<Document>>) {
    let mut broken = read.broken.clone();
    for document in &read.documents {
        if let Some(problem) = document.problem() {
            complaints.insert(problem);
            broken.insert(document.path.clone());
        }
    }
    complaints.extend(read.warnings.into_iter().filter(|_| !broken.is_empty()));
    let is_kept = |path: &Path| broken.contains(path) && good.contains_key(path);
    let mut documents: Vec<Document> = read.documents;
    documents.retain(|document| !is_kept(&document.path));
    for path in &broken {
        documents.extend(good.get(path).into_iter().flatten().cloned());
    }
    let mut now: BTreeMap<PathBuf, Vec<Document>> = BTreeMap::new();
    for document in &documents {
        now.entry(document.path.clone())
            .or_default()
            .push(document.clone());
    }
    let all = Documents {
        documents,
        ..Documents::default()
    };
    (all, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, kind: &str) -> String {
        format!(
            "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {{name: {name}}}\nspec: {{type: {kind}, version: v1}}\n"
        )
    }

    fn reader(directory: &Path) -> Reader {
        Reader::new(FileSource {
            directories: vec![directory.to_path_buf()],
            configurations: Vec::new(),
            load: Arc::new(|| Ok(Configuration::default())),
            configuration: Configuration::default(),
            namespace: String::new(),
            app_id: "app".into(),
            interval: Duration::from_secs(60),
        })
    }

    fn names(reader: &mut Reader) -> Option<Vec<String>> {
        reader.read().into_iter().find_map(|change| match change {
            ResourceChange::Component(Change::All(all)) => {
                let one = |component: Component| {
                    format!("{} {}", component.metadata.name, component.spec.component_type)
                };
                Some(all.into_iter().map(one).collect())
            }
            _ => None,
        })
    }

    #[test]
    fn a_file_that_cannot_be_read_counts_as_it_was_until_it_is_mended_or_gone() {
        let directory = tempfile::tempdir().unwrap();
        let (a, b) = (directory.path().join("a.yaml"), directory.path().join("b.yaml"));
        std::fs::write(&a, component("one", "state.in-memory")).unwrap();
        std::fs::write(&b, component("two", "state.in-memory")).unwrap();
        let mut reader = reader(directory.path());
        assert_eq!(
            names(&mut reader).unwrap(),
            ["one state.in-memory", "two state.in-memory"]
        );
        for broken in [
            "kind: [".to_owned(),
            component("one", "state.redis").replace("version: v1", "version: [1]"),
            component("one/x", "state.redis"),
        ] {
            std::fs::write(&a, broken).unwrap();
            let mut kept = names(&mut reader).unwrap();
            kept.sort();
            assert_eq!(kept, ["one state.in-memory", "two state.in-memory"]);
        }
        assert!(!reader.complained.is_empty());
        std::fs::write(&a, component("one", "state.redis")).unwrap();
        assert_eq!(
            names(&mut reader).unwrap(),
            ["one state.redis", "two state.in-memory"]
        );
        assert!(reader.complained.is_empty());
        // A name that is there twice changes nothing at all.
        std::fs::write(&b, component("one", "state.sqlite")).unwrap();
        assert_eq!(names(&mut reader), None);
        std::fs::remove_file(&b).unwrap();
        assert_eq!(names(&mut reader).unwrap(), ["one state.redis"]);
    }

    #[test]
    fn a_broken_file_holds_up_its_own_policies_only() {
        let directory = tempfile::tempdir().unwrap();
        let policies = |name: &str, timeout: &str| {
            format!(
                "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {{name: {name}}}\nspec: {{policies: {{timeouts: {{t: {timeout}}}}}}}\n"
            )
        };
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        write("a.yaml", &policies("a", "1s"));
        write("b.yaml", &policies("b", "1s"));
        write("c.yaml", &component("one", "state.in-memory"));
        let mut reader = reader(directory.path());
        let mut read = || -> Vec<String> {
            let all = reader.read().into_iter().find_map(|change| match change {
                ResourceChange::Resiliency(Change::All(all)) => Some(all),
                _ => None,
            });
            let one = |resource: Resiliency| {
                let timeouts = format!("{:?}", resource.spec.policies.timeouts);
                format!("{} {}", resource.metadata.name, timeouts.contains("1s"))
            };
            all.unwrap().into_iter().map(one).collect()
        };
        assert_eq!(read(), ["a true", "b true"]);
        write("b.yaml", &policies("b", "[1]"));
        write("c.yaml", "kind: [");
        write("a.yaml", &policies("a", "2s"));
        assert_eq!(read(), ["a false", "b true"]);
        write("b.yaml", &policies("b", "3s"));
        std::fs::remove_file(directory.path().join("a.yaml")).unwrap();
        assert_eq!(read(), ["b false"]);
    }

    #[tokio::test]
    async fn a_change_is_reported_soon_and_a_removed_directory_takes_nothing_away() {
        let directory = tempfile::tempdir().unwrap();
        let resources = directory.path().join("resources");
        std::fs::create_dir(&resources).unwrap();
        std::fs::write(resources.join("a.yaml"), component("one", "state.in-memory")).unwrap();
        let (sink, mut changes) = super::super::channel();
        let stop = CancellationToken::new();
        let source = reader(&resources).source;
        let running = tokio::spawn(source.run(sink, stop.clone()));
        let mut next = async |want: usize| {
            loop {
                match changes.next().await {
                    Some(ResourceChange::Component(Change::All(all))) if all.len() == want => return,
                    Some(_) => {}
                    None => panic!("the source has ended"),
                }
            }
        };
        next(1).await;
        std::fs::write(resources.join("b.yaml"), component("two", "state.in-memory")).unwrap();
        next(2).await;
        std::fs::rename(resources.join("b.yaml"), resources.join("b.txt")).unwrap();
        next(1).await;
        stop.cancel();
        running.await.unwrap();
    }
}
