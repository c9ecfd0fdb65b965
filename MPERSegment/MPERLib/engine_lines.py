"""What the engine's codes say, in the user's language: one table for each kind of line."""

from __future__ import annotations

import functools

from slicer.i18n import tr as _

from MPERLib.file_lines import about_datasets, about_dicom, about_exports, about_files, about_labels
from MPERLib.measurement_lines import about_clips, about_figures, about_measurements, about_model_files


@functools.cache
def words() -> dict[str, str]:
    """The words of all codes; Slicer's language stays the same until it ends.

    Two codes of plans are refusals, too: `plans` has their words in a plan.
    """
    return {
        **plans(),
        **_refusals(),
        **_failures(),
        **_about_masks(),
        **_about_strokes(),
        **_about_cases(),
        **_about_models(),
        **about_files(),
        **about_dicom(),
        **about_labels(),
        **about_datasets(),
        **about_exports(),
        **about_figures(),
        **about_measurements(),
        **about_clips(),
        **about_model_files(),
    }


def _refusals() -> dict[str, str]:
    """Requests that are refused."""
    return {
        "no-dataset": _("The folder of '{dataset}' was moved or deleted. Open it where it is now."),
        "no-model": _("The model {model} was moved or deleted. Choose another model."),
        "no-prediction": _("The model's result is not in memory any more. Segment the scan again."),
        "no-scan": _("The scan is not in memory any more. Try again: it is sent once more."),
        "no-room": _("There is no room for another scan. Wait until the work that is under way has ended."),
        "no-holdout": _("Lock a hold-out set first (under Cases); otherwise the comparison is biased."),
        "disk-full": _("The disk is nearly full. Make room on it, then try again."),
        "busy": _("{n} tasks are under way already. Wait for one to end, or cancel one."),
        "ending": _("The engine is ending. Start it again."),
        "wrong-token": _("The access token is missing or wrong. Enter it again, under Engine."),
        "too-large": _("This is too large to be sent: {megabytes} MB at most. Choose a smaller region."),
        "string-too-long": _("The {field} is too long ({limit} characters at most)."),
        "string-too-short": _("The {field} is too short ({limit} characters at least)."),
        "run-works": _("The training {run} is at work. Pause or cancel it first."),
        "run-finished": _("The training {run} is finished. Start a new one from its model."),
        "run-over": _("The training {run} has ended already."),
        "scan-held-out": _("This scan is {case} of the hold-out set already. It is never used for training."),
        "other-image": _(
            "This mask was drawn on another image than the scan of {case}. Save it as a case of its own, under another "
            "name."
        ),
        "cohort-works": _("The cohort {folder} is being segmented already. Pause it first, or choose another folder."),
        "no-results": _("The folder {folder} holds no results of a cohort. Choose one that was segmented into."),
        "no-folder": _("The folder {folder} was moved or deleted. Choose another."),
        "inside-dataset": _("The folder '{folder}' lies inside a dataset. Choose a folder next to it."),
        "split-locked": _("{split} is the locked hold-out set of this dataset. Choose another split."),
        "no-cohort": _("The cohort {cohort} is not open. Open its folder first."),
        "cohort-starting": _("The run is just starting. Pause it when the first scan is being segmented."),
        "cohort-idle": _("{folder} is not being segmented: there is nothing to pause."),
        "cohort-unrecorded": _("It is not recorded how {folder} was segmented. Start it again with the same folders."),
        "cohort-of-another-model": _(
            "The folder {folder} holds masks of the model {theirs}, not of {ours}. Choose another folder."
        ),
        "cohort-of-other-options": _("The folder {folder} holds masks made with other options. Choose another folder."),
        "cohort-of-others": _("The folder {folder} holds the results of another cohort. Choose another folder."),
        "cohort-damaged": _("The results in the folder {folder} are damaged. Choose another folder."),
        "cohort-not-started": _("The work could not be started. See its log."),
        "scan-gone": _("The scan {scan} was moved or deleted. Put it back, or segment the cohort again."),
        "folder-is-file": _("{file} is a file. Choose a folder."),
        "none-accepted": _("No mask of this cohort is accepted. Accept or correct some first."),
        "outside-roots": _("Only the user who started the engine may choose folders of that computer."),
        "scan-outside-roots": _("Only the user who started the engine may open this scan."),
    }


