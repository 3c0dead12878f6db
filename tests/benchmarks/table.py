"""Benchmarks print Markdown tables, ready for the README."""

from collections.abc import Sequence


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a title and a table."""
    lines = [head, ["---"] * len(head), *rows]
    print(f"\n{title}\n")
    print("\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines), flush=True)
