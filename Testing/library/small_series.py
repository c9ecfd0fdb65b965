"""DICOM series made here with pydicom: classic and enhanced, oblique, in random order under random names."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import BasicTextSRStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.spatial.transform import Rotation

from mper.volume import Geometry, Volume

STUDY, FRAME_OF_REFERENCE = generate_uid(), generate_uid()
Change = Callable[[int, Dataset], object]


def nothing(_: int, __: Dataset) -> None:
    """Leave an image as it is."""


def stack(shape: tuple[int, int, int] = (6, 5, 4), angles: Sequence[float] = (20, -35, 50)) -> Volume:
    """An oblique, non-isotropic volume whose slices ascend along the normal of their plane, each voxel different."""
    directions = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.eye(3)[:, ::-1]
    geometry = Geometry.from_axes((-12.5, 40.25, 7.0), (2.5, 0.7, 0.9), directions, shape)
    return Volume(np.arange(np.prod(shape), dtype=np.int16).reshape(shape), geometry)


def bright_ball(radius: float = 1.0, shape: tuple[int, int, int] = (12, 30, 26)) -> Volume:
    """A scan with a bright ball in noise, large enough for a model."""
    volume, n = stack(shape), np.array(shape)
    index = np.moveaxis(np.indices(shape), 0, -1)
    inside = (((index - n / 2) / (n * 0.35 * radius)) ** 2).sum(axis=-1) < 1
    noise = np.random.default_rng(0).normal(100, 10, shape)
    return volume.with_array((noise + 200 * inside).astype(np.int16))


def write_report(path: Path, study: str = STUDY) -> None:
    """A structured report: DICOM without images."""
    report = Dataset()
    report.file_meta = FileMetaDataset()
    report.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    report.SOPClassUID, report.SOPInstanceUID, report.Modality = BasicTextSRStorage, generate_uid(), "SR"
    report.StudyInstanceUID, report.SeriesInstanceUID = study, generate_uid()
    path.parent.mkdir(parents=True, exist_ok=True)
    report.save_as(path, enforce_file_format=True)


def mark_localiser(_: int, image: Dataset) -> None:
    """What makes an image one of a localiser."""
    image.ImageType, image.SeriesDescription = ["ORIGINAL", "PRIMARY", "LOCALIZER"], "localizer"


def texts(values: Sequence[float]) -> list[str]:
    """Numbers as DICOM's decimal strings: at most 16 characters."""
    return [f"{value:.9f}"[:16] for value in np.ravel(values)]


def header(sop_class: str, series: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    image.SOPClassUID, image.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    image.StudyInstanceUID, image.SeriesInstanceUID, image.FrameOfReferenceUID = STUDY, series, FRAME_OF_REFERENCE
    image.Modality, image.SeriesDescription, image.SeriesNumber = "MR", "LGE 3D", 5
    image.ImageType = ["ORIGINAL", "PRIMARY"]
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 16, 15, 1
    return image


def set_pixels(image: Dataset, pixels: np.ndarray) -> None:
    image.Rows, image.Columns = pixels.shape[-2:]
    image.PixelData = pixels.astype("<i2").tobytes()


def write_classic(
    folder: Path, volume: Volume, change: Change = nothing, series: str | None = None, prefix: str = "IM"
) -> str:
    """One file a slice, in random order under random names; returns the series' UID."""
    series = series or generate_uid()
    folder.mkdir(parents=True, exist_ok=True)
    names = list(range(len(volume.array)))
    random.Random(4).shuffle(names)
    for k, pixels in enumerate(volume.array):
        image = header(MRImageStorage, series)
        image.InstanceNumber = names[k]
        image.ImagePositionPatient = texts(volume.geometry.to_world((k, 0, 0)))
        image.ImageOrientationPatient = texts(volume.geometry.directions[:, [2, 1]].T)
        image.PixelSpacing = texts(volume.geometry.step_lengths[1:])
        image.SliceThickness = 9
        set_pixels(image, np.asarray(pixels))
        if change(k, image) != "leave out":
            image.save_as(folder / f"{prefix}{names[k]:04d}", enforce_file_format=True)
    return series


def item(**attributes: object) -> Items:
    made = Dataset()
    for name, value in attributes.items():
        setattr(made, name, value)
    return Items([made])


def write_enhanced(path: Path, volume: Volume, change: Change = nothing) -> str:
    """All slices in one file, in random order; `change` sees each frame's groups."""
    image = header(EnhancedMRImageStorage, generate_uid())
    order = list(range(len(volume.array)))
    random.Random(5).shuffle(order)
    image.NumberOfFrames = len(order)
    shared, frames = Dataset(), []
    shared.PlaneOrientationSequence = item(ImageOrientationPatient=texts(volume.geometry.directions[:, [2, 1]].T))
    shared.PixelMeasuresSequence = item(PixelSpacing=texts(volume.geometry.step_lengths[1:]), SliceThickness=9)
    shared.PixelValueTransformationSequence = item(RescaleSlope=2, RescaleIntercept=-100, RescaleType="US")
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = item(ImagePositionPatient=texts(volume.geometry.to_world((k, 0, 0))))
        frame.FrameContentSequence = item(StackID="1", InStackPositionNumber=k + 1)
        change(k, frame)
        frames.append(frame)
    image.SharedFunctionalGroupsSequence, image.PerFrameFunctionalGroupsSequence = Items([shared]), Items(frames)
    set_pixels(image, np.asarray(volume.array)[order])
    image.save_as(path, enforce_file_format=True)
    return str(image.SeriesInstanceUID)


def write_cine(folder: Path, phases: Sequence[Volume], enhanced: bool = False) -> None:
    """A cine of the beating heart, 90 ms from phase to phase: one image a file, or all in one file."""
    if enhanced:
        slices = len(phases[0].array)
        frames = Volume(np.concatenate([one.array for one in phases]), _repeated(phases[0].geometry, len(phases)))

        def place(number: int, frame: Dataset) -> None:
            n, k = divmod(number, slices)
            frame.PlanePositionSequence = item(ImagePositionPatient=texts(phases[0].geometry.to_world((k, 0, 0))))
            frame.CardiacSynchronizationSequence = item(NominalCardiacTriggerDelayTime=90.0 * n)

        write_enhanced(folder / "cine.dcm", frames, place)
        return
    series = None
    for n, volume in enumerate(phases):
        series = write_classic(folder, volume, lambda _, i, n=n: setattr(i, "TriggerTime", 90 * n), series, f"p{n}-")


def _repeated(geometry: Geometry, times: int) -> Geometry:
    """A grid of so many slices more; `write_enhanced` wants one place a frame."""
    return Geometry(geometry.affine, (geometry.shape[0] * times, *geometry.shape[1:]))
