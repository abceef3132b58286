"""Upstream's own `SAM2AutomaticMaskGenerator`, for comparison and for rarely used options."""

import warnings
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from seg_pipeline.domain import BoolMask, Box, RgbImage
from seg_pipeline.model_parameters import Sam2Parameters
from seg_pipeline.segmenters.sam2.generator import GeneratedMask, PointBatches

BATCH_BYTES = 2**31
"""About the most bytes that the full-resolution logits of a batch of points may take.

Large pictures get smaller batches.
"""


class UpstreamMasks:
    """Automatic masks by upstream's generator, in float32.

    `predictor` is its `SAM2ImagePredictor`.
    """

    def __init__(self, model: Any, batches: PointBatches) -> None:
        self._generator = _make_generator(model)
        self._batches = batches
        self.predictor: Any = self._generator.predictor

    def generate(self, image: RgbImage, parameters: Sam2Parameters) -> list[GeneratedMask]:
        """Upstream's masks in its order, as windows of the whole picture."""
        height, width = image.shape[:2]
        that_fit = max(BATCH_BYTES // (4 * 3 * height * width), 1)
        while True:
            size = min(self._batches.size(parameters.points_per_batch), that_fit)
            _set_parameters(self._generator, replace(parameters, points_per_batch=size))
            try:
                records = self._generator.generate(np.require(image, requirements=["C", "W"]))
            except Exception as error:
                self._batches.halve_or_raise(size, error)
                continue
            return [_to_generated_mask(record, Box(0, 0, width, height)) for record in records]


def _to_generated_mask(record: dict[str, Any], box: Box) -> GeneratedMask:
    bits = decode_run_lengths(record["segmentation"])
    return GeneratedMask(
        box, bits, float(record["predicted_iou"]), float(record["stability_score"])
    )


def _make_generator(model: Any) -> Any:
    from sam2.automatic_mask_generator import SAM2AutomaticMaskGenerator

    class Generator(SAM2AutomaticMaskGenerator):  # type: ignore[misc]
        """Upstream's generator, fixed for crops without any mask, whose boxes lose their shape."""

        def _process_crop(self, *args: Any) -> Any:
            data = super()._process_crop(*args)
            data["crop_boxes"] = data["crop_boxes"].reshape(-1, 4)
            return data

    with warnings.catch_warnings():
        # Upstream scripts its transforms, which torch deprecates.
        warnings.filterwarnings("ignore", r".*torch\.jit\.")
        generator = Generator(model, output_mode="uncompressed_rle")
    # Upstream takes every model for one of 1024 px.
    generator.predictor._bb_feat_sizes = [
        (model.image_size // stride,) * 2 for stride in (4, 8, 16)
    ]
    return generator


def _set_parameters(generator: Any, parameters: Sam2Parameters) -> None:
    """Changes the parameters of upstream's generator, which is cheaper than making a new one."""
    from sam2.utils.amg import build_all_layer_point_grids

    for name, value in asdict(parameters).items():
        if name not in ("points_per_side", "min_mask_region_area"):
            setattr(generator, name, value)
    generator.point_grids = build_all_layer_point_grids(
        parameters.points_per_side,
        parameters.crop_n_layers,
        parameters.crop_n_points_downscale_factor,
    )


def decode_run_lengths(rle: dict[str, Any]) -> BoolMask:
    """The mask `(H, W) bool` of COCO's uncompressed run lengths.

    They run down the columns and begin with zeros.
    """
    height, width = rle["size"]
    counts = np.asarray(rle["counts"])
    set_or_not = np.arange(len(counts)) % 2 == 1
    return np.repeat(set_or_not, counts).reshape(width, height).T