def _failures() -> dict[str, str]:
    """Why something could not be done."""
    return {
        "out-of-memory": _("Not enough memory. Close other programs, or segment a smaller region."),
        "package-missing": _("The package {package} is missing or damaged ({reason}). Install MPER's packages again."),
        "internal-error": _(
            "An internal error ({what}). Please send us {log}, which holds the details and no patient data."
        ),
        "disk-is-full": _("the disk is full"),
        "disk-quota": _("the disk quota is used up"),
        "disk-read-only": _("the disk is read-only"),
        "disk-failed": _("{reason}; make room, or choose another disk, and try again"),
        "file-failed": _("{file}: {reason}"),
        "no-file-locks": _(
            "The disk of {folder} has no file locks. Choose a folder on a local disk, or ask for that disk to be "
            "mounted with locks."
        ),
        "no-device": _("This computer has no device {device}. Choose another under Device."),
        "device-unsupported": _(
            "PyTorch {torch} does not support the graphics card {card}. Choose the processor under Device, or install "
            "a PyTorch that does."
        ),
        "single-slice": _(
            "The scan is a single slice; at least two are needed. Load the whole series, or a file of the whole volume."
        ),
        "too-long-axis": _(
            "The scan has {n} voxels along axis {axis}, more than {most}: it is probably several series or a time "
            "series. Choose one volume."
        ),
        "not-finite": _("{n} of {total} voxels of the scan are not finite (NaN or infinite). Replace them first."),
        "empty-scan": _("The scan is empty: every voxel is {value}."),
        "impossible-size": _(
            "The scan would be {extent} mm large, with voxels of {voxel} mm, and no patient is: its spacing is wrong. "
            "Correct it in module Volumes, or in the file."
        ),
        "spacing-needed": _(
            "The scan's voxel spacing is unknown and the model needs it. Use a format that stores the spacing (NRRD, "
            "NIfTI, DICOM)."
        ),
        "too-many-voxels": _(
            "At the voxel size of the model the scan has {size} voxels, more than any memory holds. Correct its "
            "spacing, or draw an ROI."
        ),
        "constant-region": _("The region to segment is constant: it holds no image. Check the scan or the ROI."),
        "roi-without-spacing": _("The scan's voxel spacing is unknown, so an ROI in mm has no place. Leave it out."),
        "roi-outside": _(
            "The ROI ({box}) contains no voxel of the scan, whose extent is {extent} (LPS mm). Move it into the scan."
        ),
        "point-outside": _(
            "The point {point} lies outside the scan, whose extent is {extent} (LPS mm). Choose one inside it."
        ),
        "training-diverged": _(
            "The training diverged at step {step}. Look for damaged scans or labels, or choose another method."
        ),
        "checkpoint-not-written": _(
            "The state of the training could not be saved: {reason}. Make room on the disk, then resume it."
        ),
        "checkpoint-damaged": _("The saved state of the training is damaged. Start it again."),
        "method-of-slices": _(
            "The method {method} segments slices, and these scans are volumes. Choose another method."
        ),
        "method-of-volumes": _(
            "The method {method} segments volumes, and these scans are stacks of thick slices. Choose another method."
        ),
        "no-labelled-voxel": _("The labelled scans show too few labelled voxels. Label more."),
        "unfit-backbone": _("the method {method} cannot train its network, {backbone}; suitable are {suitable}"),
        "run-not-started": _("The training could not be started. See its log."),
        "run-stopped": _("The training stopped unexpectedly. Resume continues from the last saved state"),
        "run-damaged": _("A file of this training is damaged ({reason}). Restore it from a backup."),
        "nothing-to-compare": _(
            "The model segments {ours}, the dataset has labels of {theirs}: there is nothing to compare."
        ),
        "none-in-common": _("The current version segments {before}, the new one {after}: there is nothing to compare."),
        "none-labelled": _("None of the {n} cases has a label. Label at least one."),
        "cannot-rank": _(
            "Model {model} segments {structures}, none of which this dataset has, so it cannot choose the next case. "
            "Train a version first."
        ),
        "structures-become-one": _(
            "{structures} of the mask would become one structure of the dataset; rename one of them, or merge them "
            "first"
        ),
        "mask-of-others": _("the mask shows {structures}, which the dataset does not have"),
        "mask-without": _(
            "the dataset also has {structures}, which the mask does not show and would call background; keep it in a "
            "dataset of its own structures"
        ),
        "labelled-already": _(
            "its scan is {case}, which has a label by {author} already; compare the two in MPER Trainer"
        ),
    }


