"""What may happen to a sweep through real Ray: a worker, the driver, MLflow or the storage is lost, or SIGTERM."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient

from sweep.store.folder import SweepFolder
from tests.conftest import trials_of
from tests.services import A100, free_port, kill_group, kill_ray_node, mlflow_server, start_ray_node
from tests.swept import ROOT, command, run, tracking_in, write_space
from trainables.checkpoint import read_checkpoint
from trainables.trial import run_trial
from trainables.workbench import Workbench

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def process_tree(root: int) -> dict[int, list[str]]:
    """Words of the command line of every process under a process."""
    parents, words = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            stat, line = (place / "stat").read_text(), (place / "cmdline").read_text()
        except OSError:
            continue  # it ended meanwhile
        pid = int(place.name)
        parents[pid], words[pid] = int(stat.rpartition(")")[2].split()[1]), line.replace("\0", " ").split()

    def below(pid: int) -> bool:
        return pid == root or (pid in parents and below(parents[pid]))

    return {pid: line for pid, line in words.items() if below(pid)}


def kill_the_worker_of(folder: SweepFolder) -> None:
    """Kill the process that a trial's log names last, of the one that runs."""
    (trial,) = [trial for trial in folder.trials if trial.state == "running"]
    *_, worker = re.findall(r", process (\d+)$", trial.log_path.read_text(), re.MULTILINE)
    assert "Trainable" in Path(f"/proc/{worker}/cmdline").read_text()
    os.kill(int(worker), signal.SIGKILL)


def raylets_that_train(places: list[str]) -> list[int]:
    """The raylets of the nodes on which trials run, of nodes with directories of their own."""
    raylets = [pid for pid, line in process_tree(1).items() if line and line[0].endswith("/raylet")]
    ours = [pid for pid in raylets if any(place in str(process_tree(pid)[pid]) for place in places)]
    return [pid for pid in ours if any(line and "Trainable" in line[0] for line in process_tree(pid).values())]


def until(driver: subprocess.Popen, *events: str) -> None:
    """Read what a sweep prints until each event has come, in whichever order."""
    missing = set(events)
    while missing and (line := driver.stdout.readline()):
        missing -= {event for event in missing if event in line}
    assert not missing, driver.communicate()


def start(file: Path, storage: Path, *options: str) -> subprocess.Popen:
    words = command("run", file, "--storage", storage, *options)
    pipe = subprocess.PIPE
    return subprocess.Popen(words, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, env=os.environ)


def assert_as_without_ray(folder: SweepFolder, raw: dict[str, object]) -> None:
    """Each trial of a space is there once, with the biases of a trial that nothing happened to."""
    configs = trials_of(raw)
    assert sorted(trial.path.name for trial in folder.trials) == sorted(config.name for config in configs)
    bench = Workbench(configs[0].model, configs[0].corpus, "cpu")
    for config in configs:
        direct, ended = run_trial(bench, config), read_checkpoint(folder.trial(config).checkpoint_path)
        assert all(torch.equal(ended.biases[site], vector) for site, vector in direct.biases.items())
        steps = [metrics["step"] for metrics in direct.meta.history]
        for history in (ended.meta.history, folder.trial(config).progress):
            assert [metrics["step"] for metrics in history] == steps


def assert_once_in_mlflow(folder: SweepFolder, uri: str) -> None:
    """Each trial has one run, finished, with each validation once."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("spon-sweep").experiment_id])
    by_name = {run.info.run_name: run.info for run in runs}
    assert sorted(r.info.run_name for r in runs) == sorted([folder.name, *(trial.path.name for trial in folder.trials)])
    assert {info.status for info in by_name.values()} == {"FINISHED"}
    for trial in folder.trials:
        history = client.get_metric_history(by_name[trial.path.name].run_id, "seconds")
        assert sorted(metric.step for metric in history) == [metrics["step"] for metrics in trial.progress]


def assert_whole(tmp_path: Path, raw: dict[str, object]) -> None:
    """A sweep to which something happened ended as if nothing had, on disk and in the storage's MLflow."""
    folder = SweepFolder(tmp_path / "tiny")
    assert_as_without_ray(folder, raw)
    assert_once_in_mlflow(folder, f"sqlite:///{tmp_path / 'mlflow.db'}")


