"""From the workers to the driver: what each is doing now. Nothing waits for it, and nothing fails without it.

A small actor that takes no CPU hears the workers, and the driver asks it about once a second. It imports neither torch
nor transformers, so that its process is small.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from trainables.activity import Activity, Throttle, listen

_SEND_SECONDS = 1.0
_ASK_SECONDS = 2.0


@dataclass
class Heard:
    """What workers do.

    Attributes:
        now: by the name of what they work on.
        news: what was begun since the last question, in order: what takes less time than a question is heard too.
    """

    now: dict[str, Activity] = field(default_factory=dict)
    news: list[tuple[str, Activity]] = field(default_factory=list)


class _Ear:
    """The actor."""

    def __init__(self) -> None:
        self._heard = Heard()

    def hear(self, who: str, activity: Activity | None) -> None:
        """A worker tells what it does for something of a name; None when that is over."""
        before = self._heard.now.pop(who, None)
        if activity is None:
            return
        self._heard.now[who] = activity
        if before is None or before.what != activity.what:
            self._heard.news.append((who, activity))

    def heard(self) -> Heard:
        """Everything, the news once."""
        told, self._heard = self._heard, Heard(dict(self._heard.now))
        return told


@contextmanager
def hearing(name: str) -> Iterator[Callable[[], Heard | None]]:
    """Have workers of this driver heard, by an ear of the name they are told, while the block runs; Ray is connected.

    Yields:
        What to ask: it gives what was heard, or None if the ear does not answer.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(num_cpus=0)(_Ear)
    ear = actor.options(name=name, scheduling_strategy=here).remote()

    asked: list[Any] = []  # an answer that is late: to ask anew would lose its news

    def ask() -> Heard | None:
        if not asked:
            asked.append(ear.heard.remote())
        heard: Heard | None = None
        try:
            heard = ray.get(asked[0], timeout=_ASK_SECONDS)
        except GetTimeoutError:
            return None
        except RayError:
            pass
        asked.clear()
        return heard

    try:
        yield ask
    finally:
        ray.kill(ear)


def speak(ear: str | None, who: str) -> None:
    """From now on this worker tells the driver's ear, if there is one of that name, what it does for ``who``."""
    hush_up()
    if ear is not None:
        with suppress(ValueError, RayError):
            listen(_Voice(ray.get_actor(ear), who))


def hush_up() -> None:
    """What this worker worked on is over."""
    before = listen(None)
    if isinstance(before, _Voice):
        before.end()


class _Voice:
    """Sends what a worker tells, and waits for nothing."""

    def __init__(self, actor: Any, who: str) -> None:
        self._actor, self._who = actor, who
        self._send = Throttle(self._send_now, _SEND_SECONDS)

    def __call__(self, activity: Activity) -> None:
        self._send(activity)

    def end(self) -> None:
        self._send_now(None)

    def _send_now(self, activity: Activity | None) -> None:
        with suppress(RayError):
            self._actor.hear.remote(self._who, activity)
