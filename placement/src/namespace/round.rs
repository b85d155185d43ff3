//! Rounds: telling every sidecar of a changed table in three steps.

use std::collections::BTreeMap;

use outrigger_proto::placement::v1::Host;

use super::{Effect, Ending, Namespace, Stream};
use crate::members::Form;
use crate::status::Status;
use crate::wire::{Order, Step};
use crate::{Moment, StreamId};

/// Where a namespace stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// No round.
    Idle,
    /// Acknowledgements of this step are awaited.
    Running(Step),
}

impl Stream {
    /// How it is told of hosts.
    fn form(&self) -> Form {
        if self.changes { Form::Slim } else { Form::Dapr }
    }
}

/// How many streams there are, and have acknowledged which step: so that an acknowledgement costs the same with ten
/// streams and with ten thousand.
#[derive(Debug, Default)]
pub(super) struct Tally {
    voters: Count,
    others: Count,
}

#[derive(Debug, Default)]
struct Count {
    all: usize,
    at: [usize; 3],
}

impl Count {
    fn complete(&self, step: Step) -> bool {
        self.at[step as usize] == self.all
    }
}

impl Tally {
    fn side(&mut self, stream: &Stream) -> &mut Count {
        if stream.voter {
            &mut self.voters
        } else {
            &mut self.others
        }
    }

    pub(super) fn add(&mut self, stream: &Stream) {
        let side = self.side(stream);
        side.all += 1;
        if let Some(step) = stream.acked {
            side.at[step as usize] += 1;
        }
    }

    pub(super) fn remove(&mut self, stream: &Stream) {
        let side = self.side(stream);
        side.all -= 1;
        if let Some(step) = stream.acked {
            side.at[step as usize] -= 1;
        }
    }
}

impl Namespace {
    /// Does what can be done now: starts what waits, or goes on with the round.
    pub(super) fn go_on(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        match self.phase {
            Phase::Idle => self.settle(now, fx),
            Phase::Running(step) => self.try_advance(now, step, fx),
        }
    }

    /// Between rounds: takes up who came, forgets who left, and tells.
    pub(super) fn settle(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        if self.phase != Phase::Idle || now < self.rest_until() || !self.has_news() {
            return;
        }
        let joined = self.fold();
        if self.dirty.is_empty() {
            // Nobody who came hosts anything: only they need the table.
            for id in joined {
                self.tell_one(id, fx);
            }
        } else {
            self.start_round(now, fx);
        }
    }

    /// Applies what has gathered; returns who came.
    pub(super) fn fold(&mut self) -> Vec<StreamId> {
        for id in std::mem::take(&mut self.removals) {
            self.forget(id);
        }
        let waiting: Vec<(StreamId, Host)> = std::mem::take(&mut self.waiting).into_iter().collect();
        let joined = waiting.iter().map(|(id, _)| *id).collect();
        for (id, host) in waiting {
            let Some(stream) = self.streams.get_mut(&id) else {
                continue;
            };
            // One with leases may hold actors by an earlier table, whatever it hosts now.
            stream.changed = stream.leased || !host.entities.is_empty();
            self.tally.add(stream);
            if !host.entities.is_empty() {
                self.take_up(id, host);
            }
        }
        joined
    }

    /// Starts a round; one that is under way is abandoned.
    pub(super) fn start_round(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        self.version += 1;
        self.phase = Phase::Running(Step::Lock);
        (self.phase_started, self.round_started) = (now, now);
        for lost in self.lost.values_mut() {
            lost.released = false;
        }
        for stream in self.streams.values_mut() {
            stream.acked = None;
        }
        self.choose_voters();
        self.send_all(now, fx, Step::Lock, |version, _| Order::Lock(version));
        if self.tally.voters.all + self.tally.others.all == 0 {
            // Nobody is left to tell.
            self.try_advance(now, Step::Lock, fx);
        }
    }

