"""What the codes of measurements say, in the user's language: notes, and why something cannot be measured."""

from __future__ import annotations

from slicer.i18n import tr as _


def about_measurements() -> dict[str, str]:
    """Figures of an atrium, of ventricles and of other structures."""
    return {
        "unlabelled-as-background": _("{n} unlabelled voxels (255) count as background"),
        "no-body": _("no indices by body surface area: enter height and weight under Measure"),
        "no-range": _("the mask at probability {level} has no figures: {reason}"),
        "clips-need-one-atrium": _("Clips and ranges are those of one mask of a left atrium (LA). Leave them out."),
        "nothing-to-measure": _("The mask has no structure that can be measured alone."),
        "probability-of-another-grid": _("The probability lies on another grid than the mask. Segment the scan again."),
        "mask-without-spacing": _("The voxel spacing is unknown, so nothing can be measured in mL or mm."),
        "scan-of-another-grid": _("Scan and mask lie on different grids. Choose the scan that the mask was made on."),
        "empty-mask-measured": _("The mask is empty: there is nothing to measure."),
        "largest-measured": _(
            "the mask has {n} components; the largest is measured, the others ({ml} mL) are left out"
        ),
        "cut": _(
            "the mask ends at the border of the scan: the volume is a lower bound, and the cut face is no wall; where "
            "it is a vein, clip it"
        ),
        "wall-outside": _("{percent} % of the wall lies outside the scan and is left out"),
        "no-surface": _(
            "slices are {mm} mm apart: a surface between them would be invented; wall area, sphericity and wall "
            "enhancement are not given"
        ),
        "no-enhancement": _("wall enhancement is not given: {reason}"),
        "no-cavity": _("the mask has no cavity for the blood pool; draw the cavity (no wall, no shell)"),
        "no-positive-blood": _(
            "the blood pool has a mean intensity of {mean}; ratios need intensities above zero: choose the scan as the "
            "scanner wrote it, not normalised"
        ),
        "wall-mostly-outside": _("most of the wall lies outside the scan; choose a scan that shows the whole atrium"),
        "wall-setting-range": _("{name} must be from {low} to {high} mm"),
        "not-a-height": _("A height of {number} {unit} is not a person's ({low} to {high} {unit} expected)."),
        "not-a-weight": _("A weight of {number} {unit} is not a person's ({low} to {high} {unit} expected)."),
        "no-ventricle": _("The masks have no ventricle (LV, RV)."),
        "empty-masks": _("The masks are empty: no voxel is {structure}. There is nothing to measure."),
        "one-phase": _("one phase is given: EF needs a mask of ED and one of ES"),
        "one-phase-alone": _("There is one phase, and ED and ES are two. Choose the masks of both."),
        "phases-of-other-grids": _("The masks of phases {first} and {second} lie on different grids."),
        "structure-missing-in-phases": _("Only {n} of {total} masks have the structure {structure}."),
        "empty-phases": _(
            "no voxel is {structure} in phase {phases}, which is taken neither as ED nor as ES; check the mask"
        ),
        "empty-at": _(
            "no voxel is {structure} at {what} (phase {phase}), so figures that need it are not given; check the mask"
        ),
        "empty-atrium-phases": _(
            "no voxel is LA in phase {phases}, which the emptying fraction leaves out; check the mask"
        ),
        "same-phase": _(
            "Phase {phase} is both ED and ES. Choose masks of two phases in which {structure} differs in size."
        ),
        "ed-smaller": _(
            "Phase {ed}, taken as ED, has a smaller {structure} ({ed_ml} mL) than phase {es}, taken as ES ({es_ml} "
            "mL). Swap them."
        ),
        "phases-chosen": _("ED is phase {ed} and ES is phase {es}: there {structure} is largest and smallest"),
        "smaller-in-ed": _("{structure} is smaller in phase {ed} (ED) than in phase {es} (ES); check its masks"),
        "no-such-phase": _("There is no phase {n} to be {what}: there are {count}."),
    }


