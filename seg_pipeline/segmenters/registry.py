"""Which name is which model: one table, from a name to what loads it. Nothing here imports torch until then."""

import re
from collections.abc import Callable
from dataclasses import replace

from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.weights import find_weights
from seg_pipeline.settings import Settings

Loader = Callable[[str, Settings], Segmenter]


def load_segmenter(name: str, settings: Settings) -> Segmenter:
    """The model of this name, loaded and ready; seconds of work, so keep it (`warm.WarmModels` does).

    Raises WeightsMissing, ModelFailed or ModelOutOfMemory.
    """
    for pattern, load in _LOADERS:
        if pattern.fullmatch(name):
            return load(name, settings)
    return _load_yolo(name, settings)  # a path that the operator configured; find_weights refuses any other name


def _load_yolo(name: str, settings: Settings) -> Segmenter:
    weights_path = find_weights(name, settings)
    from seg_pipeline.segmenters.yolo import YoloSegmenter, import_ultralytics

    import_ultralytics(settings.weights_dir)
    return YoloSegmenter(name, weights_path, settings.device, settings.confidence)


def _load_sam2(name: str, settings: Settings) -> Segmenter:
    weights_path = find_weights(name, settings)
    from seg_pipeline.segmenters.sam2 import Sam2Segmenter, default_parameters

    asked = {field: getattr(settings, f"sam2_{field}") for field in _SAM2_SETTINGS}
    set_ones = {field: value for field, value in asked.items() if value is not None}
    return Sam2Segmenter(name, weights_path, settings.device, replace(default_parameters(name), **set_ones))


_SAM2_SETTINGS = tuple(field.removeprefix("sam2_") for field in Settings.model_fields if field.startswith("sam2_"))

_LOADERS: tuple[tuple[re.Pattern[str], Loader], ...] = (
    (re.compile(r"demo-yolo|yolo.*-seg"), _load_yolo),
    (re.compile(r"demo-sam2|sam2.*"), _load_sam2),
)
