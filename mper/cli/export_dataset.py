"""``mper export-dataset``: a dataset in the layouts of other programs."""

from __future__ import annotations

import argparse
from pathlib import Path

from mper.cli.console import Bar, print_note, print_result
from mper.cli.options import Commands, add_command
from mper.utils.errors import OK

_TEXT = """\
Write a dataset in the layout of another program, to train nnU-Net, MONAI and others on the same labels:

  nnunet   imagesTr, labelsTr, imagesTs, labelsTs, dataset.json of nnU-Net v2; name OUT as nnU-Net wants it, such as
           Dataset101_Atrium
  msd      the same folders and dataset.json as the Medical Segmentation Decathlon, which MONAI reads
  bids     sub-<case>/anat, and the labels in derivatives/mper

All scans are NIfTI. The newest label of each case is written. Cases of the hold-out, and cases without a label, are not
among those to train on: they are in imagesTs; participants.tsv of BIDS names them. Excluded cases are left out. In a
label of a part, unlabelled voxels are the class that nnU-Net ignores.

`mper import OUT DATASET` gets everything back, with mper-export.json: scans, grids, labels with names, colours and
codes, who made them and how, splits in their order and the locked hold-out; drafts of a model stay drafts. A label
that another program changed becomes a new revision.
"""
_EXAMPLES = """\
  mper export-dataset dataset Dataset101_Atrium --layout nnunet
  mper export-dataset dataset bids --layout bids
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "export-dataset", "write a dataset for nnU-Net, MONAI or BIDS", _TEXT, _EXAMPLES)
    command.add_argument("dataset", type=Path, metavar="DATASET", help="a dataset folder")
    command.add_argument("out", type=Path, metavar="OUT", help="the folder to write, new or empty")
    command.add_argument("--layout", choices=("nnunet", "bids", "msd"), required=True, help="one of the layouts above")
    command.add_argument(
        "--modality",
        default="MRI",
        metavar="NAME",
        help="named in dataset.json (default: MRI); nnU-Net normalises CT in another way",
    )
    command.add_argument(
        "--suffix", default="T1w", metavar="NAME", help="the suffix of the scans' names in BIDS (default: T1w)"
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from mper.datasets.dataset import Dataset
    from mper.datasets.export import ExportOptions, export_dataset

    options = ExportOptions(arguments.layout, arguments.modality, arguments.suffix)
    dataset = Dataset.open(arguments.dataset)
    with Bar() as bar:
        done = export_dataset(dataset, arguments.out, options, bar, print_note)
    print_result(
        f"{arguments.out}: {done.cases} cases, {done.training} to train on, {done.held_out} held out, "
        f"{done.unlabelled} without a label"
    )
    return OK
