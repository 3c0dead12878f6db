import subprocess
import sys
from pathlib import Path


def test_every_tensor_is_where_it_belongs():
    """In a process of its own: autograd asks for the devices that there are at its first pass back, and never again."""
    checks = Path(__file__).with_name("placement.py")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(checks)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stdout[-3000:]
