"""The actors of the tests: one implementation under several type names, and what callers know of it."""

from datetime import timedelta
from typing import Optional

from dapr.actor import Actor, ActorInterface, Remindable, actormethod
from dapr.actor.runtime.config import ActorReentrancyConfig, ActorRuntimeConfig, ActorTypeConfig
from dapr.actor.runtime.runtime import ActorRuntime

SECOND = timedelta(seconds=1)
DEACTIVATED = []


class CounterInterface(ActorInterface):
    @actormethod(name="Add")
    async def add(self, amount: int) -> int: ...

    @actormethod(name="Get")
    async def get(self) -> object: ...

    @actormethod(name="Fail")
    async def fail(self) -> object: ...

    @actormethod(name="Forget")
    async def forget(self) -> object: ...

    @actormethod(name="Brief")
    async def brief(self) -> object: ...

    @actormethod(name="StartTimer")
    async def start_timer(self, text: object) -> object: ...

    @actormethod(name="StopTimer")
    async def stop_timer(self) -> object: ...

    @actormethod(name="Remind")
    async def remind(self, text: object) -> object: ...

    @actormethod(name="StopReminder")
    async def stop_reminder(self) -> object: ...

    @actormethod(name="AddAt")
    async def add_at(self, where: object) -> object: ...


class Counter(Actor, CounterInterface, Remindable):
    async def _on_activate(self) -> None:
        self.host = None
        await self._state_manager.get_or_add_state("count", 0)

    async def add(self, amount: int) -> int:
        count = await self._state_manager.get_state("count") + amount
        await self._state_manager.set_state("count", count)
        return count

    async def get(self) -> object:
        manager = self._state_manager
        found = {}
        for name in ("count", "ticks", "tick", "reminders", "reminder", "brief"):
            there, value = await manager.try_get_state(name)
            if there:
                found[name] = value
        return found

    async def fail(self) -> object:
        raise ValueError("asked for")

    async def forget(self) -> object:
        await self._state_manager.try_remove_state("count")
        await self._state_manager.try_remove_state("ticks")
        return {}

    async def brief(self) -> object:
        await self._state_manager.set_state_ttl("brief", "soon gone", 1)
        return {}

    async def start_timer(self, text: object) -> object:
        await self.register_timer("tick", self.on_tick, text, SECOND / 10, SECOND / 2)
        return {}

    async def stop_timer(self) -> object:
        await self.unregister_timer("tick")
        return {}

    async def on_tick(self, data) -> None:
        manager = self._state_manager
        there, ticks = await manager.try_get_state("ticks")
        await manager.set_state("ticks", (ticks if there else 0) + 1)
        await manager.set_state("tick", data)
        await manager.save_state()

    async def remind(self, text: object) -> object:
        await self.register_reminder("wake", str(text).encode(), SECOND / 10, SECOND)
        return {}

    async def stop_reminder(self) -> object:
        await self.unregister_reminder("wake")
        return {}

    async def receive_reminder(
        self,
        name: str,
        state: bytes,
        due_time: timedelta,
        period: timedelta,
        ttl: Optional[timedelta] = None,
    ) -> None:
        manager = self._state_manager
        there, count = await manager.try_get_state("reminders")
        await manager.set_state("reminders", (count if there else 0) + 1)
        await manager.set_state("reminder", {"name": name, "state": state.decode()})
        await manager.save_state()

    async def add_at(self, where: object) -> object:
        """Calls another actor from within a turn."""
        from dapr.actor import ActorId, ActorProxy

        proxy = ActorProxy.create(where["type"], ActorId(where["id"]), CounterInterface)
        return {"there": await proxy.Add(where["amount"])}

    async def _on_deactivate(self) -> None:
        DEACTIVATED.append(self.id.id)


def counter(name):
    """The counter as an actor type of that name."""
    return type(name, (Counter, Remindable), {})


def configure(name):
    """Short idle time, so that deactivation is seen."""
    config = ActorRuntimeConfig(
        actor_idle_timeout=timedelta(seconds=2),
        actor_scan_interval=timedelta(seconds=1),
        drain_ongoing_call_timeout=timedelta(seconds=5),
        drain_rebalanced_actors=True,
        reentrancy=ActorReentrancyConfig(enabled=True),
    )
    config.update_actor_type_configs([ActorTypeConfig(actor_type=name, actor_idle_timeout=timedelta(seconds=2))])
    ActorRuntime.set_actor_config(config)