def about_figures() -> dict[str, str]:
    """Names, groups and methods of figures."""
    return {
        "left-atrium": _("Left atrium"),
        "left-ventricle": _("Left ventricle"),
        "right-ventricle": _("Right ventricle"),
        "myocardium": _("Myocardium"),
        "wall": _("Wall (LGE)"),
        "la-wall-area": _("LA wall area"),
        "la-sphericity": _("LA sphericity"),
        "la-emptying": _("LA total emptying fraction"),
        "lv-mass": _("LV mass"),
        "shell-volume": _("Wall shell volume"),
        "pool-mean": _("Blood pool mean"),
        "pool-sd": _("Blood pool SD"),
        "wall-iir-median": _("Wall IIR, median"),
        "figure-volume": _("{structure} volume"),
        "figure-surface": _("{structure} surface"),
        "figure-index": _("{name} index"),
        "figure-area": _("{name}, area"),
        "figure-extent": _("{name}, extent"),
        "openings-left-out": _("openings of the clips left out"),
        "cut-left-out": _("cut face at the border of the scan left out"),
        "method-cut": _("the mask ends at the border of the scan, so a part of the wall is missing"),
        "sampled-max": _("maximum along the normal, 0 to {mm} mm outward"),
        "sampled-mean": _("mean along the normal, 0 to {mm} mm outward"),
        "method-voxels": _("voxels x voxel size"),
        "method-unclipped": _(
            "voxels x voxel size, largest component; not clipped: veins and appendage as far as the mask has them"
        ),
        "method-clipped": _("voxels x voxel size, largest component; clipped at {clips}"),
        "method-phase": _("voxels x voxel size over all slices, phase {phase}"),
        "method-one-phase": _("voxels x voxel size over all slices, one phase"),
        "method-surface": _("marching cubes on the mask smoothed by a Gaussian of {n} voxel, at constant volume"),
        "method-surface-alone": _("marching cubes on the mask smoothed by a Gaussian of {n} voxel"),
        "method-no-surface": _("slices are {mm} mm apart: a surface between them would be invented"),
        "method-sphericity": _("100 (1 - SD(r) / mean(r)), r from the centroid to the wall, by area (Bisbal 2013)"),
        "method-pool": _("intensity, cavity eroded by {mm} mm, {n} voxels"),
        "method-shell": _("voxels within {mm} mm outside of the surface, openings left out"),
        "method-iir": _("wall intensity / blood pool mean, by area; {sampled}"),
        "method-threshold": _("threshold {value} ({source}); {sampled}; share of the wall's area"),
        "method-index": _("{name} / body surface area of {area} m2 (Mosteller)"),
        "method-emptying": _("(max - min) / max over {n} phases"),
        "method-none": _("no voxel is {structure}"),
        "method-none-at": _("no voxel is {structure} at {phase}"),
        "method-no-emptying": _("fewer than two phases have a voxel of the LA"),
        "method-mass": _("volume of the myocardium at phase {phase} (ED) x {density} g/mL"),
    }


def about_clips() -> dict[str, str]:
    """Planes and spheres that clip an atrium."""
    return {
        "clip-removes-nothing": _("The clip '{clip}' removes no voxel of the mask. Move it, turn it, or leave it out."),
        "clips-remove-all": _(
            "The clips remove the whole mask. A plane removes the side that its normal points to: turn it, or make the "
            "spheres smaller."
        ),
        "no-clips-file": _("{path} is no file of clips that can be read"),
        "clip-twice": _("Two clips have the name '{clip}'. Give each its own."),
        "clip-radius": _("The radius of the clip '{clip}' must be above zero."),
        "clip-normal": _("The clip '{clip}' has no direction to remove. Turn it."),
    }


def about_model_files() -> dict[str, str]:
    """Models that cannot be read."""
    return {
        "model-missing": _("There is no model at {path}."),
        "not-a-model": _("{path} is not a model. Choose the folder of a model, or its zip."),
        "model-damaged": _("The model in {path} is damaged. Get it again, or train it again."),
        "model-of-another-version": _("The model in {path} is of another version. Update MPER, or train it again."),
    }
