"""``mper export-seg`` and ``mper import-seg``: masks to DICOM segmentations and back."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.cli import outputs
from mper.cli.console import print_json, print_note, print_result
from mper.cli.options import Commands, add_command, add_phase, names
from mper.utils.coded import with_codes
from mper.utils.errors import OK, UsageError

if TYPE_CHECKING:
    from mper.dicom.seg_check import ExportReport
    from mper.dicom.series import DicomSeries
    from mper.labels import Label, Segmentation
    from mper.phases import Phases
    from mper.progress import Notify
    from mper.provenance import Provenance

_EXPORT = """\
Write a mask as a DICOM segmentation (SEG) of the series it was made on: same patient, study and frame of reference,
every source image referenced, each structure with its SNOMED CT code, colour and tracking id, and with what drew it.
The file is then read back and compared voxel by voxel and code by code; the report of this export check is shown and
kept next to it (.check.txt, .check.json). A file that fails is not kept.

MASK is a .seg.nrrd, of MPER or of 3D Slicer: names, codes, colours and how each segment was made are taken from it;
or a plain mask (.nrrd, .nii.gz, .mha), to which --model or --labels gives names and codes. How a mask was made has to
be known: the file says it, or --model (untouched output), --model with --edited (corrected by a person), or --manual.
"""
_EXPORT_EXAMPLES = """\
  mper export-seg mask.seg.nrrd --source dicom-folder --out seg.dcm
  mper export-seg mask.nii.gz --source dicom-folder --out seg.dcm --model la --edited
  mper export-seg mask.nrrd --source dicom-folder --out seg.dcm --labels RV,MYO,LV --manual --creator "Doe^Jane"
"""
_IMPORT = """\
Read a DICOM segmentation (SEG), of any program, as a mask on the grid of the series that it belongs to. The ending of
OUTPUT decides the format: .seg.nrrd keeps names, codes, colours and how each segment was made; .nrrd, .nii.gz and
.mha keep the numbers of the segments.
"""
_IMPORT_EXAMPLES = """\
  mper import-seg seg.dcm --source dicom-folder mask.seg.nrrd
  mper import-seg seg.dcm --source dicom-folder --series 1.2.840.113619.2.5 mask.nii.gz
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "export-seg", "write a mask as DICOM-SEG", _EXPORT, _EXPORT_EXAMPLES)
    command.add_argument("mask", type=Path, metavar="MASK", help="the mask, on the grid of the series")
    _add_source(command)
    command.add_argument("--out", type=Path, metavar="FILE", required=True, help="the DICOM file to write (.dcm)")
    command.add_argument(
        "--model", metavar="NAME|PATH", help="the model that drew the mask: gives names, codes, version and checksum"
    )
    command.add_argument(
        "--labels", type=names, metavar="RV,MYO,LV", help="what the values 1, 2, ... of a plain mask are"
    )
    how = command.add_mutually_exclusive_group()
    how.add_argument("--edited", action="store_true", help="a person corrected what a model drew (SEMIAUTOMATIC)")
    how.add_argument(
        "--manual", action="store_true", help="a person drew by hand what the file says nothing about (MANUAL)"
    )
    command.add_argument("--creator", metavar="NAME", default="", help="who answers for the mask, as Family^Given")
    command.add_argument("--description", metavar="TEXT", default="", help="the new series' description")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    command.set_defaults(run=run_export)

    command = add_command(commands, "import-seg", "read a DICOM-SEG as a mask", _IMPORT, _IMPORT_EXAMPLES)
    command.add_argument("seg", type=Path, metavar="SEG", help="the DICOM segmentation")
    _add_source(command)
    command.add_argument("output", type=Path, metavar="OUTPUT", help="the mask to write")
    command.add_argument("--json", action="store_true", help="print one JSON object and nothing else on stdout")
    command.set_defaults(run=run_import)


def _add_source(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--source",
        type=Path,
        metavar="FOLDER",
        required=True,
        help="the DICOM series (a folder, or a multi-frame file)",
    )
    command.add_argument("--series", metavar="UID", help="which series, where the folder holds several scans")
    add_phase(command, every=False)


