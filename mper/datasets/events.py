"""events.jsonl of a dataset: what was done to its cases beside labelling, one event a line; lines are only added.

An older program ignores the file, and still opens the dataset. What it must respect is in dataset.json, too: a case
that is excluded or removed is in no split, and one of the second hold-out is in a split of that name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from mper.roi import Box, check_box

EVENTS = "events.jsonl"
EXCLUDED, INCLUDED, RENAMED, REMOVED = "case excluded", "case included", "case renamed", "case removed"
HELD_OUT, STRUCTURE_ADDED = "cases held out", "structure added"
REGION_SET = "region set"  # of a case; without a box it is cleared


@dataclass(frozen=True)
class CaseHistory:
    """The state that the events leave.

    Parameters
    ----------
    names : mapping of str to str
        Display names by case id, of the cases that have one.
    excluded : mapping of str to str or None
        Excluded cases, with the split that each was in, the first of several.
    excluded_from : mapping of str to tuple of str
        All splits that each of them was in.
    removed : frozenset of str
        Cases that are in the recycle folder; their ids are not used again.
    second_holdout : tuple of str
        Cases that were held out after the first hold-out was locked.
    regions : mapping of str to six numbers
        x0, x1, y0, y1, z0, z1 in LPS mm, by case id, of the cases that are used in a region alone.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str | None] = field(default_factory=dict)
    excluded_from: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    removed: frozenset[str] = frozenset()
    second_holdout: tuple[str, ...] = ()
    regions: Mapping[str, Box] = field(default_factory=dict)


def read_history(dataset: Path) -> CaseHistory:
    """What the events of a dataset's folder leave; a torn line, and events of newer programs, are left out."""
    names: dict[str, str] = {}
    excluded: dict[str, str | None] = {}
    excluded_from: dict[str, tuple[str, ...]] = {}
    removed: set[str] = set()
    second: dict[str, None] = {}
    regions: dict[str, Box] = {}
    for entry in read_events(dataset):
        what, case = entry.get("event"), str(entry.get("case", ""))
        if what == RENAMED:
            names[case] = str(entry.get("name") or "")
        elif what == EXCLUDED:
            split = excluded[case] = entry.get("split")
            excluded_from[case] = tuple(map(str, entry.get("splits") or ([] if split is None else [split])))
        elif what == INCLUDED:
            excluded.pop(case, None)
            excluded_from.pop(case, None)
        elif what == REMOVED:
            removed.add(case)
            for state in (excluded, excluded_from, regions):
                state.pop(case, None)
        elif what == HELD_OUT:
            second.update(dict.fromkeys(map(str, entry.get("cases") or ())))
        elif what == REGION_SET:
            regions.pop(case, None)
            if box := box_of(entry.get("region_mm")):
                regions[case] = box
    names = {case: name for case, name in names.items() if name}
    return CaseHistory(names, excluded, excluded_from, frozenset(removed), tuple(second), regions)


def box_of(numbers: Any) -> Box | None:
    """A box of an event; None where it is cleared, or damaged."""
    try:
        check_box(numbers)
        x0, x1, y0, y1, z0, z1 = map(float, numbers)
    except (TypeError, ValueError):
        return None
    return x0, x1, y0, y1, z0, z1


def read_events(dataset: Path) -> list[dict[str, Any]]:
    """The events of a dataset's folder, oldest first."""
    path = dataset / EVENTS
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found


def append_event(dataset: Path, event: str, by: str, **values: Any) -> None:
    """Add an event; who calls it holds the lock of the dataset."""
    when = datetime.now(timezone.utc).isoformat(timespec="seconds")
    line = json.dumps({"event": event, "when": when, "by": by, **values}, ensure_ascii=False)
    with (dataset / EVENTS).open("a+b") as file:
        file.seek(0, 2)
        torn = False
        if file.tell():
            file.seek(-1, 2)
            torn = file.read(1) != b"\n"  # of a program that was killed
        file.write(("\n" * torn + line + "\n").encode("utf-8"))
