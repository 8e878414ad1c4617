"""The processor, optional packages, the network, the terminal; without Keras and TensorFlow."""

import contextlib
import importlib
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The processor's name, from Linux if it has one; elsewhere, and of Arm, from Python."""
    return _cpuinfo().get("model name") or platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """The processor's abilities, in the words of Linux; empty elsewhere."""
    found = _cpuinfo()
    return set((found.get("flags") or found.get("Features") or "").split())  # the second is Arm's


def native_bfloat16() -> list[str]:
    """The abilities by which the processor multiplies in bfloat16, if it has any."""
    return sorted(processor_flags() & {"amx_bf16", "avx512_bf16"})


def num_cores() -> int:
    """Cores that this process may run on."""
    pinned = getattr(os, "sched_getaffinity", None)  # which macOS and Windows lack
    return len(pinned(0)) if pinned else os.cpu_count() or 1


def _cpuinfo() -> dict[str, str]:
    """Linux's entries for the first core."""
    if not _CPUINFO.exists():
        return {}
    lines = _CPUINFO.read_text().partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def required(package: str, *, extra: str = "export") -> Any:
    """Imports an optional package; the error names the extra to install."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise missing(package, extra=extra) from error


def missing(package: str, *, extra: str) -> ValueError:
    """The error that an optional package is missing; it names the extra to install."""
    return ValueError(
        f"{package.partition('.')[0]}: expected this package to be installed; it is not. "
        f'Install it with python -m pip install "keras-cnnlstm[{extra}]".'
    )


NETWORK_TIMEOUT = 6.0
"""Seconds that a download waits for the connection, and for each part of an answer."""


def check_reachable(address: str) -> None:
    """Asks for a file on the network once, and does not read it."""
    problem: list[Exception] = [TimeoutError(f"no answer in {2 * NETWORK_TIMEOUT:.0f} seconds")]

    def ask():
        import urllib.request  # slow to load

        try:
            urllib.request.urlopen(address, timeout=NETWORK_TIMEOUT).close()
            problem.clear()
        except OSError as error:
            problem[:] = [error]

    # In a thread, since looking up a name has no time limit of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(2 * NETWORK_TIMEOUT)
    if problem:
        raise problem[0]


@contextlib.contextmanager
def network_timeout() -> Iterator[None]:
    """Limits each wait of a download that sets no limit, within the block, to `NETWORK_TIMEOUT`."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(NETWORK_TIMEOUT)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


Progress = Callable[[int, int], None]
"""Called with the number of clips that are done, and of all; with 0 before the first one."""


class progress_line:  # noqa: N801 - used as a function
    """A callback that counts, and says how long the rest takes, by default on standard error.

    On a terminal it writes one line again and again; into a file or a pipe a line at the start,
    after each tenth or half a minute, whichever comes first but not within a second, and at the
    end.

    Args:
        what: what is counted.
        terminal: where to write.
        doing: the stage, at the start of each line.
        clock: seconds, of any origin.
    """

    def __init__(
        self,
        what: str = "clips",
        terminal: TextIO | None = None,
        *,
        doing: str = "",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what, self._doing, self._clock = what, f"{doing:10}" if doing else "", clock
        self._stream = terminal or sys.stderr
        self._live = self._stream.isatty()
        self._start = self._written = clock()
        self._tenth = -1

    def __call__(self, done: int, total: int) -> None:
        """Counts; `done` of `total` are done."""
        now, tenth = self._clock(), 10 * done // max(total, 1)
        waited = now - self._written
        due = waited >= _QUIET or (tenth > self._tenth and waited >= 1)
        if not (self._live or self._tenth < 0 or done == total or due):
            return
        self._written, self._tenth = now, tenth
        line = f"{self._doing}{done:,} of {total:,} {self._what}"
        seconds = now - self._start
        if done == total:
            line += f" in {clock_time(seconds)}"
        elif done:
            line += f", {clock_time(seconds / done * (total - done))} left"
        if self._live:
            line = f"\r{line:50}"
        self._stream.write(line + "\n" * (done == total or not self._live))
        self._stream.flush()


_QUIET = 30.0  # seconds after which a file gets a line in any case


def clock_time(seconds: float) -> str:
    """Seconds as minutes and seconds, 1:05, or as hours, 2:01:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def user_cache() -> Path:
    """The folder of this user for what can be computed again, on each platform its own."""
    home = Path.home()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = home / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return base / "keras-cnnlstm"
