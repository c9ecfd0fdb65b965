"""The phases of time series, and the image types of series, that are imported: each phase becomes a case."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from mper.datasets.source import Pair, Source, SourceCase, by_id
from mper.phases import Phases
from mper.progress import Notify, ignore_notice

if TYPE_CHECKING:
    from mper.io.opened import OpenedScan


def open_case(case: SourceCase, notify: Notify = ignore_notice, image_type: str | None = None) -> OpenedScan:
    """The scan of a case without its voxels.

    Raises
    ------
    ValueError, FileNotFoundError
        As `mper.io.opened.open_scan`.
    """
    from mper.io import opened

    path = case.files[0]
    if opened.is_volume_file(path):
        return opened.open_scan(path, notify=notify, image_type=image_type)
    from mper.dicom.series import open_files

    return opened.of_series(open_files(case.files, notify, image_type), path, notify)


def with_phases(source: Source, phase: str | None, image_type: str | None, notify: Notify) -> Source:
    """The source with each time series replaced by its chosen phases, and series read as that image type.

    Scans of one volume stay as they are. A scan that cannot be opened, or lacks what was chosen, stays too: reading it
    says why.

    Parameters
    ----------
    source : Source
    phase, image_type : str or None
        As of `mper segment`; see `mper.phases.parse_choice`.
    notify : callable
        Receives what is noticed.

    Raises
    ------
    ValueError
        If the source has masks, which are of one volume each.
    """
    if phase is None and image_type is None:
        return source
    if source.masks:
        raise ValueError(
            "phases and image types are chosen of scans without masks; the masks of this source are of one volume each"
        )
    cases = [chosen for case in source.cases.values() for chosen in _chosen(case, phase, image_type, notify)]
    return replace(source, cases=by_id(cases), splits={})


def _chosen(case: SourceCase, phase: str | None, image_type: str | None, notify: Notify) -> Iterator[SourceCase]:
    try:
        scan = open_case(case, ignore_notice, image_type)
        series = scan.phases.count > 1
        numbers = scan.phases.chosen(phase) if series else (1,)
        if not numbers:
            raise ValueError(_unknown(scan.phases, str(phase)))
    except (OSError, ValueError) as error:
        yield replace(case, read=partial(_fail, error))
        return
    chosen = {} if image_type is None or scan.series is None else {"image_type": image_type}
    for number in numbers:
        name = f"{case.id}-phase-{number:0{len(str(scan.phases.count))}d}" if series else case.id
        origin = {**case.origin, **chosen, **({"phase": str(number)} if series else {})}
        yield replace(case, id=name, read=partial(_read, case, number, image_type), origin=origin)


def _unknown(phases: Phases, phase: str) -> str:
    return (
        f"the scan does not say which phase is {phase}: it is {phases.describe()}; choose with --phase 1 to "
        f"{phases.count}, or all"
    )


def _read(case: SourceCase, number: int, image_type: str | None, notify: Notify) -> Pair:
    return open_case(case, notify, image_type).read(number), None


def _fail(error: Exception, _notify: Notify) -> Pair:
    raise error