def _about_masks() -> dict[str, str]:
    """Notes and flags of a mask, and how good it is expected to be."""
    return {
        "noise": _("the scan looks like noise: neighbouring voxels are unrelated; the mask means nothing"),
        "outside-window": _(
            "the intensities ({low} to {high}) lie outside the model's window of {window_low} to {window_high}; check "
            "that the scan is in Hounsfield units"
        ),
        "unlike-intensities": _("the intensities are distributed unlike those of the training scans; check the mask"),
        "at-scan-border": _("the mask touches the border of the scan; the structure may reach beyond it"),
        "at-region-border": _("the mask touches the border of the region; a larger ROI may show more of it"),
        "empty-mask": _("the mask is empty: {structures} not found; check the scan and the model"),
        "not-found": _("{structure} was not found"),
        "in-parts": _("{structure} is in {n} parts"),
        "unlike-volume": _(
            "the volume of {structure} ({ml} mL) is unlike that of the training labels ({low} to {high} mL); check "
            "that it is the right kind of scan"
        ),
        "quality-check": _("check (expected Dice {dice}, {low} to {high}): {reasons}"),
        "quality-likely-wrong": _("likely wrong (expected Dice {dice}, {low} to {high}): {reasons}"),
        "evidence-confidence": _("the model is unsure of the boundary"),
        "evidence-prototype_agreement": _("the two classifiers of the model disagree"),
        "evidence-similarity": _("the tissue in the mask is unlike that of the training scans"),
        "evidence-background_similarity": _("the surroundings are unlike those of the training scans"),
        "evidence-localization_agreement": _("the search at low resolution sees the structure elsewhere"),
        "evidence-size": _("the volume is unlike that of the training labels"),
        "evidence-shape": _("the shape is unlike that of the training labels"),
        "evidence-slices": _("the distance between slices is unlike that of the training scans"),
        "evidence-slice_overlap": _("the mask does not continue from slice to slice"),
        "evidence-free_border": _("the mask is cut at the border of the region"),
        "evidence-one_piece": _("the mask is in several pieces"),
        "evidence-intensities": _("the intensities are distributed unlike those of the training scans"),
        "evidence-smoothness": _("the scan is noisy"),
        "no-prototypes": _("the model has no prototypes; there is no prototype map"),
        "no-prototype-map": _("The model has no prototypes, so there is no prototype map. Choose another model."),
        "not-mirrored": _("the model was trained without mirrored scans; no mirrored copies are averaged"),
        "spacing-assumed": _(
            "the scan has no voxel spacing; the spacing and orientation of the training scans are assumed: {spacing} mm"
        ),
        "whole-volume": _("the whole volume at once on {device}"),
        "in-tiles": _("the volume in tiles on {device}"),
        "localisation-on": _("the localisation on {device}"),
        "memory-short": _("memory is short: {what} needs about {needed} GB, {usable} GB can be used"),
        "memory-short-tried": _(
            "memory is short: {what} needs about {needed} GB, {usable} GB can be used; trying it anyway"
        ),
        "memory-ran-out": _("memory ran out with {failed}; went on with {instead}"),
        "operation-missing": _("the device lacks an operation, with {failed}; went on with {instead}"),
        "gpu-is-wrong": _("the Apple GPU computes this network wrongly; it ran on the processor instead"),
        "wide-unlocated": _(
            "the field of view is {mm} mm wide and {reason}; the whole scan is segmented. Set an ROI for a better mask"
        ),
        "no-localizer": _("this model cannot find its region"),
        "localizer-missing": _("the model that finds its region, {name}, is not installed"),
        "nothing-located": _(
            "the field of view is {mm} mm wide and nothing in it looks like the structure; set an ROI if the scan does "
            "show it"
        ),
        "located": _(
            "the field of view is {mm} mm wide: the region {box} (LPS mm) was located automatically; check it, or set "
            "an ROI"
        ),
        "roi-cut": _("the ROI extends beyond the scan, whose extent is {extent} (LPS mm); it is cut there"),
        "ran-on-cpu": _("the training {run} uses the graphics card, so this was computed without it"),
        "waited-for-training": _("waited for the training {run}, which used the graphics card"),
    }


