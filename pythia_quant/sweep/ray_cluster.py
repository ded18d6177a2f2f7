"""Start a Ray cluster of this machine, or connect with another: within seconds, or with one clear error."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import chdir
from pathlib import Path
from time import monotonic
from types import ModuleType

from pythia_quant.core.errors import StudyError
from pythia_quant.core.machine import memory_available
from pythia_quant.core.text import printable

CLUSTER = "--engine ray"
"""Where errors of a cluster are."""
RETRIES = 3
"""How often a task is done again whose worker, or whose node, was lost."""
_PROBE_SECONDS, _CONNECT_SECONDS, _HEAD_SECONDS = 5, 30, 45
_OBJECT_STORE = 100 * 2**20
"""What a cluster of this machine sets aside for objects: results are in the store, and Ray carries a few words."""
_VARIABLES = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(RETRIES)}
"""Ray sends nothing to its makers, and gives a task up that takes too much memory each time."""


def import_ray() -> ModuleType:
    """Return Ray; it is an extra.

    Raises:
        StudyError: it is not installed.
    """
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    try:
        import ray  # noqa: PLC0415 - an extra
        import ray.exceptions  # noqa: PLC0415
        from ray._private import worker  # noqa: PLC0415
    except ImportError as error:
        hint = "pip install 'ray[client]', or leave --engine out"
        raise StudyError("Ray is not installed", where=CLUSTER, hint=hint) from error
    # Ray prints what a lost node wrote last on our standard output, and has no public way to stop that.
    worker.print_to_stdstream = _ignore
    return ray


def _ignore(*_: object, **__: object) -> None:
    pass


def start(ray: ModuleType, count: int) -> None:
    """Start a cluster of this machine; its processes end with this one, even if that is killed.

    Raises:
        StudyError: it does not start.
    """
    before = signal.getsignal(signal.SIGTERM)
    try:
        # In this thread: when the thread that started them ends, Ray's processes do, too.
        with chdir(_package_folder()):
            ray.init(
                "local", num_cpus=count, _memory=memory_available(), object_store_memory=_OBJECT_STORE,
                include_dashboard=False, log_to_driver=False, logging_level="CRITICAL",
            )  # fmt: skip
    except Exception as error:  # Ray raises errors of many kinds
        hint = "see the newest folder in /tmp/ray; or leave --engine out"
        raise StudyError(f"Ray does not start: {last_line(error)}", where=CLUSTER, hint=hint) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)  # Ray has put one in its place that knows nothing of our cleaning up


def connect(ray: ModuleType, address: str) -> None:
    """Connect with a cluster, within seconds.

    Raises:
        StudyError: there is none at the address, or it is of another version.
    """
    hint = "start one with `ray start --head`, correct the address, or leave --address out"
    if (place := _host_and_port(address)) and not _listens(*place):
        raise StudyError("nothing answers there", where=f"--address {address}", hint=hint)
    problem: list[BaseException] = []

    def init() -> None:
        try:
            ray.init(address, log_to_driver=False, logging_level="CRITICAL")
        except BaseException as error:  # handed to the other thread
            problem.append(error)

    # Ray waits for a head that does not answer, and nothing can stop it; a thread that waits cannot stop us.
    thread = threading.Thread(target=init, daemon=True)
    with chdir(_package_folder()):
        thread.start()
        thread.join(_CONNECT_SECONDS)
    if thread.is_alive():
        what = f"there was no answer of a Ray cluster in {_CONNECT_SECONDS} s"
        raise StudyError(what, where=f"--address {address}", hint=hint)
    if problem:
        what = f"there is no Ray cluster that can be used: {first_line(problem[0])}"
        raise StudyError(what, where=f"--address {address}", hint=hint) from problem[0]


def _package_folder() -> Path:
    """Return the folder that this package is imported from.

    Workers import modules from the folder that Ray is started in, before all others; a downloaded model is no such.
    """
    return Path(__file__).parents[2]


def _host_and_port(address: str) -> tuple[str, int] | None:
    """Return what an address names; None for ``auto``."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    return (host.strip("[]"), int(port)) if host and port.isdecimal() and int(port) < 2**16 else None


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=_PROBE_SECONDS):
            return True
    except OSError:
        return False


class Head:
    """Looks whether the head of the cluster is there: Ray ends this process a minute after it is gone."""

    def __init__(self, ray: ModuleType, address: str | None) -> None:
        remote = address is not None and address.startswith("ray://")
        self._place = _host_and_port(address if remote and address else ray.get_runtime_context().gcs_address)
        self._seen = monotonic()

    def answers(self) -> bool:
        """Say whether it is there.

        Raises:
            StudyError: it has not been there for some time.
        """
        if self._place is None or _listens(*self._place):
            self._seen = monotonic()
            return True
        if monotonic() - self._seen > _HEAD_SECONDS:
            hint = "start it again; the same command does what is left"
            raise StudyError("the head of the cluster is gone", where=CLUSTER, hint=hint)
        return False


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says."""
    return printable(next(iter(str(error).strip().splitlines()), type(error).__name__))


def last_line(error: BaseException) -> str:
    """Return the last line of what an error says, which is the cause of what happened in a worker."""
    return printable([type(error).__name__, *str(error).strip().splitlines()][-1])
