"""The log of every mask that a search scored on its proxy, one line per rung, beside the sampler's own journal."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from search_spaces.trial import TrialConfig


class MaskRecord(NamedTuple):
    """A mask on one rung.

    Attributes:
        trial: the trial that would train the mask for real.
        blocks: validation blocks that it was scored on.
        kl_nats, nll_nats: means per token, on the proxy.
        block_kl_nats: mean KL of each block, in nats per token.
        seconds: time to score it.
    """

    trial: TrialConfig
    blocks: int
    kl_nats: float
    nll_nats: float
    block_kl_nats: tuple[float, ...]
    seconds: float


class MaskLog:
    """The lines of ``masks.jsonl``, including those that other objects and processes add.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._records: dict[tuple[str, int], MaskRecord] = {}
        self._read = 0

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_records": {}, "_read": 0}

    @property
    def records(self) -> Mapping[tuple[str, int], MaskRecord]:
        """Records by identity of the trial and number of blocks, in order of arrival."""
        if self.path.exists() and self.path.stat().st_size > self._read:
            with self.path.open("rb") as file:
                file.seek(self._read)
                for line in file:
                    self._read += len(line)
                    self._take(line)
        return self._records

    def _take(self, line: bytes) -> None:
        try:
            raw = json.loads(line)
        except json.JSONDecodeError:  # the writer was killed halfway: the mask is scored again
            return
        raw |= {"trial": TrialConfig.model_validate(raw["trial"]), "block_kl_nats": tuple(raw["block_kl_nats"])}
        record = MaskRecord(**raw)
        self._records.setdefault((record.trial.identity, record.blocks), record)

    def add(self, record: MaskRecord) -> None:
        """Record a score, unless it is known already."""
        if (record.trial.identity, record.blocks) in self.records:
            return
        line = json.dumps(record._asdict() | {"trial": record.trial.model_dump(mode="json")}) + "\n"
        with self.path.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # an earlier writer was killed halfway
                    file.write(b"\n")
            file.write(line.encode())

    def on(self, blocks: int) -> list[MaskRecord]:
        """The masks that were scored on this many blocks, in order of arrival."""
        return [record for (_, n_blocks), record in self.records.items() if n_blocks == blocks]