@contextmanager
def cluster(*workers: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A head and nodes of one CPU each, each with its own directory and environment: the address, the directories."""
    address = f"127.0.0.1:{free_port()}"
    head = ("--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false", "--num-cpus=0")
    worker = (f"--address={address}", "--num-cpus=1", A100)
    nodes = [(head, {}), *((worker, env) for env in workers)]
    places = [tempfile.mkdtemp(prefix="node") for _ in nodes]  # short: sockets are under them
    try:
        for place, (options, env) in zip(places, nodes, strict=True):
            agent = f"--dashboard-agent-listen-port={free_port()}"
            start_ray_node(place, env, *options, agent, "--object-store-memory=100000000")
        yield address, places
    finally:
        for place in reversed(places):
            kill_ray_node(place)


@pytest.fixture
def longer(tiny_space: dict[str, object]) -> dict[str, object]:
    """One trial after the other: TEAL alone, and one with time enough for something to happen to it."""
    training = tiny_space["training"] | {"epochs": 25}
    one_by_one = {"training": training, "resources": {"max_concurrent": 1}}
    return tiny_space | one_by_one | {"allocations": ["BASELINE-TEAL", "UNIF-ALL"]}


def test_a_worker_that_is_killed_is_replaced_and_ends_with_the_same_biases(
    longer: dict[str, object], tmp_path: Path
) -> None:
    driver = start(write_space(longer, tmp_path), tmp_path)
    until(driver, "step 20/100")
    folder = SweepFolder(tmp_path / "tiny")
    kill_the_worker_of(folder)
    out, _ = driver.communicate(timeout=120)
    assert driver.returncode == 0
    assert " step 4/" not in out  # it went on where it was
    logged = "".join(trial.log_path.read_text() for trial in folder.trials)
    assert out.count("  lost   ") == logged.count("  lost   ") == 1
    assert_as_without_ray(folder, longer)


def test_sigterm_stops_as_ctrl_c_does_and_resume_ends_with_the_same_biases(
    longer: dict[str, object], tmp_path: Path
) -> None:
    space = longer | {"allocations": ["UNIF-ALL", "ATTN-ONLY"]}  # the second one is made after the stop
    driver = start(write_space(space, tmp_path), tmp_path)
    until(driver, "step 20/100")
    driver.send_signal(signal.SIGTERM)
    out, _ = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "-m sweep resume tiny" in out
    ran = run("resume", "tiny", "--storage", tmp_path)
    assert ran.code == 0, ran.err
    assert " step 4/100" in ran.out.partition("ATTN-ONLY")[2]
    assert " step 4/100" not in ran.out.partition("ATTN-ONLY")[0]  # it went on where it was
    assert_as_without_ray(SweepFolder(tmp_path / "tiny"), space)


def cut(state: Path) -> None:
    tensors = state / "training.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])


def test_a_killed_driver_whose_last_state_is_gone_and_the_one_before_cut_loses_no_trial_and_repeats_none(
    longer: dict[str, object], tmp_path: Path
) -> None:
    driver = start(write_space(longer, tmp_path), tmp_path)
    until(driver, "step 20/100")
    driver.kill()
    driver.communicate()
    last, *before = sorted(tmp_path.glob("tiny/tune/grid.1/UNIF-ALL*/checkpoint_*"), reverse=True)
    shutil.rmtree(last)
    assert before
    for state in before:
        cut(state)
    for file in (tmp_path / "tiny" / "tune" / "grid.1").iterdir():
        if file.is_file():
            file.write_bytes(b"")  # as Ray leaves it when it is killed while it writes
    ran = run("resume", "tiny", "--storage", tmp_path)
    assert ran.code == 0, ran.err
    assert [line.split()[2].split("_")[0] for line in ran.out.splitlines() if "  start  " in line] == ["UNIF-ALL"]
    assert " step 4/" in ran.out  # it began anew
    assert_whole(tmp_path, longer)


def test_trials_spread_over_nodes_and_one_whose_node_is_lost_goes_on_on_the_other(
    longer: dict[str, object], tmp_path: Path
) -> None:
    resources = {"accelerator_type": "A100", "max_failures": 0}  # a lost node is no failure of a trial
    raw = longer | {"training": longer["training"] | {"epochs": 120}, "resources": resources}
    raw["allocations"] = ["UNIF-ALL", "ATTN-ONLY"]
    with cluster({}, {}) as (address, places):
        driver = start(write_space(raw, tmp_path), tmp_path, "--address", address)
        until(driver, *(f"{trial.name}  step 20/480" for trial in trials_of(raw)))
        lost, _ = raylets_that_train(places)
        for pid in process_tree(lost):
            os.kill(pid, signal.SIGKILL)
        out, err = driver.communicate(timeout=300)
    assert driver.returncode == 0, err
    assert "  start  " in out
    assert " step 4/" not in out  # it went on where it was
    assert_whole(tmp_path, raw)


def test_a_node_with_a_full_disk_is_taken_out_and_no_trial_fails_for_it(
    longer: dict[str, object], tmp_path: Path
) -> None:
    raw = longer | {"training": longer["training"] | {"epochs": 120}, "resources": {"accelerator_type": "A100"}}
    raw |= {"allocations": ["UNIF-ALL", "ATTN-ONLY", "TOP-50"], "seeds": [0, 1]}  # a bad node takes seconds to fail one
    no_directory = tmp_path / "file"
    no_directory.touch()
    with cluster({"SPON_CACHE": str(no_directory / "cache")}, {}) as (address, _):
        looked = run("doctor", "--address", address)
        ran = run("run", write_space(raw, tmp_path), "--storage", tmp_path, "--address", address)
    said = [line for line in looked.out.splitlines() if "  node " in line and "cache" in line]
    assert sorted(line.split()[0] for line in said) == ["FAULT", "ok", "ok"]
    assert ran.code == 0, ran.err
    assert ran.out.count("trials in a row failed on node") == 1
    assert "which is now excluded: the output directory must be writable, but Not a directory" in ran.out
    assert_whole(tmp_path, raw)


def test_an_mlflow_server_that_is_killed_stops_nothing_and_sync_sends_what_it_missed(
    longer: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # for a busy machine
    backend, port, artifacts = tracking_in(tmp_path, "server.db"), free_port(), tmp_path / "artifacts"
    artifacts.mkdir()
    uri = f"http://127.0.0.1:{port}"
    with mlflow_server(backend, artifacts, port) as server:
        driver = start(write_space(longer, tmp_path), tmp_path, "--mlflow-uri", uri)
        until(driver, "step 20/100")
        kill_group(server)
        out, err = driver.communicate(timeout=240)
    assert driver.returncode == 0, err
    assert out.count("MLflow does not answer; results are kept") == 2  # while it ran, and for the board
    with mlflow_server(backend, artifacts, port):
        assert run("sync", "tiny", "--storage", tmp_path, "--mlflow-uri", uri).code == 0
        assert_once_in_mlflow(SweepFolder(tmp_path / "tiny"), uri)
    assert_as_without_ray(SweepFolder(tmp_path / "tiny"), longer)


def test_a_storage_that_is_lost_is_one_line_and_resume_goes_on_when_it_is_back(
    longer: dict[str, object], tmp_path: Path
) -> None:
    trials, away = tmp_path / "tiny" / "trials", tmp_path / "away"
    driver = start(write_space(longer, tmp_path), tmp_path)
    until(driver, "step 20/100")
    trials.rename(away)
    trials.write_text("no directory, so that even root cannot write into it")
    out, err = driver.communicate(timeout=60)
    assert (driver.returncode, "Traceback" in out + err) == (2, False)
    reason = r"error: the output directory must be writable, but (Not a directory|No such file or directory)"
    assert re.match(reason, err.splitlines()[-1])
    trials.unlink()
    away.rename(trials)
    ran = run("resume", "tiny", "--storage", tmp_path)
    assert ran.code == 0, ran.err
    assert_whole(tmp_path, longer)
