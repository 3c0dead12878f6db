"""One real sweep, examined once, that many tests look at."""

import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from tests.sweep.conftest import Ran, Swept, run, swept

__all__ = ["swept"]


@dataclass(frozen=True)
class Interpreted:
    """What ``analysis interpret`` did with a sweep."""

    swept: Swept
    prompts: Path
    ran: Ran

    @property
    def out(self) -> Path:
        return self.swept.folder.path / "analysis"

    def again(self, *arguments: object) -> Ran:
        return run(
            "interpret", *arguments, "--storage", self.swept.storage, "--prompts", self.prompts, module="analysis"
        )


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts that the word tokenizer of the tiny model knows."""
    draw = random.Random(1)
    file = tmp_path_factory.mktemp("prompts") / "prompts.yaml"
    lengths = range(5, 11)
    prompts = {kind: [" ".join(f"w{draw.randrange(64)}" for _ in range(n)) for n in lengths] for kind in ("one", "two")}
    file.write_text(yaml.safe_dump(prompts))
    return file


@pytest.fixture(scope="session")
def interpreted(swept: Swept, prompts_file: Path) -> Interpreted:
    """The best two trials of each plan."""
    arguments = ("interpret", "--sweep", "tiny", "--top", 2, "--storage", swept.storage, "--prompts", prompts_file)
    return Interpreted(swept, prompts_file, run(*arguments, module="analysis"))
