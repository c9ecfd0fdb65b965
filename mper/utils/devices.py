"""The devices of this machine: choosing one, its fastest number format, and its free memory."""

from __future__ import annotations

import contextlib
import ctypes
import re
from pathlib import Path

import torch

from mper.utils.coded import Coded

DEVICES = ("auto", "cpu", "cuda", "mps")
_CGROUP = Path("/sys/fs/cgroup")


def pick_device(name: str = "auto") -> torch.device:
    """The device of that name; "auto" takes a CUDA GPU that torch has kernels for, else Apple's MPS, else the CPU.

    Raises
    ------
    ValueError
        If the name is unknown, this machine has no such device, or torch has no kernels for it.
    """
    if name not in DEVICES and not name.startswith("cuda:"):
        raise ValueError(f"unknown device {name!r}; known are {', '.join(DEVICES)}")
    if name == "auto":
        usable = [str(card) for card in cuda_cards() if has_kernels(card)]
        name = usable[0] if usable else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.startswith("cuda"):
        cards = cuda_cards()
        number = name[len("cuda:") :] or "0"
        if not (number.isdigit() and int(number) < len(cards)):
            line = f"there is no device {name!r}: torch finds {len(cards)} CUDA GPUs; take 'auto' or 'cpu'"
            raise ValueError(Coded(line, "no-device", device=name))
        if not has_kernels(cards[int(number)]):
            card = torch.cuda.get_device_name(int(number))
            line = (
                f"torch {torch.__version__} does not support {card} ({name}); take 'cpu', or install a torch that does"
            )
            raise ValueError(Coded(line, "device-unsupported", card=card, torch=torch.__version__))
    if name == "mps" and not torch.backends.mps.is_available():
        line = "there is no device 'mps': it needs an Apple GPU; take 'auto' or 'cpu'"
        raise ValueError(Coded(line, "no-device", device=name))
    return torch.device(name)


def pick_training_device(name: str = "auto") -> torch.device:
    """As `pick_device`, but the CPU in place of an Apple GPU: MPS lacks 3-D `grid_sample` of labels, for patches."""
    device = pick_device(name)
    return torch.device("cpu") if device.type == "mps" else device


def cuda_cards() -> list[torch.device]:
    """The CUDA GPUs of this machine, also those that torch has no kernels for."""
    return [torch.device("cuda", n) for n in range(torch.cuda.device_count() if torch.cuda.is_available() else 0)]


def has_kernels(card: torch.device) -> bool:
    """Whether torch was built for a CUDA GPU: many builds leave out old ones, on which every operation then fails.

    Told from what torch was built for, since trying a kernel holds some hundred MB of the card from then on.
    """
    built = re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(torch.cuda.get_arch_list()))
    if not built:  # of ROCm, whose cards have names instead of numbers
        return True
    card_is = torch.cuda.get_device_capability(card)
    versions = [(kind, (int(major), int(minor))) for kind, major, minor in built]
    # Machine code (sm) runs on later cards of its generation, portable code (compute) on all later ones.
    return any(version <= card_is and (kind == "compute" or version[0] == card_is[0]) for kind, version in versions)


def describe_device(device: torch.device) -> str:
    """Description of a device: ``CPU (2 threads, bfloat16)``."""
    precision = str(autocast_dtype(device)).removeprefix("torch.")
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name} ({properties.total_memory / 2**30:.0f} GiB, {precision})"
    if device.type == "mps":
        return f"Apple GPU ({precision})"
    return f"CPU ({torch.get_num_threads()} threads, {precision})"


def autocast_dtype(device: torch.device) -> torch.dtype:
    """The number format in which convolutions are fastest with the same mask; float32 means no autocast."""
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
    """Whether `error` means that memory is exhausted; each device raises another error."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "not enough memory" in text)


def release_memory(device: torch.device) -> None:
    """Return the memory that torch caches to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def return_freed_memory() -> None:
    """Return memory that this process has freed to the system (glibc keeps it; elsewhere nothing happens)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def keep_freed_memory() -> None:
    """Make this process reuse the memory of freed tensors (glibc; elsewhere nothing happens).

    Otherwise every large tensor on the CPU is mapped anew, page by page: measured on a training step of the V-Net, a
    fifth of its CPU time, against 15% more memory.
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4  # names of glibc's mallopt
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return
    for name, value in ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 256 * 2**20)):
        mallopt(name, value)


def free_bytes(device: torch.device) -> int | None:
    """Memory in bytes that can still be allocated on `device`; None where unknown (a machine without psutil)."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device))
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    try:
        import psutil
    except ImportError:
        return None
    limit = _free_in_container(_CGROUP)
    free = int(psutil.virtual_memory().available)
    return free if limit is None else min(free, limit)


def _free_in_container(group: Path) -> int | None:
    """What a Linux container (cgroup v2) may still allocate; None without a limit. psutil gives the machine's alone."""
    try:
        limit, used = ((group / name).read_text(encoding="ascii").strip() for name in ("memory.max", "memory.current"))
        lines = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    if limit == "max":
        return None
    figures = dict(line.split() for line in lines)
    page_cache = sum(int(figures.get(name, 0)) for name in ("active_file", "inactive_file"))  # given back on demand
    return max(0, int(limit) - int(used) + page_cache)
