// The actor of the tests; hosts and callers know it by this class.
"use strict";

const { AbstractActor } = require("@dapr/dapr");

const deactivated = [];

class JsCounter extends AbstractActor {
  async onActivate() {
    await this.getStateManager().getOrAddState("count", 0);
  }

  async onDeactivate() {
    deactivated.push(this.id.getId());
  }

  async add(amount) {
    const count = (await this.getStateManager().getState("count")) + amount;
    await this.getStateManager().setState("count", count);
    return { count };
  }

  async sum(...numbers) {
    return { sum: numbers.reduce((sum, number) => sum + number, 0) };
  }

  async read() {
    const found = {};
    for (const name of ["count", "ticks", "tick", "reminders", "reminder"]) {
      const [there, value] = await this.getStateManager().tryGetState(name);
      if (there) {
        found[name] = value;
      }
    }
    return found;
  }

  async fail() {
    throw new Error("asked for");
  }

  async forget() {
    await this.getStateManager().tryRemoveState("ticks");
    await this.getStateManager().tryRemoveState("count");
    return {};
  }

  async startTimer(text) {
    await this.registerActorTimer("tick", "onTick", "100ms", "500ms", undefined, text);
    return {};
  }

  async stopTimer() {
    await this.unregisterActorTimer("tick");
    return {};
  }

  async count(name, data) {
    const [there, before] = await this.getStateManager().tryGetState(`${name}s`);
    await this.getStateManager().setState(`${name}s`, (there ? before : 0) + 1);
    await this.getStateManager().setState(name, data);
  }

  async onTick(data) {
    await this.count("tick", data);
  }

  async remind(text) {
    await this.registerActorReminder("wake", "100ms", "1s", undefined, text);
    return {};
  }

  async stopReminder() {
    await this.unregisterActorReminder("wake");
    return {};
  }

  async receiveReminder(data) {
    await this.count("reminder", data);
  }
}

module.exports = { JsCounter, deactivated };
