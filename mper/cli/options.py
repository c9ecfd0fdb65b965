"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

from mper.phases import ALL, parse_choice

DEVICES = ("auto", "cpu", "cuda", "mps")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_command(commands: Commands, name: str, summary: str, text: str, examples: str) -> argparse.ArgumentParser:
    """A sub-command whose help ends with examples."""
    command: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=text,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return command


def add_model(command: argparse.ArgumentParser, default: str | None) -> None:
    shown = f" (default: {default})" if default else ""
    command.add_argument(
        "--model",
        metavar="NAME|PATH",
        default=default,
        required=default is None,
        help=f"a model that comes with mper (see `mper models`), or the folder or zip of a model{shown}",
    )


def add_device(command: argparse.ArgumentParser | argparse._ArgumentGroup, default: str | None = "auto") -> None:
    command.add_argument(
        "--device",
        choices=DEVICES,
        default=default,
        help="the device to compute on; auto (the default) takes a graphics card if there is one",
    )


def add_region(command: argparse.ArgumentParser) -> None:
    where = command.add_mutually_exclusive_group()
    where.add_argument(
        "--roi",
        type=roi,
        metavar="x0,x1,y0,y1,z0,z1",
        help="segment only inside this box, in mm (LPS: x to the patient's left, y to the back, z to the head); "
        "write it with an equals sign: --roi=-40,60,-30,70,-20,50",
    )
    where.add_argument(
        "--at",
        type=point,
        metavar="x,y,z",
        help="instead of a box a point in the structure, such as the middle of the atrium, in mm (LPS); a box around "
        "it is segmented; write it with an equals sign: --at=-12.5,40,85",
    )
    command.add_argument("--series", metavar="UID", help="which DICOM series, where the folder holds several")


def add_phase(
    command: argparse.ArgumentParser, every: bool, one: str = "mask a phase (mask-phase01.nii.gz ...)"
) -> None:
    """The choice among the images of one scan; `every`: whether all phases may be asked for at once, each as `one`."""
    command.add_argument(
        "--phase",
        type=phase if every else one_phase,
        metavar="N|ED|ES|all" if every else "N|ED|ES",
        help="which phase of a time series (a cine): its number from 1, end diastole or end systole"
        + (f", or all: one {one}" if every else "")
        + "; without it the command says which phases there are",
    )
    command.add_argument(
        "--image-type",
        metavar="NAME",
        help="which images, where a DICOM series holds several types at each position (magnitude and phase, water and "
        "fat); without it the command says which types there are",
    )


def add_spacing(command: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    command.add_argument(
        "--spacing",
        type=spacing,
        metavar="K,J,I|keep",
        help="distance between slices, rows and columns in mm, in place of what the file states; "
        "keep: the file's, even where no patient is as large",
    )


def add_tta(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tta",
        action="store_true",
        help="average over mirrored copies (test-time augmentation): slower; of a model that was trained with --mirror "
        "(of the bundled ones acdc, which always does)",
    )


def add_json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")


def spacing(text: str) -> tuple[float, float, float] | Literal["keep"]:
    """``K,J,I`` in mm, or ``keep``."""
    if text == "keep":
        return "keep"
    try:
        k, j, i = (float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three numbers; expected the distances between slices, rows and columns in mm, "
            "as in --spacing 2.5,1.25,1.25, or keep"
        ) from None
    if not all(0 < each < math.inf for each in (k, j, i)):
        raise argparse.ArgumentTypeError(f"{text!r} is no spacing; each number must be above zero, in mm")
    return k, j, i


def point(text: str) -> tuple[float, float, float]:
    """``x,y,z`` in LPS mm."""
    try:
        x, y, z = (float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not three numbers; expected x,y,z in mm (LPS), as in --at=-12.5,40,85"
        ) from None
    if not all(math.isfinite(each) for each in (x, y, z)):
        raise argparse.ArgumentTypeError(f"{text!r} is no point; its three numbers must be finite, in mm (LPS)")
    return x, y, z


def roi(text: str) -> tuple[float, float, float, float, float, float]:
    """``x0,x1,y0,y1,z0,z1`` in LPS mm."""
    try:
        x0, x1, y0, y1, z0, z1 = (float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not six numbers; expected x0,x1,y0,y1,z0,z1 in mm (LPS), as in --roi=-40,60,-30,70,-20,50"
        ) from None
    if not (x0 < x1 and y0 < y1 and z0 < z1):  # also refuses nan
        raise argparse.ArgumentTypeError(
            f"{text!r} is empty; each first number must be below its second (x0,x1,y0,y1,z0,z1)"
        )
    return x0, x1, y0, y1, z0, z1


def phase(text: str) -> str:
    """A phase's number from 1, ``ED``, ``ES`` or ``all``."""
    try:
        return parse_choice(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def one_phase(text: str) -> str:
    """A phase's number from 1, ``ED`` or ``ES``."""
    choice = phase(text)
    if choice == ALL:
        raise argparse.ArgumentTypeError("this command takes one phase; write its number, ED or ES")
    return choice


def within(low: float, high: float) -> Callable[[str], float]:
    """The type of a number in a range."""

    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low:g} to {high:g}")
        return value

    return number


def seconds(text: str) -> float:
    """A span of time: ``90s``, ``20m``, ``1h30m``."""
    match = re.fullmatch(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?", text.strip().lower())
    total = sum(float(n or 0) * unit for n, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0.0
    if total <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write it as 90s, 20m or 1h30m")
    return total


def count(text: str) -> int:
    """A whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def share(text: str) -> tuple[int, int]:
    """``2/8``: the second of eight shares."""
    one, _, of = text.partition("/")
    if not one.isdecimal() or not of.isdecimal() or not 1 <= int(one) <= int(of):
        raise argparse.ArgumentTypeError(f"{text!r} is no share; write it as 2/8")
    return int(one), int(of)


def number(text: str) -> int:
    """A whole number of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def window(text: str) -> tuple[float, float]:
    """``LOW,HIGH`` intensities."""
    try:
        low, high = (float(word) for word in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not two numbers; write a window as --window=-150,350") from None
    if not low < high:
        raise argparse.ArgumentTypeError(f"{text!r} is empty; the first intensity must be below the second")
    return low, high


def axes(text: str) -> tuple[int, ...]:
    """Letters of array axes, as in ``ji``, to their numbers."""
    if not text or set(text) - set("kji") or len(set(text)) != len(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} names no axes; write letters of k (slices), j (rows), i (columns), as ji"
        )
    return tuple(sorted("kji".index(letter) for letter in text))


def size(text: str) -> tuple[int, int, int]:
    """``K,J,I`` voxels."""
    words = text.split(",")
    if len(words) != 3:
        raise argparse.ArgumentTypeError(f"{text!r} is not three whole numbers; write a size as 64,96,128 (k, j, i)")
    k, j, i = (count(word) for word in words)
    return k, j, i


def out_folder(text: str) -> Path:
    """A folder to write into, there or not."""
    path = Path(text)
    file = next((place for place in (path, *path.parents) if place.is_file()), None)
    if file is not None:
        raise argparse.ArgumentTypeError(f"{file} is a file; give a folder")
    return path


def names(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    found = tuple(word.strip() for word in text.split(","))
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty name; write names as RV,MYO,LV")
    return found