def run_export(arguments: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        answer, text = _export(arguments)
    if arguments.json:
        print_json(with_codes(answer))
    else:
        print_result(text)
    return OK


def _export(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
    from mper.dicom.seg_write import SegText, write_seg

    if arguments.out.suffix.lower() != ".dcm":
        raise UsageError(f"cannot write {arguments.out}: the name of a DICOM-SEG must end in .dcm")
    outputs.check_replaceable(arguments.out)
    outputs.check_writable(arguments.out.parent)
    notes: list[str] = []
    mask = _coded_mask(arguments, notes.append)
    series = read_source(arguments, notes.append)
    report = write_seg(arguments.out, mask, series, SegText(arguments.description, arguments.creator), notes.append)
    tell_notes(notes)
    return exported(arguments.out, report), f"{arguments.out}\n{report.to_text()}".rstrip()


def exported(path: Path, report: ExportReport) -> dict[str, Any]:
    """A written segmentation and its export check, for JSON."""
    from mper.dicom.seg_write import report_paths

    return {"seg": str(path), "check": report.to_dict(), "check_files": [str(file) for file in report_paths(path)]}


def read_source(arguments: argparse.Namespace, notify: Notify) -> DicomSeries:
    """The series that a mask belongs to; of a time series the phase that is asked for."""
    from mper.io.opened import open_scan

    scan = open_scan(arguments.source, arguments.series, notify, arguments.image_type)
    if scan.series is None:
        raise not_dicom(arguments.source)
    return scan.series.read(phase_number(scan.phases, arguments.phase))


def phase_number(phases: Phases, choice: str | None) -> int:
    """The one phase that a choice stands for.

    Raises
    ------
    ValueError
        If there are several and none is chosen, or nothing says which one is ED or ES.
    """
    numbers = phases.chosen(choice)
    if len(numbers) != 1:
        raise ValueError(f"the scan does not say which phase is {choice}; choose with --phase 1 to {phases.count}")
    return numbers[0]


def not_dicom(path: Path) -> UsageError:
    """Why a scan that is no DICOM cannot have a DICOM-SEG, and what to do."""
    return UsageError(
        f"{path} is not DICOM, so a DICOM-SEG would have no study, patient or frame of reference to refer to; "
        "write the mask as .seg.nrrd or .nii.gz, or give the DICOM series of the scan"
    )


def tell_notes(notes: Sequence[str]) -> None:
    """Each once, on stderr."""
    for note in dict.fromkeys(notes):
        print_note(note)


def _coded_mask(arguments: argparse.Namespace, notify: Notify) -> Segmentation:
    """The mask with names, codes and provenance: of the file, and of the options."""
    from mper.io import read_labelmap, read_segmentation
    from mper.io.labelmap import binary_as_label
    from mper.labels import Segmentation, make_label
    from mper.provenance import MANUAL

    model = _model(arguments.model)
    if arguments.mask.name.lower().endswith(".seg.nrrd"):
        if arguments.labels:
            raise UsageError(f"--labels goes with a plain mask; {arguments.mask} has names of its own")
        mask = read_segmentation(arguments.mask, notify)
    else:
        labelmap = read_labelmap(arguments.mask, notify)
        if arguments.labels:
            labels: tuple[Label, ...] = tuple(make_label(value, name) for value, name in enumerate(arguments.labels, 1))
        elif model is not None:
            labels = model[0]
        else:
            raise UsageError(
                f"{arguments.mask} is a plain mask without names; say what its values are with --labels LA, "
                "or which model drew it with --model la"
            )
        mask = Segmentation(binary_as_label(labelmap, labels, str(arguments.mask), notify), labels)
    if (
        arguments.manual
        and mask.labels
        and all((own := mask.provenance.get(label.value)) is not None and own.type != MANUAL for label in mask.labels)
    ):
        raise UsageError(
            f"{arguments.mask} says that {next(iter(mask.provenance.values())).name} drew it; "
            "a person may have edited it (--edited), but did not draw it by hand"
        )
    made = {label.value: _provenance(mask.provenance.get(label.value), model, arguments) for label in mask.labels}
    return replace(mask, provenance={value: _whole(found) for value, found in made.items() if found is not None})


def _whole(made: Provenance) -> Provenance:
    """With the whole checksum where a model that comes with mper has the version and the first digits."""
    from mper.models.card import read_bundle
    from mper.resources import bundled_models

    for stored in map(read_bundle, bundled_models() if made.sha256 else []):
        same = (f"MPER {stored.card.name}", stored.card.version) == (made.algorithm, made.version)
        if same and stored.sha256.startswith(made.sha256):
            return replace(made, sha256=stored.sha256)
    return made


def _model(name: str | None) -> tuple[tuple[Label, ...], Provenance] | None:
    from mper.models.card import read_bundle
    from mper.provenance import Provenance
    from mper.resources import find_model

    if name is None:
        return None
    stored = read_bundle(find_model(name))
    return stored.card.labels, Provenance.of_model(stored.card.name, stored.card.version, stored.sha256)


def _provenance(
    stored: Provenance | None, model: tuple[object, Provenance] | None, arguments: argparse.Namespace
) -> Provenance | None:
    """What the file says, made whole by the options; they may not say something else."""
    from mper.provenance import MANUAL, Provenance

    named = model[1] if model else None
    if arguments.manual:
        return stored or Provenance(MANUAL)
    found = stored or named
    if stored and named and stored.type != MANUAL:
        found = replace(named, type=stored.type, quality=stored.quality)
        if stored.name != found.name:
            raise UsageError(f"{arguments.mask} says that {stored.name} drew it, not {named.name}; leave --model out")
    if not arguments.edited:
        return found
    if found is None:
        raise UsageError("--edited needs the model whose mask was edited: add --model NAME")
    return found.edited()


def run_import(arguments: argparse.Namespace) -> int:
    with contextlib.redirect_stdout(sys.stderr) if arguments.json else contextlib.nullcontext():
        answer = _import(arguments)
    if arguments.json:
        print_json(answer)
    else:
        counts = ", ".join(f"{segment['name']} {segment['voxels']} voxels" for segment in answer["segments"])
        print_result(f"{arguments.output}: {counts}")
    return OK


def _import(arguments: argparse.Namespace) -> Mapping[str, Any]:
    import numpy as np

    from mper.dicom.seg_read import read_seg
    from mper.io import write_segmentation

    outputs.check_ending(arguments.output, outputs.MASK_ENDINGS)
    outputs.check_replaceable(arguments.output)
    outputs.check_writable(arguments.output.parent)
    notes: list[str] = []
    series = read_source(arguments, notes.append)
    mask = read_seg(arguments.seg, series, notes.append)
    write_segmentation(arguments.output, mask)
    tell_notes(notes)
    counts = np.bincount(mask.labelmap.array.reshape(-1), minlength=256)
    segments = [
        {
            "value": label.value,
            "name": label.name,
            "voxels": int(counts[label.value]),
            "code": None if label.type is None else f"{label.type.scheme} {label.type.value} {label.type.meaning}",
            "made": None if (made := mask.provenance.get(label.value)) is None else f"{made.type} {made.name}".strip(),
        }
        for label in mask.labels
    ]
    return {"mask": str(arguments.output), "segments": segments, "notes": notes}
