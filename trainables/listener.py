"""Progress reports from the workers to the driver. Nothing waits for them, and nothing fails without them.

A small actor that reserves no CPU collects the workers' reports, and the driver polls it about once a second. It
imports neither torch nor transformers, so its process is small.
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
    """Activities of the workers.

    Attributes:
        now: current activities, by the name of what each worker works on.
        news: activities begun since the last poll, in order, including those that are over already.
    """

    now: dict[str, Activity] = field(default_factory=dict)
    news: list[tuple[str, Activity]] = field(default_factory=list)


class _Ear:
    """The actor that collects the reports."""

    def __init__(self) -> None:
        self._heard = Heard()

    def hear(self, who: str, activity: Activity | None) -> None:
        """Take a worker's activity for the name it works on; None when that is over."""
        before = self._heard.now.pop(who, None)
        if activity is None:
            return
        self._heard.now[who] = activity
        if before is None or before.what != activity.what:
            self._heard.news.append((who, activity))

    def heard(self) -> Heard:
        """Return what was heard, each piece of news once."""
        told, self._heard = self._heard, Heard(dict(self._heard.now))
        return told


@contextmanager
def hearing(name: str) -> Iterator[Callable[[], Heard | None]]:
    """Collect reports of this driver's workers in an actor of the given name while the block runs.

    Ray must be connected.

    Yields:
        A function that returns what was heard, or None if the actor does not answer.
    """
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
    actor: Any = ray.remote(num_cpus=0)(_Ear)
    ear = actor.options(name=name, scheduling_strategy=here).remote()

    asked: list[Any] = []  # a pending answer: a new request would lose its news

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
    """From now on, report what this worker does for ``who`` to the actor named ``ear``, if there is one."""
    hush_up()
    if ear is not None:
        with suppress(ValueError, RayError):
            listen(_Voice(ray.get_actor(ear), who))


def hush_up() -> None:
    """Stop reporting, because this worker's current work is over."""
    before = listen(None)
    if isinstance(before, _Voice):
        before.end()


class _Voice:
    """Sends a worker's reports without waiting."""

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