def _about_strokes() -> dict[str, str]:
    """Strokes, and places that are worth one."""
    return {
        "stroke-note": _("stroke {number}: {note}"),
        "points-outside": _("{n} of its {total} points lie outside the segmented region"),
        "replaces-stroke": _("it replaces {n} voxels of stroke {number} ({name}): the later stroke counts"),
        "stroke-outside": _(
            "The stroke lies outside the segmented region (its first point is {point} LPS mm). Draw inside it, or "
            "segment with another ROI."
        ),
        "strokes-of-another-scan": _("The strokes were drawn on another scan. Segment the scan that they belong to."),
        "too-many-strokes": _("There are {n} strokes, {most} at most are used. Correct the rest by hand."),
        "too-many-points": _("The strokes have {n} points, {most} at most are used. Draw fewer or shorter strokes."),
        "radius-too-large": _("Stroke {n} has a radius of {radius} mm, {most} mm at most. Choose a smaller brush."),
        "strokes-too-large": _("The strokes paint {litres} litres, {most} at most. Choose a smaller brush."),
        "nothing-segmented": _(
            'Nothing of this scan was segmented, as the structure was not located in it. Click "It is here" and then '
            "its middle in a slice, or draw an ROI."
        ),
        "uncertain-border": _("{ml} mL uncertain at the border of {structure} (probability {percent} here)"),
        "uncertain-outside": _("{ml} mL uncertain outside all structures (probability {percent} here)"),
        "uncertain-border-size-unknown": _("uncertain at the border of {structure} (probability {percent} here)"),
        "uncertain-outside-size-unknown": _("uncertain outside all structures (probability {percent} here)"),
    }


def _about_cases() -> dict[str, str]:
    """Cases: what is left out, the hold-out set, and which to label next."""
    return {
        "skipped": _("{what} is skipped: {reason}"),
        "more-skipped": _("{n} more are skipped"),
        "case-left-out": _("{case} is left out: {reason}"),
        "case-note": _("{case}: {note}"),
        "case-note-before": _("{case}: {note} (current version)"),
        "case-note-after": _("{case}: {note} (new version)"),
        "same-scan": _("this scan is in the dataset already, as {cases}"),
        "copies-locked": _("{cases}: the same scan as a case of the hold-out set, so locked too"),
        "held-out-unlabelled": _("{cases}: no label yet, and nothing is measured on it before"),
        "held-out-drafts": _(
            "{cases}: labelled by a model alone, so figures there flatter that model; look at these labels and correct "
            "them first"
        ),
        "held-out-parts": _(
            "{cases}: labelled only in part, so figures there count the labelled voxels alone; label the rest first"
        ),
        "held-out-trained-on": _("{cases} was trained on before: figures of those models are too good there"),
        "trained-on-holdout": _(
            "Model {model} was trained on {cases} before they were held out: its figures are too good there"
        ),
        "segments-nothing": _("The model segments nothing in this scan."),
        "far-from-prototypes": _("{percent} % of the structure matches no prototype well (usual: {usual} %)"),
        "low-confidence": _("its confidence is low ({confidence}, median {median})"),
        "unlike-prototypes": _("its prototypes differ from those of the labelled cases"),
        "ordinary": _("Similar to the other cases (confidence {confidence})."),
    }


