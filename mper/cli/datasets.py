"""``mper import`` and ``mper pack``: datasets in, shards for a bare GPU machine out."""

from __future__ import annotations

import argparse
from pathlib import Path

from mper.cli.console import Bar, say, tell
from mper.cli.edge import FAILED, OK
from mper.cli.options import Commands, add_command, count, names

_IMPORT = """\
Bring scans and labels into a dataset folder, which every other command works on. SOURCE is

  the LA challenge             <case>/lgemri.nrrd and laendo.nrrd
  UA-MT, BCP, MPER             <case>/mri_norm2.h5
  ACDC as in SSL4MIS, WSL4MIS  volumes/<patient>_<frame>.h5, or *.h5 beside a list
  nnU-Net's raw layout         imagesTr, labelsTr, dataset.json
  scans without labels         files or DICOM folders

With --split every case goes into that split; where SOURCE holds NAME.list, only its cases, in its order. Without,
every *.list of SOURCE becomes a split; a source without lists is one split `train`. Repeat an import at any time: what
is there stays, what is new is added. The scans are copied; SOURCE is never changed.
"""
_IMPORT_EXAMPLES = """\
  mper import "2018 Atrial Segmentation Challenge" dataset
  mper import ACDC dataset --split val --labels RV,MYO,LV
  mper import more-scans dataset --split train
"""
_PACK = """\
Write a dataset as few large files (shards) for a GPU machine that has little more than torch. `mper train` and
`mper evaluate` take the packed folder in place of the dataset; images and labels come back without loss.
"""
_PACK_EXAMPLES = """\
  mper pack dataset packed
  mper pack dataset packed --max-mb 50
"""


def add(commands: Commands) -> None:
    command = add_command(commands, "import", "bring scans and labels into a dataset", _IMPORT, _IMPORT_EXAMPLES)
    command.add_argument("source", type=Path, metavar="SOURCE", help="the folder (or one scan) to import")
    command.add_argument("dataset", type=Path, metavar="DATASET", help="the dataset's folder; made where it is missing")
    command.add_argument("--split", metavar="NAME", help="where all the cases go, for example train, val or test")
    command.add_argument(
        "--labels", type=names, metavar="RV,MYO,LV", help="what the values 1, 2, ... of the masks are called"
    )
    command.set_defaults(run=run_import)

    command = add_command(commands, "pack", "write a dataset as shards for a GPU machine", _PACK, _PACK_EXAMPLES)
    command.add_argument("dataset", type=Path, metavar="DATASET", help="a dataset folder")
    command.add_argument("out", type=Path, metavar="OUT", help="the folder for the shards, new or empty")
    command.add_argument("--max-mb", type=count, metavar="N", default=500, help="no shard is larger (default: 500)")
    command.add_argument("--split", action="append", metavar="NAME", help="pack only this split (repeatable)")
    command.set_defaults(run=run_pack)


def run_import(arguments: argparse.Namespace) -> int:
    from mper.importers import import_source

    with Bar() as bar:
        summary = import_source(
            arguments.source,
            arguments.dataset,
            arguments.split,
            arguments.labels,
            bar,
            lambda line: tell(f"mper: note: {line}"),
        )
    say(f"{arguments.dataset}: {summary.describe()}")
    if summary.failed:
        tell(f"mper: error: {len(summary.failed)} cases were not imported: {', '.join(summary.failed)}")
        return FAILED
    return OK


def run_pack(arguments: argparse.Namespace) -> int:
    from mper.dataset import Dataset
    from mper.shards import pack

    with Bar() as bar:
        shards = pack(Dataset.open(arguments.dataset), arguments.out, arguments.max_mb, arguments.split, bar)
    megabytes = sum(path.stat().st_size for path in shards) / 1e6
    say(f"{arguments.out}: {len(shards)} shards, {megabytes:.1f} MB")
    return OK
