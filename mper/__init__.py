"""Annotation-efficient segmentation with multi-prototype embedding refinement (MPER).

From a scan to a mask and back to a better model, in a notebook:

>>> import mper
>>> scan = mper.read_scan(mper.sample_scan())  # or your own NRRD, NIfTI, MetaImage file or DICOM folder
>>> model = mper.load_model("la", device="cpu")
>>> prediction = model.segment(scan)
>>> prediction
Prediction(LA 37.7 mL; confidence 0.94; 0 notes)
>>> mper.write_segmentation("mask.seg.nrrd", prediction.segmentation)

- read and write: `read_scan`, `read_segmentation`, `write_segmentation`, `write_volume`
- segment, correct, measure: `load_model`, `Model.segment`, `refine` with a `Stroke`, `measure`
- datasets: `create_dataset`, `import_source`, `open_dataset`
- train and judge: `train`, `evaluate`, `compare`
- values: `Volume` with its `Geometry`, `Segmentation`

Arrays are (k, j, i): slice, row, column; the world is LPS in mm; in a mask 0 is background and 255 unlabelled.
`help(mper.train)` explains a function. ``import mper`` is light: what is heavy (torch) is imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mper.api import (
        Geometry,
        Model,
        Segmentation,
        Stroke,
        Volume,
        compare,
        create_dataset,
        evaluate,
        import_source,
        load_model,
        measure,
        open_dataset,
        read_scan,
        read_segmentation,
        refine,
        sample_scan,
        train,
        write_segmentation,
        write_volume,
    )

__version__ = "0.1.0"

__all__ = [
    "Geometry",
    "Model",
    "Segmentation",
    "Stroke",
    "Volume",
    "compare",
    "create_dataset",
    "evaluate",
    "import_source",
    "load_model",
    "measure",
    "open_dataset",
    "read_scan",
    "read_segmentation",
    "refine",
    "sample_scan",
    "train",
    "write_segmentation",
    "write_volume",
]


if not TYPE_CHECKING:  # for type checkers a name that is not above stays unknown

    def __getattr__(name: str) -> object:
        """Names of `mper.api`, on first use (PEP 562)."""
        if name not in __all__:
            raise AttributeError(f"module 'mper' has no attribute {name!r}; it offers {', '.join(__all__)}")
        from mper import api

        value = globals()[name] = getattr(api, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
