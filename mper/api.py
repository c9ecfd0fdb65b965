"""What a notebook or a script needs, in one place: the names that ``import mper`` offers.

Each function hands its work to the module that the command line and the engine use, too. What it adds: paths may be
text, notes go to the logger ``mper`` (Python shows its warnings on stderr), and torch is imported where it is needed.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mper.labels import Segmentation, make_label
from mper.progress import Notify, Report, ignore_progress
from mper.resources import find_model, sample_scan
from mper.strokes import Stroke
from mper.volume import Geometry, Volume

if TYPE_CHECKING:
    from mper.datasets.dataset import Case, Dataset
    from mper.datasets.importer import ImportSummary
    from mper.datasets.packed import PackedCase, PackedDataset
    from mper.dicom.seg_check import ExportReport
    from mper.inference.prediction import Prediction
    from mper.inference.predictor import Predictor
    from mper.io import SpacingChoice
    from mper.labels import Label
    from mper.measurement.measures import Measures

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

_DICOM_ENDING = ".dcm"


class Model:
    """A model, loaded and ready to segment scans; `load_model` makes one.

    Parameters
    ----------
    predictor : mper.inference.predictor.Predictor
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @property
    def name(self) -> str:
        """Its name, such as ``la``."""
        return self.predictor.bundle.card.name

    @property
    def version(self) -> str:
        """Its version; a version never changes."""
        return self.predictor.bundle.card.version

    @property
    def labels(self) -> tuple[Label, ...]:
        """The structures that it segments, with values, names, colours and codes."""
        return self.predictor.bundle.card.labels

    def __repr__(self) -> str:
        names = ", ".join(label.name for label in self.labels)
        return f"Model({self.name} {self.version}: {names}; on {self.predictor.device})"

    def segment(
        self,
        scan: Volume,
        *,
        roi: Sequence[float] | None = None,
        at: Sequence[float] | None = None,
        tta: bool = False,
        want: Collection[str] = ("label_probability", "prototypes", "embeddings"),
        report: Report = ignore_progress,
    ) -> Prediction:
        """Segment a scan.

        Parameters
        ----------
        scan : Volume
        roi : six numbers or None
            x0, x1, y0, y1, z0, z1 in LPS mm: the region to segment. None: the whole scan, or the region around the
            heart that the model finds in a wide field of view.
        at : three numbers or None
            Instead of an ROI a point x, y, z in the structure, in LPS mm; the box around it is segmented.
        tta : bool
            Average over mirrored copies of the scan (test-time augmentation).
        want : collection of {"label_probability", "prototypes", "embeddings", "probabilities"}
            What to compute besides the mask. `refine` needs the embeddings; ``want=()`` takes the least memory.
        report : callable
            Is given the progress (`mper.progress.Progress`).

        Returns
        -------
        mper.inference.prediction.Prediction
            The mask (``.segmentation``), the Dice to expect of it (``.quality``), the case's confidence, the notes, and
            the maps that were asked for, all on the grid of the scan.

        Raises
        ------
        ValueError
            If the scan cannot be segmented: one line says why.

        Examples
        --------
        >>> prediction = model.segment(scan)
        >>> prediction.segmentation
        Segmentation(1 LA; 88x138x177 voxels (k, j, i) of 0.625x0.625x0.625 mm)
        >>> f"{prediction.segmentation.volumes_ml()['LA']:.0f} mL, confidence {prediction.confidence:.2f}"
        '38 mL, confidence 0.94'
        >>> prediction.notes
        ()

        Why a voxel has its label: 1 + class * prototypes of a class + prototype, so 4, 5 and 6 are those of class 1.

        >>> sorted(set(prediction.prototype_map.array[prediction.segmentation.labelmap.array == 1].tolist()))
        [4, 5, 6]
        """
        return self.predictor.predict(scan, roi=roi, at=at, tta=tta, want=want, report=report)


def _log_note(line: str) -> None:
    """Where notes go when nobody asked for them: one line each, work goes on."""
    logging.getLogger("mper").warning(line)


