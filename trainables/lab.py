"""A few lines of Python, without Ray: open a space, train an allocation, take its biases, evaluate it.

lab = Lab("search_spaces/embedded.yaml", "training.epochs=2")
early = lab.train({"name": "early", "layers": [0, 1, 2], "modules": ["down_proj"]}, sparsity=0.5)
early.biases  # {Site(layer=0, module="down_proj"): (width,), ...}
lab.test(early).meta.metrics["test_ppl"]
"""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from search_spaces.config import SpaceConfig
from search_spaces.load import load_space
from search_spaces.resolve import resolve_space
from trainables.activity import listening, printer
from trainables.checkpoint import Checkpoint
from trainables.model.dtype import with_dtype
from trainables.trial import report_test, run_trial
from trainables.workbench import Workbench


class Lab:
    """The model and text of a space, loaded once, on first use, for trials that are started by hand.

    Progress is printed to standard error, a line every few seconds.

    Args:
        space: YAML file; its own allocations, sparsities and seeds are ignored.
        *overrides: ``dotted.key=value`` pairs, as after ``--set``.

    Raises:
        SponError: if the file or an override is wrong.
    """

    def __init__(self, space: Path | str, *overrides: str) -> None:
        self._file, self._overrides = Path(space), overrides
        self._space = self._with()

    def train(self, allocation: str | Mapping[str, object], sparsity: float) -> Checkpoint:
        """Train one allocation and score it on the validation split.

        Args:
            allocation: a name, such as ``TOP-50``, or a mask of your own, as in a space.
            sparsity: fraction of the input entries of each site of the plan to zero, in [0, 1).

        Raises:
            SponError: if an argument is wrong, the model or text is not available, or training diverges.
        """
        entry = allocation if isinstance(allocation, str) else dict(allocation)
        space = self._with(f"allocations={json.dumps([entry])}", f"sparsity={json.dumps([sparsity])}")
        materials = self.bench.materials
        with listening(printer()):
            return run_trial(self.bench, resolve_space(space, materials.shape, materials.fingerprints)[0])

    def test(self, checkpoint: Checkpoint) -> Checkpoint:
        """Add the scores of the test split, which is for chosen checkpoints, and opened only for this.

        Raises:
            SponError: if the checkpoint is of another model or text.
        """
        bench = self._workbench(open_test=True)
        with listening(printer()):
            return report_test(bench, checkpoint)

    @cached_property
    def bench(self) -> Workbench:
        """Model and text, with the test split closed."""
        return self._workbench(open_test=False)

    def _workbench(self, open_test: bool) -> Workbench:
        with listening(printer()):
            return Workbench(self._space.model, self._space.corpus, self._space.resources.device, open_test)

    def _with(self, *more: str) -> SpaceConfig:
        return with_dtype(load_space(self._file, [*self._overrides, *more]))[0]