def _about_models() -> dict[str, str]:
    """What a comparison of two models says, and why a method of training was chosen."""
    return {
        "not-evaluated": _("the model does not segment {structures}: not evaluated"),
        "partly-evaluated": _("the dataset does not label all of {ours}: only {structures} is evaluated"),
        "unlabelled-left-out": _("{n} of {total} cases have no label and were left out"),
        "partly-labelled": _(
            "{cases}: partly labelled. Only labelled voxels are evaluated, and these are no random sample"
        ),
        "compared-one": _("On 1 held-out case the mean Dice changes from {before} to {after}."),
        "compared": _(
            "On {n} held-out cases the mean Dice changes from {before} to {after} (better on {better}, worse on "
            "{worse}, as good on {same})."
        ),
        "no-difference": _("There is no difference."),
        "one-case": _("One case allows no conclusion; label more cases for the hold-out set."),
        "few-cases-chance": _(
            "So few cases cannot show mean differences below about {resolution}: this one may be chance."
        ),
        "few-cases-larger": _(
            "So few cases cannot show mean differences below about {resolution}: this one is larger, but based on few "
            "cases."
        ),
        "may-be-chance": _("Such a difference may be chance (Wilcoxon's signed-rank test, p = {p})."),
        "no-chance": _("Such a difference is unlikely to be chance (Wilcoxon's signed-rank test, p = {p})."),
        "other-direction": _(
            "Most cases change in the other direction than the mean, which is unlikely to be chance (Wilcoxon's "
            "signed-rank test, p = {p}). Look at the cases."
        ),
        "p-small": _("below 0.001"),
        "largest-loss": _("The largest loss is {loss} ({before} to {after})."),
        "auto-strokes": _(
            "most labels are strokes alone: where these were all that was learned, models lost 5 to 7 points of Dice; "
            "where the model labelled the rest of corrected scans itself, they gained 0.6"
        ),
        "auto-none-unlabelled": _("there are no scans without labels"),
        "auto-tuned-slices": _("scans without labels were not measured where a model of slices is fine-tuned"),
        "auto-tuned-many": _(
            "where a model was fine-tuned on 8 labelled volumes of the kind that it knew, scans without labels gained "
            "only 0.6 points of Dice in 1,100 steps and 1.1 in 4,000; here {n} are labelled"
        ),
        "auto-tuned-short": _(
            "scans without labels gained no Dice where a model was adapted to another sequence in 300 steps (-0.3 "
            "points; volumes, 2 labelled scans, five draws); train for longer to use them"
        ),
        "auto-tuned-more": _(
            "scans without labels gained 0.6 points of Dice where a model was fine-tuned on 8 labelled volumes of the "
            "kind that it knew, in 1,100 steps, and 1.1 in 4,000 (two seeds each); here {n} are labelled"
        ),
        "auto-tuned-few": _(
            "scans without labels gained 2.5, 1.6 and 1.4 points of Dice where a model was fine-tuned on 1, 2 and 4 "
            "labelled volumes of the kind that it knew, in 750 to 1,100 steps, 4.9, 2.8 and 2.2 in 2,600 to 3,300 "
            "(two seeds each), and 0.8 with 2 of another sequence in 3,600 (five draws)"
        ),
        "auto-short": _(
            "a training that uses scans without labels would have about {steps} steps, too few to learn from these; "
            "train for longer to use them"
        ),
        "auto-slices": _(
            "with slices of 3 labelled patients scans without labels gained 8 and 12 points of Dice in 450 and 3,200 "
            "steps (one seed each; bcp gained nothing in 1,200 and 14 in 3,200; more labels were not measured)"
        ),
        "auto-few-labels": _(
            "36 to 39 scans without labels gained 4.3, 2.3 and 1.0 points of Dice with 1, 2 and 4 labelled volumes in "
            "1,650 steps (three seeds), and 6.5, 2.4 and 1.4 in 6,600 (two seeds)"
        ),
        "auto-long": _(
            "32 scans without labels gained 0.8 points of Dice with 8 labelled volumes (6,600 steps, two seeds); here "
            "{n} are labelled"
        ),
        "auto-many-labels": _(
            "with 8 labelled volumes scans without labels gained only 0.3 points of Dice in 1,650 steps and 0.8 in "
            "6,600; here {n} are labelled"
        ),
    }