def read_scan(
    path: str | Path,
    series: str | None = None,
    phase: int | str | None = None,
    image_type: str | None = None,
    *,
    spacing_mm: SpacingChoice = None,
    notify: Notify | None = None,
) -> Volume:
    """Read a scan: NRRD, NIfTI, MetaImage, HDF5, a DICOM file, or the folder of a DICOM series or study.

    Parameters
    ----------
    path : str or Path
    series : str or None
        SeriesInstanceUID, where a DICOM folder holds several scans.
    phase : int or {"ED", "ES"} or None
        Which phase of a time series: its number from 1, end diastole or end systole.
    image_type : str or None
        Which images, where a DICOM series holds several types at each position, such as ``WATER``.
    spacing_mm : (float, float, float), "keep" or None
        Along (k, j, i), in place of what the file states; "keep" takes the file's, even where no patient is as large.
    notify : callable or None
        Is given each note about the file (one line), such as a duplicate that was left out. None: they are logged.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    ValueError
        If it is not one whole three-dimensional scan, or not clear which one is meant: one line says why, and what
        there is to choose from.

    Examples
    --------
    >>> scan = mper.read_scan(mper.sample_scan())
    >>> scan
    Volume(uint8, 88x138x177 voxels (k, j, i) of 0.625x0.625x0.625 mm)
    >>> scan.geometry.to_world((44, 69, 88)).round(1).tolist()  # LPS mm of a voxel (k, j, i)
    [55.0, 43.1, 27.5]
    """
    from mper.io import check_scan, with_spacing
    from mper.io.opened import open_scan
    from mper.phases import parse_choice

    notify = notify or _log_note
    opened = open_scan(Path(path), series, notify, image_type)
    numbers = opened.phases.chosen(None if phase is None else parse_choice(str(phase)))
    if len(numbers) != 1:
        raise ValueError(f"phase {phase} of {path} is not one phase; give a number from 1 to {opened.phases.count}")
    scan = opened.read(numbers[0])
    check_scan(scan)
    return with_spacing(scan, spacing_mm, notify)


def read_segmentation(
    path: str | Path,
    source: str | Path | None = None,
    labels: Sequence[str] | None = None,
    *,
    series: str | None = None,
    phase: int | None = None,
    notify: Notify | None = None,
) -> Segmentation:
    """Read a mask with its labels.

    Parameters
    ----------
    path : str or Path
        ``.seg.nrrd``; a DICOM segmentation, with its `source`; or a plain mask of whole numbers, with its `labels`.
    source : str or Path or None
        The DICOM series that a DICOM segmentation belongs to.
    labels : sequence of str or None
        What the values 1, 2, ... of a plain mask are called.
    series, phase : str, int or None
        Which series of `source`, and which phase of a time series.

    Raises
    ------
    FileNotFoundError
        If it does not exist.
    ValueError
        If it is no mask, or `source` or `labels` are missing.

    Examples
    --------
    >>> reference = mper.read_segmentation(mper.sample_scan().with_name("la-reference.nrrd"), labels=["LA"])
    >>> reference.labels[0].type.meaning
    'Left atrium'
    """
    from mper.io import read_labelmap
    from mper.io import read_segmentation as read_named

    path = Path(path)
    name = path.name.lower()
    if name.endswith(_DICOM_ENDING) or source is not None:
        if source is None:
            raise ValueError(f"{path} belongs to a DICOM series; give its folder as source")
        from mper.dicom.seg_read import read_seg
        from mper.dicom.series import read_series

        note = notify or _log_note
        return read_seg(path, read_series(Path(source), series, note, phase), note)
    if name.endswith(".seg.nrrd"):
        return read_named(path, notify or _log_note)
    if not labels:
        raise ValueError(f"{path} has no names; say what its values 1, 2, ... are, as in labels=['LA']")
    return Segmentation(
        read_labelmap(path, notify or _log_note), tuple(make_label(n, each) for n, each in enumerate(labels, 1))
    )


def write_segmentation(
    path: str | Path,
    segmentation: Segmentation,
    source: str | Path | None = None,
    *,
    series: str | None = None,
    phase: int | None = None,
    notify: Notify | None = None,
) -> ExportReport | None:
    """Write a mask; the ending of `path` decides the format.

    Parameters
    ----------
    path : str or Path
        ``.seg.nrrd`` keeps names, colours, codes and provenance; ``.nrrd``, ``.nii``, ``.nii.gz`` and ``.mha`` keep
        the numbers; ``.dcm`` is a DICOM segmentation, which is read back and compared before it is kept.
    segmentation : Segmentation
    source : str or Path or None
        The DICOM series that a DICOM segmentation refers to.
    series, phase : str, int or None
        Which series of `source`, and which phase of a time series.

    Returns
    -------
    mper.dicom.seg_check.ExportReport or None
        Of a DICOM segmentation: what the comparison showed.

    Raises
    ------
    ValueError
        If the ending is unknown, or the mask cannot be stored so.
    OSError
        If it cannot be written; nothing half-written is left.

    Examples
    --------
    >>> mper.write_segmentation("la.seg.nrrd", prediction.segmentation)
    >>> mper.read_segmentation("la.seg.nrrd").provenance[1].type
    'AUTOMATIC'
    """
    path = Path(path)
    if not path.name.lower().endswith(_DICOM_ENDING):
        from mper.io import write_segmentation as write

        write(path, segmentation)
        return None
    if source is None:
        raise ValueError(
            f"{path} would be a DICOM segmentation, which refers to the series of its scan; give its folder as source"
        )
    from mper.dicom.seg_write import write_seg
    from mper.dicom.series import read_series

    note = notify or _log_note
    return write_seg(path, segmentation, read_series(Path(source), series, note, phase), notify=note)


