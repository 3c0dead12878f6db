"""Workers and their driver, through real Ray."""

import time
from collections.abc import Callable, Iterator

import pytest
import ray

from trainables.activity import Activity, tell
from trainables.listener import Heard, _Ear, hearing, hush_up, speak

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=100_000_000, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
def work(ear: str | None, who: str, what: str) -> str:
    speak(ear, who)
    tell(what, 1, 2, "step")
    hush_up()
    tell("more of it")  # nobody hears
    return "done"


@ray.remote(num_cpus=0)
class Resident:
    def work(self, ear: str, who: str, what: str) -> None:
        speak(ear, who)
        tell(what)


def until(ask: Callable[[], Heard | None], holds: Callable[[Heard], bool]) -> Heard:
    """What was heard once that holds, the news gathered; an ear may take long to start on a busy machine."""
    news: list[tuple[str, Activity]] = []
    for _ in range(1200):
        heard = ask()
        if heard is not None:
            news += heard.news
            if holds(gathered := Heard(heard.now, list(news))):
                return gathered
        time.sleep(0.05)
    raise AssertionError(f"heard {news} only")


def test_a_driver_hears_what_its_workers_do_and_not_what_is_over() -> None:
    with hearing("ear-1") as ask:
        ray.get([work.remote("ear-1", "a", "training"), work.remote("ear-1", "b", "validation")])
        heard = until(ask, lambda heard: len(heard.news) == 2 and not heard.now)
    assert sorted(who for who, _ in heard.news) == ["a", "b"]
    assert Activity("training", 1, 2, "step") in [activity for _, activity in heard.news]


def test_a_worker_that_goes_on_with_another_trial_is_heard_of_that_alone() -> None:
    with hearing("ear-2") as ask:
        worker = Resident.remote()
        ray.get(worker.work.remote("ear-2", "first", "loading"))
        ray.get(worker.work.remote("ear-2", "second", "training"))
        heard = until(ask, lambda heard: "second" in heard.now)
    assert heard.now == {"second": Activity("training")}


def test_two_sweeps_on_a_cluster_do_not_hear_each_other() -> None:
    with hearing("ear-3") as ask, hearing("ear-4") as other:
        ray.get(work.remote("ear-3", "a", "training"))
        until(ask, lambda heard: len(heard.news) == 1)
        assert until(other, lambda heard: True) == Heard()


@pytest.mark.parametrize("ear", [None, "no such ear"])
def test_nobody_need_listen(ear: str | None) -> None:
    assert ray.get(work.remote(ear, "a", "training")) == "done"


def test_an_ear_that_dies_takes_nobody_with_it() -> None:
    with hearing("ear-5") as ask:
        worker = Resident.remote()
        ray.get(worker.work.remote("ear-5", "a", "loading"))
        until(ask, lambda heard: "a" in heard.now)
        ray.kill(ray.get_actor("ear-5"))
        for number in range(5):
            ray.get(worker.work.remote("ear-5", "a", f"training {number}"))
        assert ask() is None


def test_an_ear_keeps_what_was_begun_until_it_is_asked() -> None:
    ear = _Ear()
    for activity in (Activity("loading"), Activity("training", 1), Activity("training", 2), None):
        ear.hear("a", activity)
    assert ear.heard() == Heard({}, [("a", Activity("loading")), ("a", Activity("training", 1))])
    assert ear.heard() == Heard({}, [])
