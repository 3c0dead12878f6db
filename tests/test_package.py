"""The wheel: what others install has all that the commands read, from any directory."""

import os
import re
import subprocess
import sys
import zipfile
from importlib import import_module
from pathlib import Path

import pytest
from docker.utils.build import exclude_paths

from search_spaces import __version__
from search_spaces.load import load_space

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked wheel of the files that are here; built elsewhere, as building leaves files behind."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True)
    archive = subprocess.run(
        ["tar", "cf", "-", "-T", "-"], cwd=ROOT, input=files.stdout, capture_output=True, check=True
    )
    subprocess.run(["tar", "xf", "-", "-C", source], input=archive.stdout, check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", wheels, source]
    subprocess.run(build, check=True)
    (wheel,) = wheels.glob("spon_sweep-*.whl")
    with zipfile.ZipFile(wheel) as packed:
        packed.extractall(wheels / "site")
    return wheels / "site"


def run(installed: Path, cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, "-P", "-m", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_every_file_that_the_code_reads_is_in_the_wheel(installed: Path) -> None:
    rooms = ("search_spaces", "trainables", "sweep", "analysis")
    here = {file.relative_to(ROOT) for room in rooms for file in (ROOT / room).rglob("*") if file.is_file()}
    packed = {file.relative_to(installed) for file in installed.rglob("*") if file.is_file()}
    assert {file for file in here if "__pycache__" not in file.parts} <= packed
    assert not any(file.parts[0] == "tests" for file in packed)


def test_its_requirements_are_those_of_running_it(installed: Path) -> None:
    (metadata,) = installed.glob("*.dist-info/METADATA")
    needed = [line for line in metadata.read_text().splitlines() if line.startswith("Requires-Dist:")]
    always = [line for line in needed if "extra ==" not in line]
    assert any("torch==" in line for line in always)
    assert not any(tool in line for line in always for tool in ("pytest", "ruff", "mypy"))
    for package, extra in (
        ("lm-eval", "evaluate"),
        ("psycopg", "postgres"),
        ("ray[default]", "cluster"),
        ("mypy", "dev"),
    ):
        assert any(package in line and f'extra == "{extra}"' in line for line in needed), extra


def test_its_commands_are_functions_of_the_code(installed: Path) -> None:
    (file,) = installed.glob("*.dist-info/entry_points.txt")
    scripts = re.findall(r"^(\S+) = (\S+):(\S+)$", file.read_text(), re.MULTILINE)
    assert {name for name, _, _ in scripts} == {"spon-sweep", "spon-analysis"}
    assert all(callable(getattr(import_module(module), function)) for _, module, function in scripts)


def test_the_lock_has_every_pin_and_no_address() -> None:
    lock = (ROOT / "requirements.lock").read_text()
    files = [file.read_text() for file in ROOT.glob("requirements*.txt")]
    pins = [pin for text in files for pin in re.findall(r"^([\w-]+)(?:\[\w+\])?(==\S+)", text, re.MULTILINE)]
    assert len(pins) > 30
    assert [pin for pin in pins if f"\n{''.join(pin).lower()}\n" not in lock] == []
    assert "://" not in lock


@pytest.mark.parametrize(("room", "command"), [("sweep", "status"), ("analysis", "interpret")])
def test_the_usage_line_is_of_the_command_that_was_typed(
    installed: Path, tmp_path: Path, room: str, command: str
) -> None:
    script = tmp_path / f"spon-{room}"
    script.write_text(f"import sys\nfrom {room}.cli import main\nsys.exit(main())\n")  # as pip writes it
    environment = os.environ | {"PYTHONPATH": str(installed)}
    typed = [sys.executable, "-P", script, command]
    wrong = subprocess.run(typed, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert wrong.stderr.startswith(f"usage: spon-{room} {command} ")
    assert run(installed, tmp_path, room, command).stderr.startswith(f"usage: python -m {room} {command} ")


def completed(script: str, program: str, *typed: str, cwd: Path | None = None) -> set[str]:
    """What bash offers for the last word of a line."""
    line = " ".join((program, *(f"'{word}'" for word in typed)))
    function = f"_shtab_{program.replace('-', '_')}"
    ask = f"COMP_WORDS=({line}); COMP_CWORD={len(typed)}; {function} x '{typed[-1]}' y; echo ${{COMPREPLY[@]}}"
    command = ["bash", "-c", f"{script}\n{ask}"]
    asked = subprocess.run(command, capture_output=True, text=True, check=True, cwd=cwd)
    return set(asked.stdout.split())


def test_a_shell_completes_commands_options_values_and_files(installed: Path, tmp_path: Path) -> None:
    script = run(installed, tmp_path, "sweep", "completion", "bash").stdout
    assert {"run", "resume", "completion"} <= completed(script, "spon-sweep", "")
    assert completed(script, "spon-sweep", "se") == {"search"}
    assert completed(script, "spon-sweep", "search", "--q") == {"--quick"}
    assert completed(script, "spon-sweep", "board", "--split", "") >= {"validation", "test"}
    (tmp_path / "mine.yaml").touch()
    assert completed(script, "spon-sweep", "run", "mi", cwd=tmp_path) == {"mine.yaml"}
    analysis = run(installed, tmp_path, "analysis", "completion", "bash").stdout
    assert completed(analysis, "spon-analysis", "interpret", "--sp") == {"--split"}


def test_a_shipped_space_goes_by_its_name_from_any_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_space(Path("embedded")).name == "embedded"
    assert load_space(Path("search_spaces/embedded-levels.yaml")).name == "embedded-levels"
    (tmp_path / "embedded.yaml").write_text("{name: mine, sparsity: [0.5], allocations: [UNIF-ALL]}")
    assert load_space(Path("embedded.yaml")).name == "mine"


def test_the_citation_is_of_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text()


@pytest.fixture(scope="module")
def dockerfile() -> list[tuple[str, list[str]]]:
    """The instructions of the image: a name, and its words."""
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE))
    return [(name, words.split()) for name, words in re.findall(r"^([A-Z]+) (.+)$", text, re.MULTILINE)]


def test_the_image_is_of_the_pinned_ray_and_python(dockerfile: list[tuple[str, list[str]]]) -> None:
    (ray,) = re.findall(r"^ray\[tune\]==(\S+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    (python,) = re.findall(r'^requires-python = ">=(\S+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    bases = [words[0] for name, words in dockerfile if name == "FROM"]
    assert bases == [f"python:{python}-slim", f"rayproject/ray:{ray}-py{python.replace('.', '')}"]


def test_what_the_image_copies_is_there_and_is_all_of_the_wheel(
    installed: Path, dockerfile: list[tuple[str, list[str]]]
) -> None:
    ignored = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    context = {Path(file) for file in exclude_paths(str(ROOT), ignored)}
    copied = [ROOT / word for name, words in dockerfile if name == "COPY" for word in words[:-1]]
    found = {file.relative_to(ROOT) for path in copied for file in ROOT.glob(str(path.relative_to(ROOT)))}
    assert all(list(ROOT.glob(str(path.relative_to(ROOT)))) for path in copied)
    assert found <= context
    packed = {file.relative_to(installed) for file in installed.rglob("*") if file.is_file()}
    code = {file for file in packed if not file.parts[0].endswith(".dist-info")}
    assert code <= context
    assert {file.parts[0] for file in code} <= {path.name for path in copied}
    assert not {"tests", "runs", ".git", ".venv", "docs"} & {file.parts[0] for file in context}


def test_the_image_installs_what_running_needs_and_its_user_is_not_root(
    dockerfile: list[tuple[str, list[str]]],
) -> None:
    last = dockerfile[max(place for place, (name, _) in enumerate(dockerfile) if name == "FROM") :]
    installs = [words for name, words in last if name == "RUN" and "install" in words and "pip" in words]
    files = {Path(word).name for words in installs for word in words if word.endswith((".txt", ".lock"))}
    assert files == {"requirements.txt", "requirements-cluster.txt", "requirements.lock"}
    assert all("--no-cache-dir" in words for name, words in dockerfile if name == "RUN" and "pip" in words)
    assert [words for name, words in last if name == "USER"][-1] == ["1000"]