def write_volume(path: str | Path, volume: Volume) -> None:
    """Write a scan or a map as ``.nrrd``, ``.nii``, ``.nii.gz`` or ``.mha``.

    Raises
    ------
    ValueError
        If the ending or the voxels' type cannot be written.
    OSError
        If it cannot be written; nothing half-written is left.

    Examples
    --------
    >>> mper.write_volume("prototypes.nrrd", prediction.prototype_map)
    """
    from mper.io import write_volume as write

    write(Path(path), volume)


def load_model(name: str | Path, device: str = "auto") -> Model:
    """Load a model.

    Parameters
    ----------
    name : str or Path
        A bundled model (``la``, ``la-8``, ``acdc``), or the path of a model folder, of a zip of one, or of the folder
        of a dataset's model (``dataset/models/atrium``), of which the version in use is taken.
    device : {"auto", "cpu", "cuda", "mps"}

    Raises
    ------
    FileNotFoundError
        If there is no such model; the message names those there are.
    ValueError
        If the model is damaged, or the machine has no such device.

    Examples
    --------
    >>> model = mper.load_model("la", device="cpu")
    >>> [label.name for label in model.labels]
    ['LA']
    """
    from mper.inference.predictor import Predictor
    from mper.models.bundle import ModelBundle

    return Model(Predictor(ModelBundle.load(find_model(str(name))), device))


def refine(prediction: Prediction, strokes: Sequence[Stroke], report: Report = ignore_progress) -> Segmentation:
    """Correct a mask with strokes, as MPER Segment and ``mper refine`` do.

    To add and undo strokes one by one, keep a `mper.refinement.refiner.Refiner`.

    Parameters
    ----------
    prediction : Prediction
        With its embeddings, as `Model.segment` keeps them.
    strokes : sequence of Stroke
        In the order in which they were drawn; a later one counts where two overlap.

    Returns
    -------
    Segmentation
        A new mask; the structures that it changes say that a person edited them.

    Raises
    ------
    ValueError
        If the prediction was made without embeddings, or a stroke lies outside the segmented region.

    Examples
    --------
    >>> here = scan.geometry.to_world((44, 75, 60))  # LPS mm
    >>> corrected = mper.refine(prediction, [mper.Stroke(1, [here], radius_mm=3.0)])
    >>> int(corrected.labelmap.array[44, 75, 60]), corrected.provenance[1].type
    (1, 'SEMIAUTOMATIC')
    """
    from mper.refinement.refiner import Refiner

    refiner = Refiner(prediction)
    refiner.set_strokes(strokes, report=report)
    return refiner.segmentation


def measure(mask: Segmentation | Prediction) -> tuple[Measures, ...]:
    """Measure every structure of a mask: volume, surface, connected parts; of a prediction also its confidence.

    Parameters
    ----------
    mask : Segmentation or mper.inference.prediction.Prediction

    Examples
    --------
    >>> la = mper.measure(prediction)[0]
    >>> f"{la.name}: {la.volume_ml:.0f} mL, {la.components} part, confidence {la.confidence:.2f}"
    'LA: 38 mL, 1 part, confidence 0.94'
    """
    from mper.labels import Segmentation
    from mper.measurement.measures import measure as measured

    if isinstance(mask, Segmentation):
        return measured(mask)
    return measured(mask.segmentation, mask.structure_confidence)