    /// Whose acknowledgements the round needs: those whose actors it may move.
    pub(super) fn choose_voters(&mut self) {
        self.tally = Tally::default();
        for (id, stream) in &mut self.streams {
            if self.waiting.contains_key(id) {
                continue;
            }
            let report = self.members.get(*id);
            let concerned =
                report.is_some_and(|report| report.types().iter().any(|name| self.dirty.contains(name)));
            stream.voter = stream.changed || concerned;
            self.tally.add(stream);
        }
    }

    fn send_all(
        &mut self,
        now: Moment,
        fx: &mut Vec<Effect>,
        step: Step,
        order: impl Fn(u64, &Stream) -> Order,
    ) {
        let due = now + self.settings.disseminate_timeout;
        for (id, stream) in &mut self.streams {
            if self.waiting.contains_key(id) {
                continue;
            }
            if step == Step::Lock {
                stream.locked = Some(self.version);
            } else if stream.locked != Some(self.version) {
                continue;
            }
            if stream.owes.is_none() {
                stream.owes = Some((due, self.version));
                self.owing.insert((due, *id));
            }
            fx.push(Effect::Send(*id, order(self.version, stream)));
        }
    }

    /// Tells one stream the table as it stands; what it acknowledges of that is ignored.
    pub(super) fn tell_one(&mut self, id: StreamId, fx: &mut Vec<Effect>) {
        let version = self.version;
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        stream.locked = Some(version);
        let form = stream.form();
        let table = self.table(form);
        for order in [
            Order::Lock(version),
            Order::Update(version, table),
            Order::Unlock(version),
        ] {
            fx.push(Effect::Send(id, order));
        }
    }

    fn table(&mut self, form: Form) -> bytes::Bytes {
        let (version, factor) = (self.version, self.settings.replication_factor);
        let known = &mut self.tables[form as usize];
        match known {
            Some((of, table)) if *of == version => table.clone(),
            _ => {
                let table = self.members.table(form, version, factor);
                known.insert((version, table)).1.clone()
            }
        }
    }

    /// What each stream is told of the table of this version.
    fn updates(&mut self) -> impl Fn(u64, &Stream) -> Order + use<> {
        let (settled, factor) = (self.settled, self.settings.replication_factor);
        let lacks_only_dirty =
            move |stream: &Stream| stream.changes && stream.has.is_some_and(|has| has >= settled);
        // Made only if somebody needs it.
        let mut wanted = [false; 2];
        for stream in self.streams.values().filter(|stream| !lacks_only_dirty(stream)) {
            wanted[stream.form() as usize] = true;
        }
        let tables = [Form::Dapr, Form::Slim].map(|form| {
            if wanted[form as usize] {
                self.table(form)
            } else {
                bytes::Bytes::new()
            }
        });
        let change = self.members.change(self.version, factor, &self.dirty);
        move |version, stream| {
            if lacks_only_dirty(stream) {
                Order::Change(version, change.clone())
            } else {
                Order::Update(version, tables[stream.form() as usize].clone())
            }
        }
    }

