"""What the processor is and can do, as the operating system tells it. Loads neither Keras nor
TensorFlow.
"""

import os
import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor_name() -> str:
    """The processor's name, as Linux tells it; elsewhere, and of Arm, what Python knows."""
    return _told().get("model name") or platform.processor() or platform.machine()


def processor_flags() -> set[str]:
    """What the processor can do, in the words of Linux; empty elsewhere."""
    told = _told()
    return set((told.get("flags") or told.get("Features") or "").split())  # the second is Arm's


def native_bfloat16() -> list[str]:
    """By which of its abilities the processor multiplies in bfloat16, if by any."""
    return sorted(processor_flags() & {"amx_bf16", "avx512_bf16"})


def num_cores() -> int:
    """Cores that this process may run on."""
    pinned = getattr(os, "sched_getaffinity", None)  # which macOS and Windows lack
    return len(pinned(0)) if pinned else os.cpu_count() or 1


def _told() -> dict[str, str]:
    """What Linux says of the first core."""
    if not _CPUINFO.exists():
        return {}
    lines = _CPUINFO.read_text().partition("\n\n")[0].splitlines()
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}