def create_dataset(path: str | Path, labels: Sequence[str], name: str | None = None) -> Dataset:
    """Make an empty dataset in a new or empty folder.

    Parameters
    ----------
    path : str or Path
    labels : sequence of str
        The structures; they get the values 1, 2, ... Known names (LA, RV, ...) get their colours and SNOMED CT codes.
    name : str or None
        None: the name of the folder.

    Raises
    ------
    FileExistsError
        If the folder holds something.
    ValueError
        If there is no structure, or two have the same name.

    Examples
    --------
    >>> dataset = mper.create_dataset("atria", ["LA"])
    >>> case = dataset.add_case("case-1", scan, {"format": "nrrd"})
    >>> revision = case.add_label(reference.labelmap, author="me", how="hand")
    >>> dataset.add_to_split("train", ["case-1"])
    >>> dataset.splits
    {'train': ('case-1',)}
    """
    from mper.datasets.dataset import Dataset

    path = Path(path)
    made = [make_label(value, each) for value, each in enumerate(labels, 1)]
    return Dataset.create(path, name or path.resolve().name, made)


def import_source(
    source: str | Path,
    dataset: str | Path,
    *,
    split: str | None = None,
    labels: Sequence[str] | None = None,
    scribbles: bool = False,
    spacing_mm: SpacingChoice = None,
    report: Report = ignore_progress,
    notify: Notify | None = None,
) -> ImportSummary:
    """Import scans, with their masks where there are any, into a dataset, which is made where it is missing.

    Parameters
    ----------
    source : str or Path
        A folder in one of the known layouts (see ``mper import --help``), a folder of scans, or one scan.
    dataset : str or Path
    split : str or None
        Where the cases go; None: as the source's lists say, else ``train``.
    labels : sequence of str or None
        What the values 1, 2, ... of the masks are called; None: as the layout says.
    scribbles : bool
        Take the scribbles of ACDC in HDF5 in place of its masks.
    spacing_mm : (float, float, float), "keep" or None
        As in `read_scan`, for all cases.

    Raises
    ------
    FileNotFoundError, ValueError
        If the source is in no known layout, or no case could be imported.

    Examples
    --------
    >>> summary = mper.import_source(mper.sample_scan(), "atria", split="unlabelled")
    >>> summary.added, summary.labels_added
    (1, 0)
    """
    from mper.datasets.importer import import_source as run

    return run(Path(source), Path(dataset), split, labels, report, notify or _log_note, scribbles, spacing_mm)


def open_dataset(path: str | Path) -> Dataset | PackedDataset:
    """Open a dataset, or one that `mper pack` wrote.

    Raises
    ------
    FileNotFoundError
        If the folder is missing or no dataset.
    ValueError
        If it is damaged.

    Examples
    --------
    >>> dataset = mper.open_dataset("atria")
    >>> dataset.name, dataset.cases
    ('atria', ('case-1', 'la'))
    >>> dataset.case("case-1").label().array.max()
    np.uint8(1)
    """
    from mper.datasets.packed import open_dataset as opened

    return opened(Path(path))


def train(
    dataset: Dataset | PackedDataset | str | Path,
    *,
    method: str = "mper",
    labeled: int | None = None,
    steps: int | None = None,
    budget_s: float | None = None,
    start_from: str | Path | None = None,
    name: str | None = None,
    split: str = "train",
    device: str = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    report: Report = ignore_progress,
    notify: Notify | None = None,
    **more: Any,
) -> Model:
    """Train a model on a dataset.

    The run is a folder of its own, with curves and checkpoints; ``mper train --resume`` continues one that was stopped.

    Parameters
    ----------
    dataset : Dataset, PackedDataset, str or Path
    method : str
        A name of `mper.methods.registry.METHODS`.
    labeled : int or None
        Use the labels of the first so many labelled cases only; the other scans count as unlabelled.
    steps, budget_s : int or float or None
        How long: steps, or seconds of training. With neither, the published number of steps (hours).
    start_from : str or Path or None
        The model to fine-tune.
    name : str or None
        Publish the result as the next version of this model of the dataset.
    split : str
        The cases to train on. The locked hold-out is refused.
    device : {"auto", "cpu", "cuda", "mps"}
    seed : int
    out : str or Path or None
        The run folder; None: ``runs/<time>`` in the dataset.
    report, notify : callable
        Are given the progress, and each note. Without `notify` notes are logged.
    **more
        Every other parameter of `mper.training.config.TrainConfig` (recipe, network, patch, batch, ...).

    Returns
    -------
    Model
        The trained model, loaded.

    Raises
    ------
    ValueError, TypeError
        If dataset, choices and machine do not fit: one line says what to change.
    mper.progress.Cancelled
        If `report` raises it; the run can be resumed.

    Examples
    --------
    Two steps show that it runs; a useful model takes half an hour of a CPU or more, such as ``budget_s=1800``.

    >>> mine = mper.train("atria", name="atrium", steps=2, method="supervised", patch=(16, 32, 32), device="cpu")
    >>> mine.name, mine.version
    ('atrium', '1')
    """
    from mper.datasets.dataset import new_run_folder
    from mper.datasets.packed import check_label_count, check_training_split
    from mper.models.card import read_bundle
    from mper.training.config import TrainConfig
    from mper.training.publish import publish_run
    from mper.training.runs import RunFolder
    from mper.training.start_model import check_start
    from mper.training.trainer import remove_failed, start_run
    from mper.training.trainer import train as run_training
    from mper.utils.files import check_name

    opened = _opened(dataset)
    if name is not None:
        check_name(name, "model")
    config = TrainConfig(
        dataset=str(opened.path.resolve()),
        method=method,
        labeled=labeled,
        steps=steps,
        budget_s=budget_s,
        start_from=None if start_from is None else str(find_model(str(start_from)).resolve()),
        name=name,
        split=split,
        device=device,
        seed=seed,
        **more,
    )
    for each in config.splits:
        check_training_split(opened, each)
    check_label_count(opened, config.splits, labeled)
    if config.start_from is not None:
        check_start(config, read_bundle(Path(config.start_from)).card)
    made = out is None or not Path(out).exists()
    folder = new_run_folder(opened.path) if out is None else Path(out)
    start_run(config, folder)
    note = notify or _log_note
    try:
        bundle = run_training(folder, report, note)
    except ValueError as error:
        if made:
            remove_failed(RunFolder(folder), error)
        raise
    return load_model(publish_run(folder, note) or bundle, device)


