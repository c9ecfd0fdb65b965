"""Files of strokes: JSON as `mper.strokes.strokes_to_dict` describes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mper.labels import Label
from mper.strokes import StrokeList, strokes_from_dict, strokes_to_dict
from mper.utils.files import write_json


def read_strokes(path: Path, labels: Sequence[Label]) -> StrokeList:
    """The strokes of a JSON file.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is none, or it is not of the form of `strokes_from_dict`.
    """
    try:
        entry = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not text in UTF-8; a list of strokes is JSON") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error.msg} in line {error.lineno}); correct it there") from None
    except ValueError:  # Python reads no number of thousands of digits
        raise ValueError(f"{path} holds a number that is too long to be one in mm; correct it there") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply for a list of strokes") from None
    try:
        return strokes_from_dict(entry, labels)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def write_strokes(path: Path, strokes: StrokeList, labels: Sequence[Label], *, new: bool = False) -> None:
    """Write a JSON file that `read_strokes` reads back equal, whole or not at all.

    Raises
    ------
    FileExistsError
        If a `new` file is there already.
    """
    write_json(path, strokes_to_dict(strokes, labels), new=new)
