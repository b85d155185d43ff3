//! One active actor, and the types that are hosted.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::ActorKey;
use crate::config::TypeConfig;
use crate::lock::TurnLock;
use crate::seams::ActorTarget;

/// An actor that is active in this sidecar.
pub(crate) struct Instance {
    pub(crate) key: ActorKey,
    pub(crate) hosted: Arc<Hosted>,
    pub(crate) lock: Arc<TurnLock>,
    /// Cancelled = running turns are cut off.
    pub(crate) cut: CancellationToken,
    /// Cancelled = the app was told; the actor may begin anew, here or elsewhere.
    pub(crate) gone: CancellationToken,
    /// Held for reading by transactions of its state.
    pub(crate) writes: tokio::sync::RwLock<()>,
    releasing: AtomicBool,
    last_used: Mutex<Instant>,
    /// Set when the placement service is lost: nothing may happen after it.
    deadline: OnceLock<Instant>,
}

impl Instance {
    /// Notes the start of a call.
    pub(crate) fn touch(&self) {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When the last call started.
    pub(crate) fn last_used(&self) -> Instant {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the time after which nothing may happen; the first call counts.
    pub(crate) fn set_deadline(&self, at: Instant) {
        self.deadline.get_or_init(|| at);
    }

    /// Whether its state may be written.
    pub(crate) fn may_write(&self) -> bool {
        !self.cut.is_cancelled()
            && !self.gone.is_cancelled()
            && self.deadline.get().is_none_or(|at| Instant::now() < *at)
    }

    /// Whether its end has begun.
    pub(crate) fn is_releasing(&self) -> bool {
        self.releasing.load(Ordering::Acquire)
    }

    /// Begins its end; `false` if that has begun already.
    pub(crate) fn begin_release(&self) -> bool {
        !self.releasing.swap(true, Ordering::AcqRel)
    }
}

/// An actor type that is hosted here, with its active actors.
pub(crate) struct Hosted {
    pub(crate) name: Arc<str>,
    pub(crate) config: TypeConfig,
    pub(crate) target: Arc<dyn ActorTarget>,
    instances: Mutex<HashMap<Arc<str>, Arc<Instance>>>,
}

impl Hosted {
    fn new(name: Arc<str>, config: TypeConfig, target: Arc<dyn ActorTarget>) -> Self {
        Self {
            name,
            config,
            target,
            instances: Mutex::default(),
        }
    }

    fn instances(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<Instance>>> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The active actor of this id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Instance>> {
        self.instances().get(id).cloned()
    }

    /// The active actor of this id, made active if it is not; `true` = it was made.
    pub(crate) fn activate(self: &Arc<Self>, id: &str) -> (Arc<Instance>, bool) {
        let mut instances = self.instances();
        if let Some(known) = instances.get(id) {
            return (Arc::clone(known), false);
        }
        let id: Arc<str> = id.into();
        let instance = Arc::new(Instance {
            key: ActorKey {
                actor_type: Arc::clone(&self.name),
                id: Arc::clone(&id),
            },
            hosted: Arc::clone(self),
            lock: Arc::default(),
            cut: CancellationToken::new(),
            gone: CancellationToken::new(),
            writes: tokio::sync::RwLock::default(),
            releasing: AtomicBool::new(false),
            deadline: OnceLock::new(),
            last_used: Mutex::new(Instant::now()),
        });
        instances.insert(id, Arc::clone(&instance));
        (instance, true)
    }

    /// Forgets an actor whose end is complete.
    pub(crate) fn remove(&self, instance: &Arc<Instance>) {
        let mut instances = self.instances();
        if instances
            .get(&instance.key.id)
            .is_some_and(|known| Arc::ptr_eq(known, instance))
        {
            instances.remove(&instance.key.id);
        }
    }

    /// All active actors.
    pub(crate) fn all(&self) -> Vec<Arc<Instance>> {
        self.instances().values().cloned().collect()
    }

    /// How many are active.
    pub(crate) fn len(&self) -> usize {
        self.instances().len()
    }
}

/// What a part of the sidecar (the app, a stream of it, the workflow engine) hosts.
struct Registration {
    number: u64,
    types: HashMap<Arc<str>, TypeConfig>,
    target: Arc<dyn ActorTarget>,
}

/// The types hosted here. Where several registrations name a type, the newest counts.
#[derive(Default)]
pub(crate) struct Hosting {
    types: RwLock<HashMap<Arc<str>, Arc<Hosted>>>,
    registrations: Mutex<(u64, Vec<Registration>)>,
}

impl Hosting {
    /// The type of this name, if it is hosted.
    pub(crate) fn get(&self, name: &str) -> Option<Arc<Hosted>> {
        self.types
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(name)
            .cloned()
    }

    /// All types, in no order.
    pub(crate) fn all(&self) -> Vec<Arc<Hosted>> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        types.values().cloned().collect()
    }

    /// Their names, sorted.
    pub(crate) fn names(&self) -> Vec<String> {
        let types = self.types.read().unwrap_or_else(PoisonError::into_inner);
        let mut names: Vec<String> = types.keys().map(ToString::to_string).collect();
        names.sort_unstable();
        names
    }

    /// Adds a registration; returns its number and the types whose actors must end, since they are hosted differently
    /// from now on.
    pub(crate) fn add(
        &self,
        types: HashMap<String, TypeConfig>,
        target: Arc<dyn ActorTarget>,
    ) -> (u64, Vec<Arc<Hosted>>) {
        let mut registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        registrations.0 += 1;
        let number = registrations.0;
        registrations.1.push(Registration {
            number,
            types: types
                .into_iter()
                .map(|(name, config)| (name.into(), config))
                .collect(),
            target,
        });
        let replaced = self.refresh(&registrations.1);
        (number, replaced)
    }

    /// Removes a registration; returns the types whose actors must end.
    pub(crate) fn remove(&self, number: u64) -> Vec<Arc<Hosted>> {
        let mut registrations = self.registrations.lock().unwrap_or_else(PoisonError::into_inner);
        registrations
            .1
            .retain(|registration| registration.number != number);
        self.refresh(&registrations.1)
    }

    /// Whether there was any registration so far, an empty one included.
    pub(crate) fn has_registered(&self) -> bool {
        self.registrations
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            > 0
    }

    fn refresh(&self, registrations: &[Registration]) -> Vec<Arc<Hosted>> {
        let mut types = self.types.write().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = HashMap::new();
        for registration in registrations {
            for (name, config) in &registration.types {
                wanted.insert(Arc::clone(name), (config, &registration.target));
            }
        }
        let mut ended = Vec::new();
        types.retain(|name, hosted| {
            let stays = wanted.get(name).is_some_and(|(config, target)| {
                **config == hosted.config && Arc::ptr_eq(target, &hosted.target)
            });
            if !stays {
                ended.push(Arc::clone(hosted));
            }
            stays
        });
        for (name, (config, target)) in wanted {
            types
                .entry(Arc::clone(&name))
                .or_insert_with(|| Arc::new(Hosted::new(name, config.clone(), Arc::clone(target))));
        }
        ended
    }
}
