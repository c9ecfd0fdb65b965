"""The results of a cohort as rows to review, read again as far as they have changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mper.cohort.manifest import MANIFEST, RUN, WORK, CohortFolder, Entry
from mper.cohort.review import CORRECTED, Kept, MaskReview, ReviewLog
from mper.cohort.status import SCANS, planned_scans
from mper.cohort.tables import Row, rows_of

DONE, FAILED, WAITING = "done", "failed", "waiting"
_ENDING = ".seg.nrrd"


@dataclass(frozen=True)
class CohortRow:
    """A mask of a cohort, or a scan without one.

    Parameters
    ----------
    id : str
        The name of the mask, relative to the folder of the results.
    scan : Path
    state : str
        done, failed or waiting.
    figures : dict
        As `mper.cohort.tables.rows_of`; volumes of a corrected mask are its own.
    sha256 : str
        Of the mask of the model; empty without one.
    review : MaskReview
    kept : Kept or None
        Where it was kept as a label last.
    """

    id: str
    scan: Path
    state: str
    figures: Row
    sha256: str
    review: MaskReview
    kept: Kept | None

    @property
    def name(self) -> str:
        """What to call it: the name of its mask without the ending."""
        return self.id.removesuffix(_ENDING)


class CohortResults:
    """The folder of the results of a cohort.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    version : int
        Rises when the rows change.
    reviews : ReviewLog
    """

    def __init__(self, path: Path) -> None:
        self.path, self.version, self.reviews = path, 0, ReviewLog(path)
        self._folder: CohortFolder | None = None
        self._planned: list[tuple[str, str]] = []
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._rows: list[CohortRow] = []
        self._rows_version = -1

    @property
    def header(self) -> Entry:
        """The manifest without entries; empty where there is none yet."""
        return {} if self._folder is None else self._folder.header

    def refresh(self) -> None:
        """Read what has changed.

        Raises
        ------
        ValueError
            If the manifest is damaged, or of another version or kind.
        """
        files = (self.path / MANIFEST, self.path / WORK / RUN, self.path / WORK / SCANS)
        stamp = tuple(_stamp(file) for file in files)
        changed = self.reviews.refresh()
        if stamp != self._stamp:
            self._folder, self._planned = CohortFolder.read(self.path), planned_scans(self.path)
            self._stamp, changed = stamp, True
        elif self._folder is not None and self._folder.update():
            changed = True
        self.version += changed

    def rows(self) -> list[CohortRow]:
        """The rows in the order of the scans: a row for each mask, and for each scan without one."""
        if self._rows_version != self.version:
            self._rows, self._rows_version = self._make_rows(), self.version
        return self._rows

    def row(self, row_id: str) -> CohortRow | None:
        """A row by its id."""
        return next((row for row in self.rows() if row.id == row_id), None)

    def counts(self) -> tuple[int, int, int]:
        """How many scans there are, how many of them are segmented, and how many failed."""
        entries = {} if self._folder is None else self._folder.entries
        keys = [key for key, _ in self._planned] or list(entries)
        failed = sum("error" in entries[key] for key in keys if key in entries)
        return len(keys), sum(key in entries for key in keys) - failed, failed

    def _make_rows(self) -> list[CohortRow]:
        entries = {} if self._folder is None else self._folder.entries
        planned = self._planned or [(key, entry["input"]) for key, entry in entries.items()]
        rows = []
        for key, scan in planned:
            entry = entries.get(key)
            if entry is None:
                figures: Row = {"mask": None, "scan": scan, "quality": "", "flags": [], "volumes_ml": {}}
                rows.append(CohortRow(key, Path(scan), WAITING, figures, "", MaskReview(), None))
            else:
                rows += [self._row(entry, figures) for figures in rows_of([entry])]
        return rows

    def _row(self, entry: Entry, figures: Row) -> CohortRow:
        scan, mask = Path(entry["input"]), figures["mask"]
        if mask is None:
            return CohortRow(entry["key"], scan, FAILED, figures, "", MaskReview(), None)
        sha256 = str(entry["written"].get(mask, ""))
        review = self.reviews.of(mask, sha256)
        if review.decision == CORRECTED and review.volumes_ml is not None:
            figures = {**figures, "volumes_ml": dict(review.volumes_ml)}
        return CohortRow(mask, scan, DONE, figures, sha256, review, self.reviews.kept(mask))


def _stamp(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
