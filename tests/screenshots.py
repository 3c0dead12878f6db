"""Pictures of the docs, from a real sweep, browser and terminal: ``python -m tests.screenshots``, run by hand.

It runs a small ``search_spaces/embedded.yaml`` in a terminal of its own, opens MLflow's comparison of its trials and
the report of an analysis of ``demo`` in Chromium, and writes docs/terminal.svg, docs/compare.webp and docs/report.webp.
What the storage has already is not run again. The terminal's picture wants a sweep that has not begun there.

It wants two things that nothing else here does, and which no requirements file pins: Chromium, from the system
(``apt-get install chromium``), and ``pip install playwright``, which drives it.
"""

import argparse
import fcntl
import io
import json
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import mlflow
from PIL import Image
from playwright.sync_api import Page, sync_playwright
from rich.console import Console
from rich.text import Text

from tests.services import free_port, mlflow_server

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NAME = "embedded-small"
SMALL = ("--set", f"name={NAME}", "--set", "corpus.blocks={calibration: 32, validation: 8, test: 12}")
MOST_BYTES = 150_000
COLUMNS, ROWS = 112, 26
ONLY = ("--only", "perplexity,shift,where,moments,norms")  # minutes, of 210 biases
WIDTH, HEIGHT = 1200, 760
_PIECE = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


class Screen(NamedTuple):
    """What a terminal showed at a moment: its lines, and how many of them are live."""

    lines: list[str]
    live: int


def screens(output: str) -> Iterator[Screen]:
    """What a terminal showed before each time that a live display went up to draw itself anew."""
    lines, row = [""], 0
    for piece in re.finditer(r"\r\x1b\[2K(?:\x1b\[1A\x1b\[2K)*|" + _PIECE.pattern, output):
        text = piece[0]
        if text.startswith("\r\x1b[2K"):
            live = 1 + text.count("\x1b[1A")
            yield Screen(lines[: row + 1], live)
            lines, row = [*lines[: row + 1 - live], ""], row + 1 - live
        elif text == "\n":
            lines, row = [*lines, ""], row + 1
        elif piece[2] == "m" or piece[4]:
            lines[row] += text


def terminal(storage: Path) -> None:
    """Run the sweep in a terminal, and draw the fullest of what it showed, in the middle of its time."""
    command = ["-m", "sweep", "run", "search_spaces/embedded.yaml", *SMALL]
    kept = storage / f"{NAME}.ansi"
    if not kept.exists():
        output = _in_terminal([sys.executable, *command, "--storage", str(storage)])
        kept.write_text(output, newline="")
    shown = list(screens(kept.read_bytes().decode()))
    fullest = max(screen.live for screen in shown)
    full = [screen for screen in shown if screen.live == fullest]
    lines = full[len(full) // 2].lines[-ROWS:]
    console = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"), force_terminal=True)  # noqa: SIM115
    for line in (*lines, ""):
        console.print(Text.from_ansi(line), no_wrap=True, crop=True)
    picture = console.export_svg(title=shlex.join(("python", *command)))
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)  # the docs fetch nothing
    _written(DOCS / "terminal.svg", picture.encode())


def _in_terminal(command: list[str]) -> str:
    """Everything that a command writes to a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    environment = os.environ | {"TERM": "xterm-256color"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    output = b""
    while True:
        try:
            output += os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
    if process.wait():
        sys.exit(f"the sweep failed:\n{output.decode()[-2000:]}")
    return output.decode()


def compare(page: Page, storage: Path) -> None:
    """MLflow's comparison of the trials, with parallel coordinates."""
    database = f"sqlite:///{storage / 'mlflow.db'}"
    client = mlflow.MlflowClient(database)
    experiment = client.get_experiment_by_name("spon-sweep").experiment_id
    (parent, *_) = client.search_runs([experiment], f"attributes.run_name = '{NAME}'")
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    ids = quote(json.dumps([run.info.run_id for run in runs]))
    port = free_port()
    with mlflow_server(database, storage, port):
        page.goto(f"http://127.0.0.1:{port}/#/compare-runs?runs={ids}&experiments={quote(json.dumps([experiment]))}")
        page.get_by_role("button", name="Model training").click()
        page.get_by_role("button", name="Toggle sidebar").click()
        page.get_by_role("button", name="Close").click()
        page.get_by_role("button", name="Clear All").click()
        for box, names in enumerate((("sparsity", "allocation", "n_spon_params"), ("val_kl_nats", "test_ppl"))):
            for name in names:
                page.get_by_role("combobox").nth(box).click()
                page.keyboard.type(name)
                page.get_by_role("option", name=name, exact=True).first.wait_for(state="attached")
                page.keyboard.press("Enter")
                page.keyboard.press("Escape")
        page.wait_for_timeout(2000)  # the plot is drawn
        _shoot(page, "compare", 610)


def report(page: Page, storage: Path) -> None:
    """The first page of the report of the demo's best trial."""
    for command in (("sweep", "run", "search_spaces/demo.yaml"), ("analysis", "interpret", "--sweep", "demo", *ONLY)):
        subprocess.run([sys.executable, "-m", *command, "--storage", str(storage)], cwd=ROOT, check=True)
    page.goto((storage / "demo/analysis/report.html").as_uri())
    page.wait_for_timeout(1000)
    _shoot(page, "report", HEIGHT)


def _shoot(page: Page, name: str, height: int) -> None:
    """Write the upper part of what the browser shows."""
    shot = page.screenshot(clip={"x": 0, "y": 0, "width": WIDTH, "height": height})
    with Image.open(io.BytesIO(shot)) as image:
        image.save(DOCS / f"{name}.webp", lossless=True, quality=100, method=6)
    _written(DOCS / f"{name}.webp")


def _written(file: Path, content: bytes | None = None) -> None:
    if content is not None:
        file.write_bytes(content)
    size = file.stat().st_size
    print(f"{file.relative_to(ROOT)}: {size:,} bytes")
    if size > MOST_BYTES:
        sys.exit(f"{file.name} must be {MOST_BYTES:,} bytes at most")


def main() -> None:
    """Make the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pictures", nargs="*", default=["terminal", "compare", "report"])
    parser.add_argument("--storage", type=Path, default=ROOT / "runs")
    arguments = parser.parse_args()
    storage = arguments.storage.resolve()
    if "terminal" in arguments.pictures:
        terminal(storage)
    with sync_playwright() as browsers:
        chromium = shutil.which("chromium") or shutil.which("google-chrome")
        browser = browsers.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, draw in {"compare": compare, "report": report}.items():
            if name in arguments.pictures:
                draw(browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}), storage)
        browser.close()


if __name__ == "__main__":
    main()
