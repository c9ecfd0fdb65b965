"""A dataset once more on a coarser grid, so that comparisons that need hours there take minutes.

    python Testing/benchmarks/coarser.py DATASET OUT --spacing 2
    mper benchmark la --data OUT ...

Scans are interpolated as for a network that works on that grid, labels are what most of each voxel is. Stacks of thick
slices keep their slices. Dice on it say nothing of the finer one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from mper.dataloading.preprocessing import Preprocessing, WorkingGrid
from mper.datasets.dataset import Dataset
from mper.training.planning import scan_dimensions
from mper.volume import Volume

_LOOKED_AT = 3  # scans that tell whether they are stacks of slices or volumes


def coarser(dataset: Dataset, out: Path, spacing_mm: float) -> Dataset:
    """All cases with their newest labels, in the same splits."""
    made = Dataset.create(out, f"{dataset.name} at {spacing_mm:g} mm", dataset.labels)
    classes = 1 + max(label.value for label in dataset.labels)
    dimensions = scan_dimensions([dataset.case(case).image() for case in dataset.cases[:_LOOKED_AT]])
    for split, ids in dataset.splits.items():
        for case in dataset.split(split):
            image, label = case.image(), case.label()
            grid = WorkingGrid.plan(image.geometry, Preprocessing((spacing_mm,) * 3), dimensions)
            small = Volume(grid.forward(image.array).numpy(), grid.geometry(image.geometry))
            added = made.add_case(case.id, small, {"format": "coarser grid"})
            if label is not None:
                mask = grid.forward_labels(np.asarray(label.array, np.uint8), classes).numpy()
                added.add_label(small.with_array(mask), author="coarser grid", how="imported")
        made.add_to_split(split, ids)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("out", type=Path, help="a new folder")
    parser.add_argument("--spacing", type=float, default=2.0, metavar="MM")
    arguments = parser.parse_args()
    made = coarser(Dataset.open(arguments.dataset), arguments.out, arguments.spacing)
    print(f"{arguments.out}: {', '.join(f'{name} {len(ids)}' for name, ids in made.splits.items())}")


if __name__ == "__main__":
    main()