    /// A sidecar acknowledged a step; `None` stands for the one under way.
    pub(super) fn acknowledge(
        &mut self,
        now: Moment,
        id: StreamId,
        step: Option<Step>,
        fx: &mut Vec<Effect>,
    ) {
        let current = match self.phase {
            Phase::Idle => None,
            Phase::Running(current) => Some(current),
        };
        if self.waiting.contains_key(&id) {
            return;
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if step == Some(Step::Update) {
            stream.has = Some(self.version);
        }
        // It answers: the time it has for the rest counts anew.
        if let Some((due, _)) = stream.owes.take() {
            self.owing.remove(&(due, id));
            let caught_up = step.is_none() || step == current.or(Some(Step::Unlock));
            if !caught_up {
                let due = now + self.settings.disseminate_timeout;
                stream.owes = Some((due, self.version));
                self.owing.insert((due, id));
            }
        }
        let (Some(_), Some(step)) = (current, step.or(current)) else {
            return;
        };
        if stream.acked == Some(step) {
            return;
        }
        if current == Some(Step::Update) && step == Step::Update && self.members.get(id).is_none() {
            stream.withdrawn = true;
        }
        self.tally.remove(stream);
        stream.acked = Some(step);
        self.tally.add(stream);
        // A step that is not under way counts as if it were (recorded).
        self.try_advance(now, step, fx);
    }

    /// Takes the next step if `step` is acknowledged by all who are waited for.
    pub(super) fn try_advance(&mut self, now: Moment, step: Step, fx: &mut Vec<Effect>) {
        let patient = now < self.phase_started + self.settings.patience;
        if !self.tally.voters.complete(step) || (patient && !self.tally.others.complete(step)) {
            return;
        }
        if step != Step::Unlock && self.lost_hold_back(now) {
            return;
        }
        self.phase_started = now;
        match step {
            Step::Lock => {
                self.phase = Phase::Running(Step::Update);
                let updates = self.updates();
                self.send_all(now, fx, Step::Update, updates);
            }
            Step::Update => {
                self.phase = Phase::Running(Step::Unlock);
                self.send_all(now, fx, Step::Unlock, |version, _| Order::Unlock(version));
            }
            Step::Unlock => return self.complete(now, fx),
        }
        if self.tally.voters.all + self.tally.others.all == 0 {
            self.go_on(now, fx);
        }
    }

    /// When the step is taken without those who are only waited for out of patience; `None` if that is not what it waits
    /// for.
    pub(super) fn patience_ends(&self, now: Moment, step: Step) -> Option<Moment> {
        let Tally { voters, others } = &self.tally;
        let is_it = voters.complete(step) && !others.complete(step);
        let is_held_back = step != Step::Unlock && self.lost_hold_back(now);
        (is_it && !is_held_back).then(|| self.phase_started + self.settings.patience)
    }

    /// Whether a lost member may still hold actors that the round moves.
    fn lost_hold_back(&self, now: Moment) -> bool {
        self.lost.iter().any(|(id, lost)| {
            let report = self.members.get(*id);
            let concerned =
                report.is_some_and(|report| report.types().iter().any(|name| self.dirty.contains(name)));
            lost.until > now && !lost.released && (lost.changed || concerned)
        })
    }

    fn complete(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        self.phase = Phase::Idle;
        self.settled = self.version;
        self.dirty.clear();
        for stream in self.streams.values_mut() {
            stream.changed = false;
        }
        self.quiet_until = now + self.settings.coalesce_window;
        self.settle(now, fx);
    }

    /// When those who have not acknowledged the step are disconnected. `None` if nobody is waited for that long.
    pub(super) fn phase_deadline(&self, step: Step) -> Option<Moment> {
        (!self.tally.voters.complete(step)).then(|| {
            let round = self.round_started + self.settings.disseminate_timeout;
            match step {
                Step::Update => round,
                Step::Lock | Step::Unlock => round.min(self.phase_started + self.settings.lock_timeout),
            }
        })
    }

    /// Disconnects who took too long.
    pub(super) fn evict_late(&mut self, now: Moment, fx: &mut Vec<Effect>) {
        let mut late: BTreeMap<StreamId, u64> = BTreeMap::new();
        let mut stuck = false;
        let mut after = self.settings.disseminate_timeout;
        if let Phase::Running(step) = self.phase
            && self.phase_deadline(step).is_some_and(|deadline| deadline <= now)
        {
            stuck = true;
            if now < self.round_started + after {
                after = self.settings.lock_timeout;
            }
            let voters = self
                .streams
                .iter()
                .filter(|(_, stream)| stream.voter && stream.acked != Some(step));
            late.extend(voters.map(|(id, _)| (*id, self.version)));
        }
        for (_, id) in self.owing.iter().take_while(|(due, _)| *due <= now) {
            let version = self
                .streams
                .get(id)
                .and_then(|stream| stream.owes)
                .map(|(_, version)| version);
            late.entry(*id).or_insert(version.unwrap_or(self.version));
        }
        for (id, version) in late {
            self.drop_stream(now, id, Ending::Broken);
            fx.push(Effect::Close(id, Status::disseminated_too_slowly(after, version)));
        }
        if stuck {
            self.fold();
            self.start_round(now, fx);
        }
    }
}
