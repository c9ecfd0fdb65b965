"""The sample scan as a DICOM series, its mask as DICOM-SEG: what a validator and other programs say of it.

    python Testing/benchmarks/dicom_seg.py --keep folder

Needs dciodvfy (apt-get install dicom3tools) and segimage2itkimage (pip install dcmqi).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "library"))
from small_series import write_classic
from system_tools import find_tool

from mper.cli import main
from mper.dicom.grid_match import onto_grid
from mper.dicom.seg_read import read_seg
from mper.dicom.series import read_series
from mper.io import read_labelmap, read_segmentation, read_volume
from mper.resources import sample_scan
from mper.volume import Geometry, Volume


def run(folder: Path) -> None:
    series_folder, seg, mask_file = folder / "series", folder / "seg.dcm", folder / "mask.seg.nrrd"
    write_classic(series_folder, read_volume(sample_scan()))
    say(["mper", "segment", str(series_folder), str(mask_file)])
    main(["segment", str(series_folder), str(mask_file)])
    say(["mper", "export-seg", str(mask_file), "--source", str(series_folder), "--out", str(seg)])
    begin = time.perf_counter()
    main(["export-seg", str(mask_file), "--source", str(series_folder), "--out", str(seg)])
    print(f"({time.perf_counter() - begin:.1f} s, {seg.stat().st_size / 1e6:.2f} MB)")

    command = [find_tool("dciodvfy") or "dciodvfy", "-new", str(seg)]
    say(command)
    told = subprocess.run(command, capture_output=True, check=False)
    print((told.stdout + told.stderr).decode("latin-1").strip())

    command = [
        find_tool("segimage2itkimage") or "segimage2itkimage",
        "--inputDICOM",
        str(seg),
        "--outputDirectory",
        str(folder),
    ]
    command += ["-t", "nrrd", "-p", "dcmqi"]
    say(command)
    subprocess.run(command, capture_output=True, check=True)
    series, drawn = read_series(series_folder), read_segmentation(mask_file)
    import highdicom

    read = highdicom.seg.segread(seg).get_volume(combine_segments=True)
    others = {
        "mper": read_seg(seg, series).labelmap,
        "dcmqi": read_labelmap(folder / "dcmqi-1.nrrd"),
        f"highdicom {highdicom.__version__}": Volume(read.array, Geometry(read.affine, read.array.shape)),
    }
    for name, volume in others.items():
        differ = np.count_nonzero((onto_grid(volume, series.volume.geometry) != 0) != (drawn.labelmap.array != 0))
        print(f"read by {name}: {differ} of {drawn.labelmap.array.size} voxels differ")


def say(command: list[str]) -> None:
    print(f"\n$ {' '.join(command)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder that keeps the files")
    kept = parser.parse_args().keep
    if kept:
        kept.mkdir(parents=True)
        run(kept)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run(Path(folder))
