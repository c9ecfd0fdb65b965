"""A cohort on disk as `mper segment` leaves it, made without a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mper.cohort.manifest import CohortFolder, CohortLog, CohortRun, CohortScan
from mper.cohort.status import FINISHED, CohortStatus
from mper.cohort.tables import PICTURES, picture_name, write_tables
from mper.io import write_segmentation, write_volume
from mper.labels import Segmentation, make_label
from mper.models.card import read_bundle
from mper.volume import Volume

MODEL = {"name": "small", "version": "1.0.0", "sha256": "ab" * 32}
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c4944415408d763f8cfc0000003010100"
    "18dd8db00000000049454e44ae426082"
)


def small_cohort(
    home: Path, scan: Volume, names: str = "abc", broken: str = "", waiting: str = "", model: Path | None = None
) -> Path:
    """A folder of results of the scans ``home/scans/NAME.nrrd``; the expected quality falls with every scan.

    `scan` has a bright structure, above the mean of its values and their greatest; each scan is a little brighter.
    Scans that are `broken` have failed, those that are `waiting` are not segmented yet. With a `model`, the folder of
    one, the run can be resumed.
    """
    folder, out = home / "scans", home / "results"
    folder.mkdir(parents=True)
    out.mkdir()
    scans = []
    for n, name in enumerate(names):
        path = folder / f"{name}.nrrd"
        if name in broken:
            path.write_bytes(b"no scan")
        else:
            write_volume(path, scan.with_array(scan.array + np.asarray(n, scan.array.dtype)))
        scans.append(CohortScan(f"{name}.seg.nrrd", path))
    made_by = MODEL
    if model is not None:
        stored = read_bundle(model)
        made_by = {"name": stored.card.name, "version": stored.card.version, "sha256": stored.sha256}
    run = CohortFolder.begin(out, CohortRun(made_by, {"tta": False}), scans)
    status = CohortStatus(out, scans, [folder], [f"--model={model}", "--device=cpu"])
    log = CohortLog(out, made_by["sha256"])
    for n, (name, one) in enumerate(zip(names, scans, strict=True)):
        if name in broken:
            log.failed(one, f"{one.scan}: this is no NRRD file")
        elif name not in waiting:
            log.segmented(one, [_segmented(out, one.key, scan, n)], [out / one.key])
    run.update()
    if waiting:
        return out  # as a run leaves it that was killed
    status.end(FINISHED)
    write_tables(out, run.header, run.finish(scans))
    return out


def _segmented(out: Path, key: str, scan: Volume, n: int) -> dict[str, Any]:
    limit = (float(scan.array.mean()) + float(scan.array.max())) / 2
    mask = Segmentation(scan.with_array((scan.array > limit).astype(np.uint8)), (make_label(1, "LA"),))
    write_segmentation(out / key, mask)
    picture = out / PICTURES / picture_name(key)
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(PNG)
    expected = round(0.9 - 0.2 * n, 3)
    level = "good" if expected > 0.8 else "check" if expected > 0.6 else "likely wrong"
    flags = [] if level == "good" else [{"code": "parts", "words": "several parts"}]
    quality = {"expected_dice": expected, "range": [expected - 0.1, expected + 0.1], "level": level, "reasons": []}
    figures = {"confidence": 0.9, "quality": quality, "flags": flags, "notes": [], "seconds": 1.5, "empty": False}
    return {"input": key, "mask": str(out / key), "volumes_ml": mask.volumes_ml(), **figures}
