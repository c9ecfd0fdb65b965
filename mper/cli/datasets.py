"""``mper import``, ``mper label`` and ``mper pack``: datasets in, labels to them, shards for a bare GPU machine out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from mper.cli.console import Bar, print_error, print_note, print_result
from mper.cli.options import Commands, add_command, add_phase, add_spacing, count, names, roi
from mper.utils.errors import FAILED, OK, UsageError

if TYPE_CHECKING:
    from mper.datasets.case import Case
    from mper.provenance import Provenance
    from mper.volume import Volume

_IMPORT = """\
Bring scans and labels into a dataset folder, which every other command works on. SOURCE is

  nnU-Net's raw layout, MSD    imagesTr, labelsTr, dataset.json
  the LA challenge             <case>/lgemri.nrrd and laendo.nrrd
  LAScarQS                     <case>/enhanced.nii.gz and atriumSegImgMO.nii.gz
  ACDC                         patient001_frame01.nii.gz and patient001_frame01_gt.nii.gz
  MM-WHS                       mr_train_1001_image.nii.gz and mr_train_1001_label.nii.gz
  UA-MT, BCP, MPER             <case>/mri_norm2.h5
  ACDC as in SSL4MIS, WSL4MIS  volumes/<patient>_<frame>.h5, or *.h5 beside a list
  scans with masks             case1.nii.gz and case1_seg.nii.gz (or label, mask, gt, .seg.nrrd);
                               images/case1.nii.gz and labels/case1.nii.gz; BIDS with derivatives
  scans without masks          files or DICOM folders

Where the layout does not name the structures, --labels names the mask values 1, 2, ...; where it names more structures
than --labels, the others become background.

With --split every case goes into that split; where SOURCE holds NAME.list, only its cases, in its order. Without
--split, every *.list of SOURCE becomes a split; a source without lists is one split `train`. An import can be repeated
at any time: existing cases stay, new ones are added. The scans are copied; SOURCE is never changed.

A .seg.nrrd that says that it is the unedited mask of a program is no label, and is left out with a note;
with --model-masks it becomes a draft, as those of MPER Trainer. One that was corrected is a label.
"""
_IMPORT_EXAMPLES = """\
  mper import "2018 Atrial Segmentation Challenge" dataset
  mper import ACDC dataset --split val --labels RV,MYO,LV
  mper import more-scans dataset --split train
  mper import scans-and-masks dataset --labels LA
"""
_LABEL = """\
Add a label to a case of a dataset as its next revision; earlier revisions stay. A label may be partial: voxels of 255
in MASK are unlabelled, and training ignores them. With --drawn-slices every slice of MASK without a labelled structure
is unlabelled. With STROKES alone (JSON as for `mper refine`) all voxels but those of the strokes are unlabelled.
Strokes that are given with MASK are saved with the revision. A .seg.nrrd that says that it is the unedited mask of a
program becomes a draft, as those of MPER Trainer, of a case without a person's label; it is refused where there is one.
"""
_LABEL_EXAMPLES = """\
  mper label dataset case-007 mask.seg.nrrd --author "A. Reader"
  mper label dataset case-007 mask.nrrd --drawn-slices --author "A. Reader"
  mper label dataset case-007 --strokes strokes.json --author "A. Reader"
  mper label dataset case-007 refined.nrrd --strokes strokes.json --author "A. Reader"
