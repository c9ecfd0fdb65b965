"""What the codes of files say, in the user's language: scans, DICOM, masks and datasets, read, changed or sent."""

from __future__ import annotations

from slicer.i18n import tr as _


def about_files() -> dict[str, str]:
    """Files that cannot be read."""
    return {
        "file-missing": _("{path} does not exist, or is no file"),
        "file-damaged": _("{path} is damaged; restore it from a backup"),
        "no-scan-file": _("{path} is neither DICOM nor one of {kinds}"),
        "not-a-mask": _("{path} is not a mask: it holds values from {low} to {high}, a mask has 0 to 255"),
        "is-a-dataset": _("{path} is a dataset or part of one already; add the folder that its scans came from"),
        "mask-without-scan": _("{files} is a mask; choose the scan that it belongs to"),
        "phases-by-file": _("ED and ES are those of {file}: {phases}"),
        "phases-of-several": _(
            "{file} is not used: its folder holds another time series, {other}, and it does not say whose ED and ES it "
            "holds; put each time series into a folder of its own"
        ),
        "no-phase-chosen": _("no phase was chosen; nothing was added"),
        "no-type-chosen": _("no image type was chosen; nothing was added"),
        "series-gone": _("the folder does not hold the chosen series; was it moved or deleted?"),
    }


def about_dicom() -> dict[str, str]:
    """DICOM series that are no volume, and what of them is left out."""
    return {
        "series-unreadable": _("the series in {path} cannot be read: {reason}"),
        "no-dicom": _("{path} holds no DICOM image"),
        "no-scan-in-folder": _("{path} holds no scan"),
        "no-series": _("{path} does not hold the chosen series"),
        "several-series": _("{path} holds {n} series; choose one of them"),
        "one-stack": _("{n} series of one slice each are taken as one stack"),
        "no-scans-left-out": _("left out what is no scan: {names}"),
        "damaged-left-out": _("left out a damaged file: {reason}"),
        "several-types": _("it holds {types}; choose one of them"),
        "time-series": _("the scan is a time series of {n} phases; choose one of them"),
        "only-localisers": _("its {n} images are localisers (scouts); choose the scan itself"),
        "localisers-left-out": _("left out {n} localiser images of the series"),
        "several-references": _("its images have {n} frames of reference, so their positions cannot be compared"),
        "several-orientations": _(
            "its images have {n} orientations (a localiser, or several stacks in one series); one stack of parallel "
            "slices is needed"
        ),
        "several-sizes": _("its images differ in size"),
        "several-spacings": _("its images differ in pixel spacing ({low} to {high} mm)"),
        "slices-missing": _(
            "slices are missing or unevenly spaced: the step is {step} mm along the normal, but {gaps}"
        ),
        "gantry-tilt": _(
            "its slices are shifted against each other (gantry tilt of {degrees} degrees); resample it to an "
            "orthogonal grid"
        ),
        "not-on-a-line": _("its slices do not lie on one line (off by up to {mm} mm)"),
        "shared-positions": _(
            "{n} of its {total} images share a position with another that has different pixels: a time series, or "
            "several echoes or stacks; one image per position is needed"
        ),
        "duplicates-dropped": _("left out {n} images that are identical duplicates"),
        "dicom-damaged": _("{file} is damaged ({reason})"),
        "dicom-truncated": _("{file} is truncated: its header ends early"),
        "dicom-colours": _("{file} holds colours; images of one grey value a pixel are needed"),
        "dicom-no-positions": _("{file} holds {n} frames without positions; it is no volume"),
        "dicom-attribute-missing": _(
            "{file} has no {attribute}; without it the images are no volume in the patient: export the series from the "
            "archive again"
        ),
    }


def about_labels() -> dict[str, str]:
    """Masks that come with scans."""
    return {
        "its-mask": _("its mask"),
        "mask-of-another-grid": _("{mask} is on another grid than the scan"),
        "mask-outside": _("{mask} lies outside of the scan: nothing of what it shows is in the scan's field of view"),
        "mask-resampled": _("{mask} was resampled to the scan's grid; {percent} of its volume is in the scan"),
        "mask-empty": _("{mask} is empty: the label says that the scan shows none of the structures"),
        "mask-empty-draw": _("its mask is empty. Open the case to draw the label"),
        "looks-like-a-mask": _(
            "{scan} holds only the values {values} and looks like a mask, not a scan; name masks <scan>_seg, or put "
            "them into a folder labels next to the folder images of the scans"
        ),
        "label-of-another-grid": _("{mask} is on another grid than its scan; it must lie on that grid"),
        "mask-not-whole": _("{mask}: a label holds whole numbers; round it first"),
        "mask-values": _("{mask}: label values are 0 to 255, this one has {low} to {high}"),
        "mask-of-255": _("the mask holds 0 and 255: 255 is taken as {structure}, not as unlabelled"),
        "mask-left-out": _("{structures} of its mask is no structure of the dataset: background here"),
        "mask-only-255": _("its mask holds only 0 and 255, and 255 means unlabelled here"),
        "mask-values-unknown": _("its mask holds the values {values}, which no label names"),
        "mask-of-a-model": _("{mask} is an unedited mask of {model}, no person's label"),
        "without-label": _("{reason}; it would be added without a label"),
        "added-without-label": _("{reason}; added without a label"),
    }


