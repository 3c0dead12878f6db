from pathlib import Path


def publish(directory: Path) -> Path:
    return directory / "report.html"
