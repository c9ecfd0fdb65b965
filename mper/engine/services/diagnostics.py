"""What this machine can do, in words that can be sent to support: no patient data, no paths, no names of people."""

from __future__ import annotations

import contextlib
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

from mper import __version__
from mper.progress import Progress, Report, ignore_progress

_PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "scikit-image",
    "SimpleITK",
    "h5py",
    "safetensors",
    "lightning-fabric",
    "pydicom",
    "highdicom",
    "pillow",
    "psutil",
    "platformdirs",
    "tqdm",
    "fastapi",
    "uvicorn",
)
_INSTEAD = {"lightning-fabric": ("lightning", "pytorch-lightning")}  # which bring it along
_LITTLE_MEMORY, _LITTLE_DISK = 3e9, 2e9  # bytes
_DICE_EXPECTED = 0.7  # of the sample scan: less means that something is broken, not that the model is weak


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at: what, what was found, and whether that is as it should be."""

    subject: str
    text: str
    good: bool = True


def examine(
    explain: Callable[[BaseException], str] = str, report: Report = ignore_progress, self_test: bool = True
) -> list[Finding]:
    """Look at everything that the program needs; what fails is a finding too, never an exception.

    Parameters
    ----------
    explain : callable
        Puts an error into one line.
    report : Report
    self_test : bool
        Whether to segment the sample scan too, which takes seconds.
    """
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("program", _program),
        ("packages", _packages),
        ("processor", _processor),
        ("graphics", _graphics),
        ("memory", _memory),
        ("disk", _disk),
        ("models", lambda: _models(explain)),
    )
    if self_test:
        checks = (*checks, ("self-test", _self_test))
    findings: list[Finding] = []
    for done, (subject, check) in enumerate(checks):
        report(Progress(f"looking at {subject}", done / len(checks)))
        try:
            findings += check()
        except Exception as error:  # the rest is still worth knowing
            findings.append(Finding(subject, explain(error), good=False))
    return [replace(finding, text=_without_names(finding.text)) for finding in findings]


def as_text(findings: Sequence[Finding]) -> str:
    """A line a finding."""
    width = max(len(finding.subject) for finding in findings)
    return "\n".join(f"{'ok  ' if f.good else 'BAD '}  {f.subject.ljust(width)}  {f.text}" for f in findings)


def _without_names(text: str) -> str:
    """A text without the folders in which this person keeps the program and its logs."""
    from mper.resources import models_dir

    with contextlib.suppress(OSError):
        text = text.replace(str(models_dir()), "Models")
    with contextlib.suppress(RuntimeError):  # no home folder
        text = text.replace(str(Path.home()), "~")
    return text


def _program() -> Iterator[Finding]:
    yield Finding("mper", __version__)
    yield Finding("Python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield Finding("system", f"{platform.system()} {platform.release()}, {platform.machine()}")


def _packages() -> Iterator[Finding]:
    found, missing = [], []
    for name in _PACKAGES:
        version = next((v for v in map(_version, (name, *_INSTEAD.get(name, ()))) if v), None)
        if version:
            found.append(f"{name} {version}")
        else:
            missing.append(name)
    yield Finding("packages", ", ".join(found))
    if missing:
        yield Finding(
            "packages", f"missing: {', '.join(missing)}; install them: pip install {' '.join(missing)}", False
        )


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> Iterator[Finding]:
    import torch

    from mper.utils.devices import autocast_dtype
    from mper.utils.processes import available_cores

    fast = autocast_dtype(torch.device("cpu")) == torch.bfloat16
    bf16 = "with fast bfloat16" if fast else "without fast bfloat16 (works, two to three times slower)"
    yield Finding("processor", f"{available_cores()} cores, {torch.get_num_threads()} used, {bf16}")


def _graphics() -> Iterator[Finding]:
    import torch

    from mper.utils.devices import cuda_cards, describe_device, has_kernels

    present = cuda_cards()
    cards = list(filter(has_kernels, present))
    for card in present:
        if card not in cards:
            name = torch.cuda.get_device_name(card)
            yield Finding(
                "graphics", f"{name}: not used, as torch {torch.__version__} does not support it; install one that does"
            )
    if torch.backends.mps.is_available():
        cards.append(torch.device("mps"))
    for card in cards:
        yield Finding("graphics", f"{describe_device(card)}: used for everything unless you say --device cpu")
    if not cards:
        yield Finding("graphics", "no card that torch can use: everything runs on the processor")


def _memory() -> Iterator[Finding]:
    import torch

    from mper.utils.devices import free_bytes

    free = free_bytes(torch.device("cpu"))
    if free is None:
        yield Finding("memory", "this system does not tell how much is free")
        return
    short = "" if free > _LITTLE_MEMORY else "; that is little: close other programs before you segment large scans"
    yield Finding("memory", f"{free / 1e9:.1f} GB free{short}", free > _LITTLE_MEMORY)


def _disk() -> Iterator[Finding]:
    for where, folder in (("here", Path.cwd()), ("for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        yield Finding("disk", f"{free / 1e9:.1f} GB free {where}", free > _LITTLE_DISK)


def _models(explain: Callable[[BaseException], str]) -> Iterator[Finding]:
    from mper.models.card import read_bundle
    from mper.resources import bundled_models

    for path in bundled_models():
        try:
            stored = read_bundle(path)
            stored.weights()  # compares the checksum
        except (OSError, ValueError) as error:
            yield Finding("model", explain(error), good=False)
            continue
        labels = ", ".join(label.name for label in stored.card.labels)
        yield Finding(
            "model", f"{stored.card.name} {stored.card.version} ({labels}): complete, checksum as it should be"
        )


def _self_test() -> Iterator[Finding]:
    """Segment the sample scan with the model for it."""
    from mper.evaluation.sample import sample_dice
    from mper.inference.predictor import Predictor
    from mper.io import read_volume
    from mper.models.bundle import ModelBundle
    from mper.resources import find_model, sample_scan

    path = find_model("la")
    scan = read_volume(sample_scan())
    began = time.perf_counter()
    predictor = Predictor(ModelBundle.load(path))
    loaded = time.perf_counter()
    prediction = predictor.predict(scan)
    done = time.perf_counter()
    dice = sample_dice(prediction.segmentation)
    agrees = dice is None or dice > _DICE_EXPECTED
    text = f"sample scan segmented in {done - loaded:.1f} s on {prediction.device}, loaded in {loaded - began:.1f} s"
    if dice is not None:
        text += f"; Dice {dice:.3f} with the expert's mask" + ("" if agrees else ", which is too low")
    yield Finding("self-test", text, agrees)