"""
_PACK = """\
Write a dataset as a few large files (shards), lossless, for a GPU machine that has little more than torch. `mper train`
and `mper evaluate` take the packed folder in place of the dataset.
"""
_PACK_EXAMPLES = """\
  mper pack dataset packed
  mper pack dataset packed --max-mb 50
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "import", "bring scans and labels into a dataset", _IMPORT, _IMPORT_EXAMPLES)
    command.add_argument("source", type=Path, metavar="SOURCE", help="the folder (or one scan) to import")
    command.add_argument("dataset", type=Path, metavar="DATASET", help="the dataset's folder, new or existing")
    command.add_argument("--split", metavar="NAME", help="the split for all cases, such as train, val or test")
    command.add_argument(
        "--labels",
        type=names,
        metavar="RV,MYO,LV",
        help="names of the mask values 1, 2, ..., or the structures to keep",
    )
    command.add_argument(
        "--scribbles",
        action="store_true",
        help="ACDC: import the manual scribbles as partial labels in place of the masks",
    )
    command.add_argument(
        "--model-masks",
        action="store_true",
        help="import masks that say that they are unedited output of a program as drafts; else they are left out",
    )
    add_phase(command, every=True, one="case a phase")
    add_spacing(command)
    command.add_argument(
        "--region",
        type=roi,
        metavar="x0,x1,y0,y1,z0,z1",
        help="the box in mm (LPS) inside which drafts and trainings use these scans (see `mper region`); write it with "
        "an equals sign: --region=-40,60,-30,70,-20,50",
    )
    command.set_defaults(run=run_import)

    command = add_command(commands, "label", "add a label or a partial label to a case", _LABEL, _LABEL_EXAMPLES)
    command.add_argument("dataset", type=Path, metavar="DATASET", help="a dataset folder")
    command.add_argument("case", metavar="CASE", help="the case's id")
    command.add_argument("mask", nargs="?", type=Path, metavar="MASK", help="a mask on the case's grid")
    command.add_argument("--strokes", type=Path, metavar="STROKES", help="strokes in LPS mm")
    command.add_argument(
        "--drawn-slices", action="store_true", help="slices without a labelled structure are unlabelled"
    )
    command.add_argument("--author", required=True, metavar="NAME", help="who made the label")
    command.set_defaults(run=run_label)

    command = add_command(commands, "pack", "write a dataset as shards for a GPU machine", _PACK, _PACK_EXAMPLES)
    command.add_argument("dataset", type=Path, metavar="DATASET", help="a dataset folder")
    command.add_argument("out", type=Path, metavar="OUT", help="the folder for the shards, new or empty")
    command.add_argument("--max-mb", type=count, metavar="N", default=500, help="no shard is larger (default: 500)")
    command.add_argument("--split", action="append", metavar="NAME", help="pack only this split (repeatable)")
    command.set_defaults(run=run_pack)


def run_import(arguments: argparse.Namespace) -> int:
    from mper.datasets.importer import import_source

    with Bar() as bar:
        summary = import_source(
            arguments.source,
            arguments.dataset,
            arguments.split,
            arguments.labels,
            bar,
            print_note,
            scribbles=arguments.scribbles,
            spacing_mm=arguments.spacing,
            phase=arguments.phase,
            image_type=arguments.image_type,
            region_mm=arguments.region,
            model_masks=arguments.model_masks,
        )
    print_result(f"{arguments.dataset}: {summary.describe()}")
    if summary.failed:
        print_error(f"{len(summary.failed)} cases were not imported: {', '.join(summary.failed)}")
        return FAILED
    return OK


def run_label(arguments: argparse.Namespace) -> int:
    from mper.datasets.dataset import Dataset
    from mper.io.strokes import read_strokes
    from mper.provenance import AUTOMATIC

    if arguments.mask is None and arguments.strokes is None:
        raise UsageError("there is no label; give a MASK, --strokes STROKES, or both")
    if arguments.mask is None and arguments.drawn_slices:
        raise UsageError("--drawn-slices needs a MASK; with strokes alone all other voxels are unlabelled")
    if not arguments.author.strip():
        raise UsageError("--author is empty; name who made the label")
    case = Dataset.open(arguments.dataset).case(arguments.case)
    strokes = read_strokes(arguments.strokes, case.labels) if arguments.strokes else None
    if arguments.mask is None:
        assert strokes is not None
        made = case.add_painted(strokes, author=arguments.author)
    else:
        mask, program = _read_mask(arguments.mask, case)
        if arguments.drawn_slices:
            mask = _only_drawn_slices(mask)
        _check_says_something(mask, case, arguments)
        if strokes is not None and not strokes.strokes:
            raise ValueError(f"{arguments.strokes} holds no stroke; leave --strokes out")
        if strokes is None and program is not None and program.type == AUTOMATIC:
            _check_takes_draft(case, arguments.mask, program)
        made = case.add_label(
            mask,
            author=arguments.author,
            how="strokes" if strokes else "model" if program else "hand",
            edited=program is not None and program.type != AUTOMATIC,
            model=program.model if program else None,
            strokes=strokes,
        )
    if made.is_draft and program:
        print_note(
            f"{arguments.mask} is an unedited mask of {' '.join(program.model).strip()}: a draft, until it is corrected"
        )
    partly = ", partly labelled" if made.partial else ""
    print_result(f"{arguments.dataset}: case {case.id} has label revision {made.number}{partly}")
    return OK