def evaluate(
    model: Model,
    dataset: Dataset | PackedDataset | str | Path,
    split: str | Sequence[str] | None = None,
    *,
    tta: bool = False,
    report: Report = ignore_progress,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Segment the labelled cases of a split, or of several, and compare the masks with the labels.

    Parameters
    ----------
    model : Model
    dataset : Dataset, PackedDataset, str or Path
    split : str, sequence of str or None
        None: the locked hold-out, else ``test``, else ``val``, else the only one.
    tta : bool
        Average over mirrored copies of each scan.

    Returns
    -------
    dict
        ``mean``, ``labels`` and ``cases``: Dice, Jaccard, 95 % Hausdorff and average surface distance, in voxels and,
        where the spacing is known, in mm (`mper.evaluation.evaluate.evaluate`).

    Raises
    ------
    ValueError
        If no case has a label, or model and dataset share no structure.

    Examples
    --------
    >>> found = mper.evaluate(model, "atria", split="train")
    >>> f"Dice {found['mean']['dice']:.2f} on {len(found['cases'])} case"
    'Dice 0.94 on 1 case'
    """
    from mper.evaluation.evaluate import evaluate as run

    opened = _opened(dataset)
    cases = _cases_of(opened, split)
    return run(model.predictor, cases, opened.labels, tta, report, notify or _log_note)


def compare(
    old: Model,
    new: Model,
    dataset: Dataset | PackedDataset | str | Path,
    split: str | Sequence[str] | None = None,
    *,
    report: Report = ignore_progress,
    notify: Notify | None = None,
) -> dict[str, Any]:
    """Evaluate two models on the same cases, which neither should have been trained on.

    Parameters
    ----------
    old, new : Model
    dataset, split
        As for `evaluate`.

    Returns
    -------
    dict
        ``cases`` with Dice before and after, the worst first, ``mean_before``, ``mean_after``, and ``words``: what so
        many cases allow to say.

    Examples
    --------
    >>> found = mper.compare(model, mine, "atria", split="train")
    >>> found["mean_before"] > found["mean_after"]  # two steps of training are not enough
    True
    """
    from mper.evaluation.comparison import compare as run

    opened = _opened(dataset)
    cases = _cases_of(opened, split)
    return run(lambda: old.predictor, lambda: new.predictor, cases, opened.labels, report, notify or _log_note)


def _cases_of(dataset: Dataset | PackedDataset, split: str | Sequence[str] | None) -> list[Case | PackedCase]:
    """The cases of some splits, each once."""
    from mper.evaluation.evaluate import choose_split

    names = [split] if isinstance(split, str) else list(split or [choose_split(dataset.splits, dataset.holdout)])
    return list({case.id: case for name in names for case in dataset.split(name)}.values())


def _opened(dataset: Dataset | PackedDataset | str | Path) -> Dataset | PackedDataset:
    return open_dataset(dataset) if isinstance(dataset, str | Path) else dataset
