"""Whether images form one regular stack, and the grid they then make.

The grid is what ITK and highdicom make of the same headers: the first slice's position, the planes' normal, and the
distance of the first and last slice along it shared evenly. Which stacks are refused is decided here, see
docs/decisions/dicom-geometry.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mper.dicom.frames import Frame
from mper.dicom.pixels import decode
from mper.progress import Notify
from mper.utils.coded import Coded
from mper.utils.text import shorten
from mper.volume import Geometry

_ORIENTATION_TOLERANCE = 1e-3  # difference of direction cosines
_STEP_TOLERANCE = 0.05  # of the step between slices
_TILT_TOLERANCE = 1e-3  # sideways shift as a share of the stack's length
_ROUNDED_TO_MM = (0.1, 0.01)  # what scanners and anonymisers round positions to
_SAME_POSITION_MM = 1e-2
# What tells apart images at one position, in the order in which it is worth naming.
_DISTINGUISHING = (
    "TemporalPositionIdentifier",
    "TriggerTime",
    "EchoTime",
    "DiffusionBValue",
    "ImageType",
    "AcquisitionNumber",
)


def without_localisers(frames: Sequence[Frame], notify: Notify) -> list[Frame]:
    """The frames that are not localisers; raises ValueError where all are."""
    scans = [frame for frame in frames if not frame.localiser]
    if not scans:
        raise ValueError(
            Coded(
                f"its {len(frames)} images are localisers (scouts); take the scan itself",
                "only-localisers",
                n=len(frames),
            )
        )
    if len(scans) < len(frames):
        notify(
            Coded(
                f"left out {len(frames) - len(scans)} localiser images of the series",
                "localisers-left-out",
                n=len(frames) - len(scans),
            )
        )
    return scans


def check_alike(frames: Sequence[Frame]) -> None:
    """Raise unless all frames have one frame of reference, orientation, size and spacing."""
    first = frames[0]
    references = {str(frame.header.dataset.get("FrameOfReferenceUID") or "") for frame in frames} - {""}
    if len(references) > 1:
        raise ValueError(
            Coded(
                f"its images have {len(references)} frames of reference, so their positions cannot be compared",
                "several-references",
                n=len(references),
            )
        )
    orientations: list[npt.NDArray[np.float64]] = []
    for frame in frames:
        if not any(np.abs(frame.orientation - known).max() < _ORIENTATION_TOLERANCE for known in orientations):
            orientations.append(frame.orientation)
    if len(orientations) > 1:
        raise ValueError(
            Coded(
                f"its images have {len(orientations)} orientations (a localiser, or several stacks in one series); "
                "one stack of parallel slices is needed",
                "several-orientations",
                n=len(orientations),
            )
        )
    if np.abs(first.orientation @ first.orientation.T - np.eye(2)).max() > _ORIENTATION_TOLERANCE:
        raise ValueError(
            f"{first.header.path.name} is damaged: its ImageOrientationPatient is not two unit vectors at right angles"
        )
    sizes = {(int(frame.header.dataset.Rows), int(frame.header.dataset.Columns)) for frame in frames}
    if len(sizes) > 1:
        raise ValueError(Coded(f"its images differ in size (rows, columns): {sorted(sizes)}", "several-sizes"))
    spacings = np.array([frame.spacing for frame in frames])
    if np.ptp(spacings, axis=0).max() > 1e-4 * np.abs(spacings).max():
        low, high = spacings.min(), spacings.max()
        raise ValueError(
            Coded(
                f"its images differ in pixel spacing ({low:g} to {high:g} mm)",
                "several-spacings",
                low=f"{low:g}",
                high=f"{high:g}",
            )
        )


def at_one_position(frames: Sequence[Frame], normal: npt.NDArray[np.float64]) -> list[list[Frame]]:
    """`frames`, sorted along the normal, in groups that share a place along it."""
    groups: list[list[Frame]] = []
    for frame in frames:
        if groups and float((frame.position - groups[-1][0].position) @ normal) <= _SAME_POSITION_MM:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return groups


def without_duplicates(frames: Sequence[Frame], normal: npt.NDArray[np.float64], notify: Notify) -> list[Frame]:
    """`frames`, sorted along the normal, with one of each set of identical images.

    Raises
    ------
    ValueError
        If images at one place along the normal differ.
    """
    groups = at_one_position(frames, normal)
    repeated = [(group[0], other) for group in groups for other in group[1:]]  # a kept frame, and another at its place
    if not repeated:
        return list(frames)
    involved = list(dict.fromkeys(frame for pair in repeated for frame in pair))
    pixels = dict(zip(involved, decode(involved), strict=True))
    clashes = [
        (one, other)
        for one, other in repeated
        if np.abs(one.position - other.position).max() > _SAME_POSITION_MM
        or (one.slope, one.intercept) != (other.slope, other.intercept)
        or not np.array_equal(pixels[one], pixels[other])
    ]
    if clashes:
        one, other = clashes[0]
        names = [name for name in _DISTINGUISHING if one.get(name) != other.get(name)]
        counts = sorted({len(group) for group in groups})
        uneven = f"; its {len(groups)} positions hold {counts[0]} to {counts[-1]} images each: is one missing?"
        raise ValueError(
            Coded(
                f"{len(clashes)} of its {len(frames)} images share a position with another that has different pixels, "
                f"the first at {float(one.position @ normal):.2f} mm: a time series, or several echoes or stacks"
                + (f" (they differ in {', '.join(names)})" if names else "")
                + (uneven if len(counts) > 1 else "; one image per position is needed"),
                "shared-positions",
                n=len(clashes),
                total=len(frames),
            )
        )
    names = sorted({frame.header.path.name for _, frame in repeated})
    notify(
        Coded(
            f"dropped {len(repeated)} images that are identical duplicates ({shorten(names, 5)})",
            "duplicates-dropped",
            n=len(repeated),
        )
    )
    return [group[0] for group in groups]


def stack_geometry(frames: Sequence[Frame], normal: npt.NDArray[np.float64]) -> Geometry:
    """The grid of sorted `frames`; raises unless they are evenly spaced along their normal."""
    positions = np.array([frame.position for frame in frames])
    first = frames[0]
    rows, columns = int(first.header.dataset.Rows), int(first.header.dataset.Columns)
    affine = np.eye(4)
    affine[:3, 1] = first.orientation[1] * first.spacing[0]
    affine[:3, 2] = first.orientation[0] * first.spacing[1]
    affine[:3, 3] = positions[0]
    if len(frames) == 1:
        affine[:3, 0] = normal  # one slice has a thickness and no distance to the next
        return Geometry(affine, (1, rows, columns), spacing_known=False)
    step = _even_step(positions, normal / np.linalg.norm(normal))
    affine[:3, 0] = step
    return Geometry(affine, (len(frames), rows, columns))


def _even_step(positions: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The vector from slice to slice; raises unless every slice lies where even steps along the normal put it.

    Positions that are rounded may be off by as much as the rounding explains, and by less than half a step: a missing
    slice is never taken for rounding.
    """
    rounding = _rounding_mm(positions)
    depths = positions @ normal
    steps = np.diff(depths)
    tolerances = np.maximum(np.maximum(_SAME_POSITION_MM, _STEP_TOLERANCE * steps), np.minimum(rounding, 0.4 * steps))
    alike = np.abs(steps[:, None] - steps) <= tolerances
    usual = float(np.median(steps[alike[alike.sum(axis=1).argmax()]]))  # of the largest group of like steps
    tolerance = max(_SAME_POSITION_MM, _STEP_TOLERANCE * usual, min(rounding, 0.4 * usual))
    uneven = np.flatnonzero(np.abs(steps - usual) > tolerance)
    if uneven.size:
        gaps = [f"from {depths[n]:.2f} to {depths[n + 1]:.2f} mm ({steps[n]:.2f} mm)" for n in uneven]
        what = "slices are missing" if (steps[uneven] > 1.5 * usual).all() else "slices are missing or unevenly spaced"
        shown, step_mm = shorten(gaps, 5), f"{usual:.2f}"
        line = f"{what}: the step is {step_mm} mm along the normal, but {shown}"
        raise ValueError(Coded(line, "slices-missing", step=step_mm, gaps=shown))
    span = positions[-1] - positions[0]
    step = (span @ normal) / (len(positions) - 1) * normal
    sideways = float(np.linalg.norm(span - (span @ normal) * normal))
    if sideways > max(_TILT_TOLERANCE * float(np.linalg.norm(span)), rounding):
        tilt = float(np.degrees(np.arctan2(sideways, abs(span @ normal))))
        raise ValueError(
            Coded(
                f"its slices are shifted against each other (gantry tilt of {tilt:.2f} degrees); "
                "resample it to an orthogonal grid",
                "gantry-tilt",
                degrees=f"{tilt:.2f}",
            )
        )
    off_line = np.abs(positions - (positions[0] + np.arange(len(positions))[:, None] * step)).max()
    if off_line > max(tolerance, rounding):
        raise ValueError(
            Coded(
                f"its slices do not lie on one line (off by up to {off_line:.2f} mm)",
                "not-on-a-line",
                mm=f"{off_line:.2f}",
            )
        )
    return np.asarray(step)


def _rounding_mm(positions: npt.NDArray[np.float64]) -> float:
    """By how much rounding may have changed the way from one position to another; 0 where nothing was rounded."""
    for unit in _ROUNDED_TO_MM:
        if np.abs(positions / unit - np.rint(positions / unit)).max() < 1e-4:
            return float(np.sqrt(3) * unit)  # half a unit along each axis at both ends
    return 0.0