def _read_mask(path: Path, case: Case) -> tuple[Volume, Provenance | None]:
    """A mask with the values of the dataset's labels, by the names in the file, else as they are; and its program."""
    import numpy as np

    from mper.io import read_labelmap, read_segmentation
    from mper.labels import BACKGROUND, UNLABELLED, value_table
    from mper.provenance import program_of

    if not path.name.lower().endswith(".seg.nrrd"):
        mask = read_labelmap(path, print_note)
        if np.array_equal(np.unique(mask.array), [BACKGROUND, UNLABELLED]):
            known = ", ".join(f"{label.value} for {label.name}" for label in case.labels)
            raise ValueError(
                f"{path} holds only 0 and 255, and 255 means unlabelled; write {known}, "
                "or import a folder of such masks with `mper import`"
            )
        return mask, None
    found = read_segmentation(path, print_note)
    table, missing = value_table(found.labels, case.labels, found.labelmap.array)
    if missing:
        known = ", ".join(label.name for label in case.labels)
        raise ValueError(
            f"{path} holds {missing[0]!r}, which the dataset does not have (it has {known}); rename it there"
        )
    each = [found.provenance.get(label.value) for label in found.labels]
    return found.labelmap.with_array(table[found.labelmap.array]), program_of(each)


def _check_takes_draft(case: Case, mask: Path, program: Provenance) -> None:
    """Refuse a draft of a case that a person has labelled: it would take the place of that label."""
    if case.is_labelled and not case.is_draft:
        model = " ".join(program.model).strip()
        raise ValueError(
            f"{mask} is an unedited mask of {model}, and case {case.id} has a person's label; correct the mask in "
            "3D Slicer first, and save it"
        )


def _check_says_something(mask: Volume, case: Case, arguments: argparse.Namespace) -> None:
    """Refuse a mask that is unlabelled throughout: as the newest revision it would take the case its label."""
    from mper.labels import UNLABELLED

    if (mask.array != UNLABELLED).any():
        return
    if arguments.drawn_slices:
        raise ValueError(
            f"{arguments.mask} shows no structure in any slice, so that with --drawn-slices nothing of case {case.id} "
            "would be labelled; draw in a slice, or leave --drawn-slices out to label all of it as background"
        )
    known = ", ".join(f"{label.value} for {label.name}" for label in case.labels)
    raise ValueError(
        f"{arguments.mask} is 255 throughout, which means unlabelled: nothing of case {case.id} would be labelled; "
        f"write 0 for background and {known}"
    )


def _only_drawn_slices(mask: Volume) -> Volume:
    """The mask with its slices without a labelled structure set to unlabelled."""
    from mper.labels import BACKGROUND, UNLABELLED

    array = mask.array.copy()
    slices = array.swapaxes(0, mask.geometry.slice_axis)  # a view
    drawn = ((slices != BACKGROUND) & (slices != UNLABELLED)).any(axis=(1, 2))
    slices[~drawn] = UNLABELLED
    return mask.with_array(array)


def run_pack(arguments: argparse.Namespace) -> int:
    from mper.datasets.dataset import Dataset
    from mper.datasets.packed import pack

    with Bar() as bar:
        shards = pack(Dataset.open(arguments.dataset), arguments.out, arguments.max_mb, arguments.split, bar)
    megabytes = sum(path.stat().st_size for path in shards) / 1e6
    print_result(f"{arguments.out}: {len(shards)} shards, {megabytes:.1f} MB")
    return OK
