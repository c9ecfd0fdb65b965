"""What this machine can compute on: choosing a device, its fast number format, and how much memory is free."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises
    ------
    ValueError
        If the name is unknown or this machine has no such device.
    """
    if name not in DEVICES and not name.startswith("cuda:"):
        raise ValueError(f"unknown device {name!r}; known are {', '.join(DEVICES)}")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        number = name[len("cuda:") :] or "0"
        if not (number.isdigit() and int(number) < count):
            raise ValueError(f"device {name!r} is not here: torch sees {count} CUDA GPUs; take 'auto' or 'cpu'")
    if name == "mps" and not torch.backends.mps.is_available():
        raise ValueError("device 'mps' is not here: it needs an Apple GPU; take 'auto' or 'cpu'")
    return torch.device(name)


def describe_device(device: torch.device) -> str:
    """A device in words: ``CPU (2 threads, bfloat16)``."""
    precision = str(autocast_dtype(device)).removeprefix("torch.")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB, {precision})"
    if device.type == "mps":
        return f"Apple GPU ({precision})"
    return f"CPU ({torch.get_num_threads()} threads, {precision})"


def autocast_dtype(device: torch.device) -> torch.dtype:
    """The number format in which convolutions are fastest without harm to the mask; float32 means no autocast."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type == "cpu" and _cpu_has_bfloat16():
        return torch.bfloat16
    return torch.float32


def full_precision(device: torch.device) -> torch.autocast:
    """A with block without autocast: for sums over many voxels, which half precision gets wrong."""
    return torch.autocast(device.type, enabled=False)


def _cpu_has_bfloat16() -> bool:
    # Private names, so each may be absent from another torch: then the CPU is taken to lack it, which is only slower.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(getattr(torch.cpu, name, lambda: False)()) for name in checks)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that memory is short, on whatever device: they raise different things."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "not enough memory" in text)


def release_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def keep_freed_memory() -> None:
    """Let this process keep the memory of freed tensors for the next ones (glibc; elsewhere nothing happens).

    Otherwise every large tensor on the CPU is mapped anew, page by page: measured on a training step of the V-Net, a
    fifth of its CPU time, against 15% more memory.
    """
    import ctypes

    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of glibc's mallopt
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for name, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20)):
        mallopt(name, value)


def free_bytes(device: torch.device) -> int | None:
    """Memory that can still be taken on `device`; None where this system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    system = {"Linux": _free_on_linux, "Windows": _free_on_windows, "Darwin": _free_on_macos}.get(platform.system())
    try:
        return system() if system else None
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return None


def _free_on_linux() -> int:
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    group = Path("/sys/fs/cgroup")  # a container may be allowed less than the machine has
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        return min(free, int(limit) - int(used)) if limit != "max" else free
    except OSError:
        return free


def _free_on_windows() -> int:
    import ctypes

    class Status(ctypes.Structure):
        """MEMORYSTATUSEX of the Windows API."""

        _fields_ = (
            ("length", ctypes.c_ulong),
            ("load", ctypes.c_ulong),
            *(
                (name, ctypes.c_ulonglong)
                for name in ("physical", "free", "page", "free_page", "virtual", "free_virtual", "extended")
            ),
        )

    status = Status(length=ctypes.sizeof(Status))
    if not ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status)):  # type: ignore[attr-defined,unused-ignore]
        raise OSError("GlobalMemoryStatusEx failed")
    return int(status.free)


def _free_on_macos() -> int:
    text = subprocess.run(
        ["vm_stat"], capture_output=True, text=True, check=True, timeout=5, env={**os.environ, "LC_ALL": "C"}
    ).stdout
    page = int(text.split("page size of ")[1].split()[0])
    pages = dict(line.split(":") for line in text.splitlines()[1:] if ":" in line)
    return page * sum(int(pages[f"Pages {kind}"].strip(" .")) for kind in ("free", "inactive", "purgeable"))