def plans() -> dict[str, str]:
    """How long a training takes, and what speaks against it."""
    return {
        "takes": _("About {time} on this computer, about {steps} steps."),
        "takes-too-short": _(
            "About {time} on this computer, about {steps} steps: too short to change the model. Allow more time."
        ),
        "takes-measured": _("About {time} on this computer, measured on the last training."),
        "takes-perhaps": _("Perhaps {time} on this computer; no training was measured yet."),
        "label-first": _("Label a case first."),
        "choose-start": _("Choose another start."),
        "too-few-labels": _("There are {there} labelled cases, fewer than {asked}. Label more, or use fewer."),
        "too-few-labels-of": _(
            "Split {split} has {there} labelled cases, fewer than {asked}. Label more, or use fewer of each split."
        ),
        "split-unlabelled": _("No case of split {split} has a label. Label one, or leave the split out."),
        "choose-options": _("Choose other options."),
        "start-backbone": _("Model {model} has the backbone {backbone}. Choose that one, or train from scratch."),
        "patch-unfit": _(
            "A patch of {patch} voxels does not fit the network. Use multiples of 16; the first number is 1 for a "
            "network of slices, and never for one of volumes."
        ),
        "no-label": _("No case has a label. Label at least one, better two."),
        "unfit-start": _("Model {model} cannot be the start: {reason}."),
        "one-label": _("Only one case is labelled: the model will overfit to it. Label another."),
        "never-drawn": _("{structures}: drawn in no labelled case, so it cannot be learned. Draw it first."),
        "not-drawn": _("{structure} is not drawn in {cases}: the model learns that it is absent there. Draw it, too."),
        "several-parts": _(
            '{structures}: labelled in several parts, and masks keep only the largest. Tick "Structures in several '
            'parts" in Advanced.'
        ),
        "drafts-learned": _(
            "{cases}: labelled by a model alone, and learned from as if a person had drawn it. Look at these labels "
            "and correct them."
        ),
        "regions": _("{cases}: only the region is used."),
        "label-outside-region": _(
            "{percent} % of the label of {case} lies outside its region and is not learned from. Enlarge the region, "
            "or clear it."
        ),
        "label-all-outside": _(
            "The whole label of {case} lies outside its region. Draw the region around it, or clear it."
        ),
        "region-too-small": _(
            "The region holds only {size} voxels of the scan. Draw one of at least {least} voxels along each axis."
        ),
        "region-below-patch": _(
            "The region of {case} is too small to train on: it has {size} voxels of the network's grid, a patch has "
            "{patch}. Draw a larger region, or clear it."
        ),
        "no-holdout": _("No hold-out set is locked, so the quality cannot be measured. Lock a few labelled cases."),
        "holdout-drafts": _("Hold-out set: the labels of {cases} are unedited drafts of a model. Correct them."),
        "holdout-parts": _("Hold-out set: {cases} are labelled only in part. Label the rest."),
        "small-holdout": _("The hold-out set has {n} labelled cases, too few for a reliable measurement. Label more."),
        "none-unlabelled": _("The method also uses scans without labels, and there are none. Choose another method."),
        "few-unlabelled-steps": _(
            "Of about {steps} steps only {n} use scans without labels, too few to learn from these. Train for longer, "
            "or choose another method."
        ),
        "sparse-labels": _(
            "{cases}: less than 5 % of the voxels are labelled, and the method learns from these alone, which made "
            "models worse. Label more, or add scans without labels and choose a method that uses them."
        ),
        "too-few-steps": _("The training has about {steps} steps, too few for a model to learn. Train for longer."),
        "few-labels": _(
            "Only {n} scans are labelled, so that a step of the training takes several patches of one. Label more."
        ),
        "parts-ignored": _(
            "Of {total} labelled scans {n} are labelled only in part, and the rest of these is ignored. Label the rest."
        ),
        "parts-self-labelled": _(
            "Of {total} labelled scans {n} are labelled only in part; the model labels the rest of these itself while "
            "it is trained. Label the rest."
        ),
        "no-training-on-mps": _("No Apple GPU can train yet: the training runs on the processor, which is slow."),
        "adapted": _(
            "{model} has a Dice of {dice} on the labelled scans, as on another scanner or sequence, and is adapted "
            "more strongly. Check the result on the hold-out set."
        ),
        "shows-held-out": _(
            "{cases}: the same scan as a case of the hold-out set, so not trained on: else that would be no test."
        ),
        "held-out-since": _(
            "{cases}: held out after this training began to learn from it, so the hold-out set is measured without it. "
            "Start a new training for a model that has not seen it."
        ),
        "held-out-known": _(
            "{cases}: the model that this training starts from was trained on it, so the hold-out set is measured "
            "without it. Start from another model, or train from scratch, for figures on it."
        ),
        "holdout-unmeasured": _("The hold-out set could not be measured: {reason}"),
        "unlabelled-unseen": _("The scans without labels could not be looked at: {reason}"),
        "quality-unmeasured": _("The quality of masks could not be measured: {reason}"),
        "no-expected-dice": _("Masks of this model get no expected Dice: {reason}"),
        "no-self-training": _(
            "The training ended after {steps} steps, before it learned from scans without labels. Train for longer, or "
            "choose another method."
        ),
        "unlike-unlabelled": _(
            "Of {total} scans without labels {n} ({cases}) got a mask of another shape than the labels have. Look at "
            "them, and exclude those that show something else (More… under Cases)."
        ),
        "painted": _(
            "{n} cases are labelled by strokes alone; such cases made models worse. Correct whole masks with strokes, "
            "or add scans without labels and choose a method that uses them."
        ),
        "other-structures": _(
            "Model {model} segments {theirs}, not {ours}: these structures are learned from scratch."
        ),
        "other-slices": _("The scans are stacks of slices; {model} was trained on volumes. Choose another start."),
        "other-volumes": _("The scans are volumes; {model} was trained on thick slices. Choose another start."),
        "unlike-start": _(
            "{cases} look unlike the scans that {model} was trained on. Check the result on the hold-out set, and "
            "compare with a training without a start model."
        ),
        "no-card": _("No graphics card is in use: training on the processor is slow."),
        "other-run": _("The training {run} is still running: both will be slower."),
        "no-room": _("Less than 1 GB is free on the disk of the dataset. Make room first."),
    }
