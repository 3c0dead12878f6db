"""A storage that is a bucket, on a server of S3's protocol."""

import json
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from socket import gethostname

import boto3
import pytest
from moto.s3.exceptions import S3ClientError
from moto.s3.models import FakeMultipart, S3Backend
from moto.server import ThreadedMotoServer

from search_spaces.errors import SponError
from search_spaces.load import parse_space
from sweep.status import as_lines, status_of
from sweep.store import storage
from sweep.store.folder import SweepFolder, began, check_sweep, create_sweep, open_sweep
from sweep.store.storage import (
    check_writable,
    drop_states,
    folders_in,
    home_of,
    mirrored,
    pull,
    root_of,
    states_in,
    sweeps_in,
)
from tests.sweep.test_faults import assert_as_without_ray, assert_once_in_mlflow, until
from tests.swept import ROOT, command, write_space


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Address of a server."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield "http://{}:{}".format(*moto.get_host_and_port())
    moto.stop()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """URI of a place in a bucket of the test's own, with what the environment must have to reach it."""
    given = {"AWS_ENDPOINT_URL": server, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    for key, value in {**given, "AWS_DEFAULT_REGION": "us-east-1", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(key, value)
    name = f"test-{abs(hash(request.node.name)):x}"
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}/results"


def keys(bucket: str) -> set[str]:
    """What is under the place, without Ray's own."""
    name, prefix = bucket.removeprefix("s3://").split("/")
    found = boto3.client("s3").list_objects_v2(Bucket=name, Prefix=prefix).get("Contents", [])
    names = {one["Key"].removeprefix(f"{prefix}/") for one in found if not one["Key"].endswith("/")}
    return {name for name in names if "/tune/" not in name}


@pytest.fixture
def homes(bucket: str, tmp_path: Path) -> tuple[Path, Path]:
    """The bucket's directory on two machines."""
    return home_of(bucket, tmp_path / "one"), home_of(bucket, tmp_path / "two")


@pytest.fixture
def folder(homes: tuple[Path, Path], tiny_raw: dict[str, object]) -> SweepFolder:
    """A sweep on the first machine."""
    return create_sweep(homes[0], parse_space(tiny_raw, "test"))


def test_a_directory_is_its_own_home(tmp_path: Path) -> None:
    assert home_of(str(tmp_path)) == tmp_path
    assert root_of(tmp_path) == str(tmp_path)


def test_each_bucket_has_a_home_of_its_own(tmp_path: Path) -> None:
    homes = {home_of(uri, tmp_path) for uri in ("s3://a/x", "s3://a/y", "gs://a/x", "s3://a/x/")}
    assert len(homes) == 3
    assert {root_of(home) for home in homes} == {"s3://a/x", "s3://a/y", "gs://a/x"}


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3:///x", "s3://bucket?endpoint_override=here"])
def test_what_is_no_bucket_is_refused_with_what_may_be_given(tmp_path: Path, uri: str) -> None:
    with pytest.raises(SponError, match=r"a storage must be a directory, s3://BUCKET/PREFIX .* but got "):
        home_of(uri, tmp_path)


def test_a_bucket_that_cannot_be_written_is_one_line(bucket: str, tmp_path: Path) -> None:
    check_writable(home_of(bucket, tmp_path))
    assert not keys(bucket)
    with pytest.raises(SponError, match=r"the bucket must answer, but .*nosuch"):
        check_writable(home_of("s3://nosuch/x", tmp_path))
    with pytest.raises(SponError, match=r"a sweep must exist in s3://.*/results, but 'other' does not"):
        open_sweep(home_of(bucket, tmp_path), "other")


def test_a_bucket_that_takes_only_empty_files_is_found_before_anything_starts(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a server does that does not know the checksums which clients send by default."""
    set_part = FakeMultipart.set_part

    def take(self: FakeMultipart, part_id: int, value: bytes) -> object:
        if value:
            raise S3ClientError("NotImplemented", "aws-chunked is not supported")
        return set_part(self, part_id, value)

    monkeypatch.setattr(FakeMultipart, "set_part", take)
    with pytest.raises(SponError, match=r"the bucket must answer, but .*aws-chunked is not supported"):
        check_writable(home_of(bucket, tmp_path))


def test_a_sweep_goes_on_on_another_machine_from_the_bucket_alone(
    bucket: str, homes: tuple[Path, Path], folder: SweepFolder
) -> None:
    identity = folder.id
    with mirrored(folder.path):
        (folder.path / "trials" / "t").mkdir(parents=True)
        (folder.path / "trials" / "t" / "failure.txt").write_text("why")
        with sqlite3.connect(homes[0] / "mlflow.db") as database:
            database.execute("create table runs (name text)")
    assert {"tiny/space.json", "tiny/id", "tiny/trials/t/failure.txt", "mlflow.db"} <= keys(bucket)
    assert not {key for key in keys(bucket) if "driver" in key or "activity" in key}
    assert sweeps_in(homes[1]) == ["tiny"]
    there = open_sweep(homes[1], "tiny")
    assert (there.id, there.space) == (identity, folder.space)
    assert (there.path / "trials" / "t" / "failure.txt").read_text() == "why"
    with sqlite3.connect(homes[1] / "mlflow.db") as database:
        assert not database.execute("select * from runs").fetchall()
    with mirrored(there.path):
        (there.path / "trials" / "t" / "failure.txt").unlink()
    assert "tiny/trials/t/failure.txt" not in keys(bucket)
    began(homes[0], "tiny")
    assert not (folder.path / "trials" / "t" / "failure.txt").exists()


def test_who_wrote_last_copies_nothing_back(homes: tuple[Path, Path], folder: SweepFolder) -> None:
    with mirrored(folder.path):
        pass
    (folder.path / "board.txt").write_text("not in the bucket yet")
    pull(homes[0], "tiny")
    assert (folder.path / "board.txt").exists()


def test_files_that_say_that_others_are_there_come_after_them(
    homes: tuple[Path, Path], folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[str] = []
    monkeypatch.setattr(storage, "_write", lambda files, path, content: written.append(path.rpartition("/")[2]))
    place = folder.path / "trials" / "t" / "checkpoint"
    place.mkdir(parents=True)
    for name in ("meta.json", "spon.safetensors", "test.json", "test.safetensors"):
        (place / name).write_text("")
    with mirrored(folder.path):
        pass
    assert written[-4:] == ["test.json", "meta.json", "mirror.json", "mirror.json"]  # it is copied at the end again


def test_a_second_machine_is_told_who_drives_until_its_lease_is_over(
    homes: tuple[Path, Path], folder: SweepFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with mirrored(folder.path):
        storage._Mirror(folder.path).push()  # as every 20 s
        other = open_sweep(homes[1], "tiny")
        said = rf"another driver holds this sweep: .*{homes[0]} wrote to the bucket \d+ s ago"
        with pytest.raises(SponError, match=said), mirrored(other.path):
            raise AssertionError
        with pytest.raises(SponError, match=said):  # before it starts Ray
            check_sweep(homes[1], folder.space)
        assert f"driver: {gethostname()}:{homes[0]}, which writes to the bucket" in as_lines(status_of(other))
        (folder.path / "board.txt").write_text("news")
        storage._Mirror(folder.path).push()
        assert (open_sweep(homes[1], "tiny").path / "board.txt").read_text() == "news"
        monkeypatch.setattr(storage, "_LEASE_SECONDS", 0.0)
        with mirrored(other.path):
            pass


def test_a_bucket_that_is_away_stops_nothing_and_gets_all_later(
    bucket: str, folder: SweepFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def away(*arguments: object) -> None:
        raise OSError("the network is down")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "_write", away)
        with mirrored(folder.path):
            pass
    assert "not all results are in the bucket; all are kept in" in capsys.readouterr().out
    with mirrored(folder.path):
        pass
    assert "tiny/space.json" in keys(bucket)


@pytest.mark.parametrize("use", [states_in, folders_in, partial(drop_states, trials={"a"})])
def test_states_in_a_bucket_that_is_away_are_one_line(
    bucket: str, monkeypatch: pytest.MonkeyPatch, use: Callable[[str], object]
) -> None:
    def away(*given: object, **named: object) -> None:
        raise S3ClientError("AccessDenied", "not today")

    monkeypatch.setattr(S3Backend, "list_objects_v2", away)
    with pytest.raises(SponError, match=rf"the bucket must answer, but .*not today.* \(at {bucket}/tiny/tune\)"):
        use(f"{bucket}/tiny/tune")


def test_states_are_found_under_every_driver_the_newest_first_and_dropped_without_the_logs(tmp_path: Path) -> None:
    tune = tmp_path / "tiny" / "tune"
    newest_first = ("grid.10/a/checkpoint_000000", "grid.2/a/checkpoint_000001", "grid.1/a/checkpoint_000009")
    for place in ("grid.2/b", *newest_first):
        (tune / place).mkdir(parents=True)
        (tune / place / "history.json").touch()
    assert states_in(str(tune)) == {"a": [f"{tune}/{place}" for place in newest_first]}
    (tune / "grid.2/c/checkpoint_000000").mkdir(parents=True)
    (tune / "grid.2/c/checkpoint_000000/history.json").touch()
    drop_states(str(tune), {"a", "b"})
    assert set(states_in(str(tune))) == {"c"}
    assert (tune / "grid.2/b/history.json").exists()
    assert sorted(folders_in(str(tune))) == ["grid.1", "grid.10", "grid.2"]


def test_a_sweep_that_has_not_begun_has_no_states(tmp_path: Path) -> None:
    assert states_in(str(tmp_path / "tune")) == {}
    assert folders_in(str(tmp_path / "tune")) == []


@pytest.mark.slow
@pytest.mark.ray
def test_a_sweep_whose_head_is_lost_is_ended_by_another_from_the_bucket_alone(
    bucket: str, tmp_path: Path, tiny_raw: dict[str, object]
) -> None:
    raw = tiny_raw | {"training": {**tiny_raw["training"], "epochs": 25}}
    space, environment = write_space(raw, tmp_path), os.environ | {"PYTHONPATH": str(ROOT)}
    for place in ("first", "second"):
        (tmp_path / place).mkdir()
    run = partial(subprocess.Popen, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True)
    head = run(command("run", space, "--storage", bucket), cwd=tmp_path / "first")
    until(head, "step 20/100")
    head.kill()
    head.communicate()
    assert not list((tmp_path / "first").glob("runs/*/tiny/tune"))
    shutil.rmtree(tmp_path / "first")
    client, (name, prefix) = boto3.client("s3"), bucket.removeprefix("s3://").split("/")
    note = json.loads(client.get_object(Bucket=name, Key=f"{prefix}/tiny/mirror.json")["Body"].read())
    client.put_object(Bucket=name, Key=f"{prefix}/tiny/mirror.json", Body=json.dumps(note | {"at": 0}))  # long ago
    other = run(command("resume", "tiny", "--storage", bucket), cwd=tmp_path / "second")
    out, err = other.communicate(timeout=120)
    assert other.returncode == 0, err
    assert " step 4/" not in out  # it went on where it was
    (home,) = (tmp_path / "second" / "runs").iterdir()
    assert_as_without_ray(SweepFolder(home / "tiny"), raw)
    assert_once_in_mlflow(SweepFolder(home / "tiny"), f"sqlite:///{home / 'mlflow.db'}")
    assert "tiny/board.txt" in keys(bucket)
    assert f"-m analysis interpret --sweep tiny --storage {home.relative_to(tmp_path / 'second')} " in out
