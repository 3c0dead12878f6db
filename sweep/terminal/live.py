"""The live display: a bar for the stage, a line for each worker and the best so far."""

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sweep.terminal.view import View

_BAR_WIDTH = 20


def rendered(view: View, most_workers: int) -> RenderableType:
    """Render a view for a terminal, with at most ``most_workers`` workers."""
    shown = view.workers[: max(1, most_workers)]
    more = len(view.workers) - len(shown)
    rows = [*shown, *([("", f"and {more} more")] if more else [])]
    return Group(_head(view), _grid(rows), *(Text(f"  best  {line}", "green", no_wrap=True) for line in view.best))


def _head(view: View) -> RenderableType:
    head = Table.grid(padding=(0, 2))
    bar = [ProgressBar(total=1.0, completed=view.share, width=_BAR_WIDTH)] if view.share is not None else []
    head.add_row(Text(f"{view.time:>6}"), *bar, Text(view.text, style="bold"), Text(view.left, style="cyan"))
    return head


def _grid(rows: Iterable[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2))
    for who, what in rows:
        grid.add_row(*(Text(text, no_wrap=True, overflow="ellipsis") for text in (f"        {who}", what)))
    return grid
