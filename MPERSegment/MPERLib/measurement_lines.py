"""What the codes of measurements say, in the user's language: notes, and why something cannot be measured."""

from __future__ import annotations

from slicer.i18n import tr as _


def about_measurements() -> dict[str, str]:
    """Figures of an atrium, of ventricles and of other structures."""
    return {
        "unlabelled-as-background": _("{n} unlabelled voxels (255) count as background"),
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
        "not-a-person": _("{what}: {number} {unit} is not a person's ({low} to {high} {unit} expected)"),
        "no-ventricle": _("The masks have no ventricle (LV, RV)."),
        "empty-masks": _("The masks are empty: no voxel is {structure}. There is nothing to measure."),
        "one-phase": _("one phase is given: EF needs a mask of ED and one of ES"),
        "one-phase-alone": _("There is one phase, and ED and ES are two. Choose the masks of both."),
        "phases-of-other-grids": _("The masks of phases {first} and {second} lie on different grids."),
        "structure-missing-in-phases": _("Only {n} of {total} masks have the structure {structure}."),
        "empty-phases": _(
            "no voxel is {structure} in phase {phases}, which is taken neither as ED nor as ES; check the mask"
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


def about_clips() -> dict[str, str]:
    """Planes and spheres that clip an atrium."""
    return {
        "clip-removes-nothing": _("The clip {clip} removes no voxel of the mask. Move it, turn it, or leave it out."),
        "clips-remove-all": _(
            "The clips remove the whole mask. A plane removes the side that its normal points to: turn it, or make the "
            "spheres smaller."
        ),
        "no-clips-file": _("{path} is no file of clips that can be read"),
        "clip-twice": _("Two clips have the name {clip}. Give each its own."),
        "clip-radius": _("The radius of the clip {clip} must be above zero."),
        "clip-normal": _("The clip {clip} has no direction to remove. Turn it."),
    }


def about_model_files() -> dict[str, str]:
    """Models that cannot be read."""
    return {
        "model-missing": _("There is no model at {path}."),
        "model-damaged": _("The model in {path} is damaged. Get it again, or train it again."),
        "model-of-another-version": _("The model in {path} is of another version. Update MPER, or train it again."),
    }
