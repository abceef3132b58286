"""Which name is which model: one table, from a name to what loads it. Nothing here imports torch until then."""

import re
from collections.abc import Callable

from seg_pipeline.errors import ModelError
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
    from seg_pipeline.segmenters.yolo import YoloSegmenter

    return YoloSegmenter(name, weights_path, settings.device, settings.confidence, settings.weights_dir)


def _load_sam2(name: str, settings: Settings) -> Segmenter:
    raise ModelError(f"model {name} is a SAM-2, which this release does not run yet; use demo-yolo or a yolo*-seg.")


_LOADERS: tuple[tuple[re.Pattern[str], Loader], ...] = (
    (re.compile(r"demo-yolo|yolo.*-seg"), _load_yolo),
    (re.compile(r"demo-sam2|sam2.*"), _load_sam2),
)