def about_datasets() -> dict[str, str]:
    """Changes of a dataset that are refused."""
    return {
        "name-unusable": _(
            "{name} cannot be a name here: take up to 128 letters, digits, spaces, '-', '_' and '.', begin with a "
            "letter or a digit, and take none that Windows keeps for devices (CON)."
        ),
        "name-too-long": _("The name is too long ({most} characters at most)."),
        "name-taken": _("{case} has the name {name} already. Choose another."),
        "case-taken": _("There is a case {case} already. Choose another name."),
        "case-was-removed": _("A case {case} was removed from this dataset. Choose another name."),
        "no-case": _("The case {case} was moved or deleted. Reload the dataset."),
        "folder-not-empty": _("The folder {folder} holds other files. Choose a new or empty folder for the dataset."),
        "is-a-dataset-already": _("The folder {folder} is a dataset already. Open it, or choose another folder."),
        "structure-twice": _("Two structures have the name {name}. Give each a name of its own."),
        "no-structure": _("{name} is no structure and part of every dataset. Leave it out."),
        "nothing-to-hold-out": _("A hold-out set needs at least one case that is not held out yet."),
        "no-first-holdout": _("No hold-out set is locked yet. Lock the first one before a second."),
        "holdout-locked": _("The hold-out set of this dataset is locked and never changes."),
        "cases-held-out": _("{cases} belongs to the locked hold-out set, which never changes."),
        "is-held-out": _("{case} belongs to the locked hold-out set, which never changes."),
        "is-excluded": _("{cases} is excluded. Include it first."),
    }


def about_exports() -> dict[str, str]:
    """DICOM files that cannot be written, or not be sent."""
    return {
        "no-voxels": _("left out {structures}: no voxels"),
        "not-in-report": _("not in the report, as they belong to no segment: {names}"),
        "export-differs": _("{file} was not kept: read back, it differs from what was to be written."),
        "export-unlabelled": _(
            "The mask holds {n} unlabelled voxels (255), which DICOM cannot say. Finish drawing, or set them to "
            "background."
        ),
        "export-empty": _("The mask is empty: there is nothing to write."),
        "export-no-code": _(
            "The structure {structure} has no code, which DICOM needs. Choose its terminology in the Segment Editor."
        ),
        "export-no-maker": _("It is not known how {structure} was made, which DICOM states."),
        "export-text": _("{text} cannot be written to DICOM: at most {most} printable characters, no backslash."),
        "export-series": _("A DICOM file cannot refer to this series ({reason}). Export .seg.nrrd instead."),
        "export-several-studies": _("The images of the series name several studies. Choose one series of one study."),
        "export-other-study": _("The segmentation is of another study than the scan."),
        "nothing-to-report": _("No figure belongs to a structure of the mask: there is nothing to report."),
        "no-archive-address": _("{url} is no address of an archive; expected https://HOST/dicom-web"),
        "login-in-address": _("The address holds a user or password. Enter the login separately."),
        "archive-not-encrypted": _("{url} is not encrypted: patient data could be read on the way. Use https://."),
        "archive-silent": _("{url} does not answer. Check the address and the network."),
        "certificate-unknown": _("{url} cannot be trusted: its certificate is not known on this computer."),
        "archive-elsewhere": _("{url} sends elsewhere. Enter the address of the DICOMweb service itself."),
        "no-dicomweb": _("{url} does not speak DICOMweb. Check the address (of an Orthanc it ends in /dicom-web)."),
        "login-refused": _("{url} refuses the login. Check user and password."),
        "archive-refuses": _(
            "{url} answers {answer}. Check the address (of an Orthanc it ends in /dicom-web), or ask who runs the "
            "archive."
        ),
        "sent-in-part": _("{reason}; {n} of {total} files are there. Send again: what has arrived is not sent twice."),
    }
