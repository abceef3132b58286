"""The parameters of SAM-2's automatic masks."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from seg_pipeline.domain import Parameters


@dataclass(frozen=True)
class Sam2Parameters:
    """How automatic masks are made. Names, defaults and meaning are `SAM2AutomaticMaskGenerator`'s.

    Only `min_mask_region_area` is not left to upstream, which needs a compiled extension for it and
    silently goes on without. Here small holes and islands are removed from the finished masks, as
    in SAM.
    """

    points_per_side: int = 32
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
