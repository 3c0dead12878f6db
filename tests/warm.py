"""Commands in processes of their own that have their libraries already: forked from one that has imported them.

Most of what a command, or a worker of its Ray, takes on the tiny model is the import of torch, transformers, Ray and
MLflow. ``command_of`` stands for ``python -m MODULE ...``: a small process that has a server fork the real one, lends
it its standard streams, passes signals on, and ends with its status. Both have the same lifetime: when the small one is
killed, so is the other. The workers of a Ray that such a command starts come in the same way.

Not for what looks at how a process starts: what a library prints when it is imported is not seen.
"""

import atexit
import contextlib
import json
import os
import select
import signal
import socket
import struct
import sys

ADDRESS = "SPON_WARM"
"""Variable of the environment that has the server's address."""
_AT = "--at="
_PYTHON, _CONTEXT = "--language=PYTHON", "--serialized-runtime-env-context="
"""Words of a worker of Ray that are for what starts it."""
_STATUS = struct.Struct("i")
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
_ROOM = 200
"""Letters of the server's command line, so that Ray can write longer titles over it."""
_PRELOADED = (
    "analysis.examine",
    "sweep.views.render",
    "trainables.trial",
    "trainables.workbench",
    "transformers.models.llama.modeling_llama",
    "transformers.models.auto.tokenization_auto",
    "pandas",
    "pyarrow.fs",
    "mlflow.store.tracking.sqlalchemy_store",
    "optuna",
    "matplotlib.pyplot",
)


# The small process: imports nothing that takes time


def stand_for(words: list[str]) -> int:
    """Have a process forked that runs some words after ``python``, and be it for whoever started this one."""
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ[ADDRESS])
        order = json.dumps({"words": words, "cwd": os.getcwd(), "env": dict(os.environ)}).encode()
        socket.send_fds(server, [struct.pack("I", len(order))], [0, 1, 2])
        server.sendall(order)
        signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED)
        (pid,) = _STATUS.unpack(_exactly(server, _STATUS.size))
        for number in _FORWARDED:
            signal.signal(number, lambda got, _: _signalled(pid, got))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _FORWARDED)
        (status,) = _STATUS.unpack(_exactly(server, _STATUS.size))
    if status < 0:
        if -status in _FORWARDED:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _signalled(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        os.kill(pid, number)


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        if not (more := connection.recv(size - len(data))):
            sys.exit("the server of processes has gone")
        data += more
    return data


# The server


def serve(listener: socket.socket) -> None:
    """Fork a process for each order until whoever started this one, who holds the other end of stdin, has ended.

    The libraries are imported at the first order.
    """
    ready, _, _ = select.select([listener, 0], [], [])
    if 0 in ready:
        return
    from importlib import import_module

    from trainables.quiet import hush

    hush()
    for name in _PRELOADED:
        import_module(name)
    import gc

    assert "ray" not in sys.modules  # its core does not outlive a fork
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
    while True:
        ready, _, _ = select.select([listener, 0], [], [])
        if 0 in ready:
            return
        connection, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            _keep(connection)
        connection.close()


def _keep(connection: socket.socket) -> None:
    """Fork the process of an order, and see to it that it ends with whoever ordered it."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(connection, 4, 3)
    (size,) = struct.unpack("I", head)
    order = json.loads(_exactly(connection, size))
    pid = os.fork()
    if pid == 0:
        connection.close()
        _become(order, streams)
    for stream in streams:
        os.close(stream)
    try:
        with contextlib.suppress(OSError):
            connection.sendall(_STATUS.pack(pid))
        ended = os.pidfd_open(pid)
        ready, _, _ = select.select([connection, ended], [], [])
        if ended not in ready:
            os.kill(pid, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with contextlib.suppress(OSError):  # nobody is there any more
            connection.sendall(_STATUS.pack(status))
    finally:
        os._exit(0)


def _become(order: dict, streams: list[int]) -> None:
    """Be the process, with everything as ``python`` would have set it, and end."""
    import threading
    import traceback

    code = 1
    try:
        for target, stream in enumerate(streams):
            os.dup2(stream, target)
            os.close(stream)
        sys.stdin, sys.stdout, sys.stderr = (open(number, mode, closefd=False) for number, mode in enumerate("rww"))  # noqa: SIM115
        sys.stderr.reconfigure(line_buffering=True)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        os.chdir(order["cwd"])
        os.environ.clear()
        os.environ.update(order["env"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _run(order["words"])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            threading._shutdown()
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)


def _run(words: list[str]) -> None:
    import runpy

    sys.orig_argv = [sys.executable, *words]
    if words[0] == "-m":
        sys.argv = words[1:]
        sys.path[:1] = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        if words[2:3] not in (["board"], ["status"]):  # these need no Ray
            import ray._private.ray_constants as constants

            constants.SETUP_WORKER_FILENAME = os.path.abspath(__file__)  # of the Ray that a command starts
        runpy._run_module_as_main(words[1])
        return
    from ray._private.utils import update_envs

    update_envs(_context(words).get("env_vars") or {})
    sys.argv = [word for word in words if not word.startswith((_PYTHON, _CONTEXT))]
    runpy.run_path(sys.argv[0], run_name="__main__")


def in_place_of(words: list[str]) -> bool:
    """Whether a worker of Ray wants no other Python, and nothing before it."""
    context = _context(words)
    other = context.get("command_prefix") or context.get("override_worker_entrypoint")
    return _PYTHON in words and not other and context.get("py_executable", sys.executable) == sys.executable


def _context(words: list[str]) -> dict:
    """What Ray wants to be different in a worker."""
    given = [word.removeprefix(_CONTEXT) for word in words if word.startswith(_CONTEXT)]
    return json.loads(given[0]) if given and given[0] else {}


# For tests

_server: list[object] = []
"""Held as long as this process lives."""


def command_of(module: str, *words: str) -> list[str]:
    """What to start instead of ``python -m MODULE ...``."""
    start()
    return [sys.executable, "-I", "-S", __file__, _AT + os.environ[ADDRESS], "-m", module, *words]


def start() -> None:
    """Start the server, unless this process or the one that started it has done so."""
    import shutil
    import subprocess
    import tempfile

    if ADDRESS in os.environ:
        return
    place = tempfile.mkdtemp(prefix="warm")  # short: the address of a socket is
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    address = f"{place}/socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen(64)  # who comes before all is imported waits
        words = [sys.executable, "-m", "tests.warm", str(listener.fileno()), "-" * _ROOM]
        root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        _server.append(subprocess.Popen(words, stdin=subprocess.PIPE, cwd=root, pass_fds=[listener.fileno()]))
    os.environ[ADDRESS] = address


if __name__ == "__main__":
    if sys.argv[1].isdigit():
        serve(socket.socket(fileno=int(sys.argv[1])))
    elif sys.argv[1].startswith(_AT):
        os.environ[ADDRESS] = sys.argv[1].removeprefix(_AT)  # the environment may be another's
        sys.exit(stand_for(sys.argv[2:]))
    elif sys.argv[1] == "-m" or in_place_of(sys.argv[1:]):
        sys.exit(stand_for(sys.argv[1:]))
    else:
        from ray._private.workers import setup_worker

        os.execv(sys.executable, [sys.executable, setup_worker.__file__, *sys.argv[1:]])
