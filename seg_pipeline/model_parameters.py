"""The parameters of models as configured: what a job gets that sets none.

Nothing here needs a model library.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from seg_pipeline.domain import (
    POINTS_PER_SIDE,
    SAM2_PARAMETERS,
    Parameters,
    parameters_of,
    parts_of,
)
from seg_pipeline.imaging.naming import Naming
from seg_pipeline.settings import Settings


@dataclass(frozen=True)
class Sam2Parameters:
    """How automatic masks are made. Names, defaults and meaning are `SAM2AutomaticMaskGenerator`'s.

    Only `min_mask_region_area` is not left to upstream, which needs a compiled extension for it and
    silently goes on without. Here small holes and islands are removed from the finished masks, as
    in SAM.
    """

    points_per_side: int = POINTS_PER_SIDE
    points_per_batch: int = 64
    pred_iou_thresh: float = 0.8
    stability_score_thresh: float = 0.95
    stability_score_offset: float = 1.0
    mask_threshold: float = 0.0
    box_nms_thresh: float = 0.7
    crop_n_layers: int = 0
    crop_nms_thresh: float = 0.7
    crop_overlap_ratio: float = 512 / 1500
    crop_n_points_downscale_factor: int = 1
    min_mask_region_area: int = 0
    use_m2m: bool = False
    multimask_output: bool = True


DEMO_PARAMETERS = Sam2Parameters(points_per_side=16, stability_score_thresh=0.7, box_nms_thresh=0.2)
"""The demo model's parameters. Its objects are large, so half the points find them.

Its edges are soft, so several masks of one object differ more than a large model's.
"""


def default_parameters(name: str) -> Sam2Parameters:
    """The parameters of a model of this name, unless configured otherwise."""
    return DEMO_PARAMETERS if name == "demo-sam2" else Sam2Parameters()


def merged_parameters(configured: Sam2Parameters, parameters: Parameters) -> Sam2Parameters:
    """The configured parameters, overridden by those of a call.

    Names of other models' parameters are ignored.
    """
    known: dict[str, Any] = {
        name: parameters[name] for name in asdict(configured) if name in parameters
    }
    return replace(configured, **known)


def is_sam2(name: str) -> bool:
    """Whether a model of this name takes SAM-2's parameters; all others take a YOLO's."""
    return parameters_of(name) is SAM2_PARAMETERS


def configured_sam2_parameters(name: str, settings: Settings) -> Sam2Parameters:
    """What a SAM-2 of this name makes its masks with, by SAM2_POINTS_PER_SIDE and the others."""
    configured = {field: getattr(settings, f"sam2_{field}") for field in _SAM2_SETTINGS}
    overrides = {field: value for field, value in configured.items() if value is not None}
    return replace(default_parameters(name), **overrides)


def configured_parameters(name: str, settings: Settings) -> dict[str, float | bool]:
    """The values that the parameters of `parameters_of(name)` have unless a job sets them."""
    parts = parts_of(name)
    if len(parts) > 1:
        both = {
            key: each
            for part in parts
            for key, each in configured_parameters(part, settings).items()
        }
        return {**both, **asdict(Naming())}
    if is_sam2(name):
        return asdict(configured_sam2_parameters(name, settings))
    return {"confidence": settings.confidence}


_SAM2_SETTINGS = tuple(
    field.removeprefix("sam2_") for field in Settings.model_fields if field.startswith("sam2_")
)

MEANINGS: Mapping[str, str] = {
    "label_iou": "A mask gets a detection's label if they overlap at least so much.",
    "distinct": "One mask for each thing: near duplicates and nested copies are left out.",
    "duplicate_iou": "Masks that overlap at least so much are near duplicates.",
    "confidence": "Detections less sure than this are dropped.",
    "points_per_side": "The grid of prompts along each side; more find smaller things, slower.",
    "points_per_batch": "How many prompts are computed at once, at most.",
    "pred_iou_thresh": "Masks that the model itself rates lower are dropped.",
    "stability_score_thresh": "Masks that change more with the cutoff are dropped.",
    "stability_score_offset": "How far the cutoff is moved to measure stability.",
    "mask_threshold": "The cutoff between a mask's inside and outside.",
    "box_nms_thresh": "Of masks whose boxes overlap more, one stays.",
    "crop_n_layers": "Layers of crops that are searched too, each finer, for small things.",
    "crop_nms_thresh": "Of masks from different crops that overlap more, one stays.",
    "crop_overlap_ratio": "How much neighbouring crops overlap.",
    "crop_n_points_downscale_factor": "By how much each layer's grid is thinner.",
    "min_mask_region_area": "Holes and islands of fewer pixels are removed.",
    "use_m2m": "Refine each mask once more by itself.",
    "multimask_output": "Three masks for each prompt, from part to whole, instead of one.",
}
"""One sentence on each parameter, for people who choose a value."""
