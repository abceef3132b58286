"""The table from a model's name to what loads it. Nothing here imports torch before that."""

import re
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from seg_pipeline.model_parameters import configured_parameters, configured_sam2_parameters
from seg_pipeline.segmenters import Segmenter
from seg_pipeline.segmenters.kept_files import embeddings_path
from seg_pipeline.segmenters.parity import gate
from seg_pipeline.segmenters.weights.digest import weights_sha256
from seg_pipeline.segmenters.weights.locate import locate_weights
from seg_pipeline.settings import InferenceMode, Settings


def load_segmenter(name: str, settings: Settings) -> Segmenter:
    """The model of this name, loaded. It takes seconds, so keep it (`warm.WarmModels` does).

    With INFERENCE_MODE=turbo the first load on a machine takes minutes (see `parity/gate.py`).
    Raises WeightsMissing, ModelFailed or ModelOutOfMemory.
    """
    if settings.inference_mode == "exact":
        return load_in_mode(name, settings, "exact")
    subject = parity_subject(name, settings)
    return gate.load_quickest(
        subject, parity_folder(settings), partial(load_in_mode, name, settings)
    )


def load_in_mode(name: str, settings: Settings, mode: gate.RunMode) -> Segmenter:
    """The model in a mode, whatever is configured and judged. `upstream` is for a SAM-2 alone."""
    from seg_pipeline.segmenters.devices import keep_compiled_in, pick_device

    weights_path = locate_weights(name, settings)
    if pick_device(settings.device).startswith("cuda"):
        keep_compiled_in(settings.weights_dir / "compiled")
    if _is_sam2(name):
        return _load_sam2(name, weights_path, settings, mode)
    return _load_yolo(name, weights_path, settings, "turbo" if mode == "turbo" else "exact")


def parity_verdict(
    name: str,
    settings: Settings,
    progress: gate.Progress,
    again: bool = False,
    with_upstream: bool = False,
) -> tuple[gate.Subject, gate.ParityVerdict]:
    """The stored verdict on this model, or a new one.

    It is measured anew if there is none, if it failed, or with `again`. `with_upstream` lets a
    SAM-2's own package take part on a CPU too.
    """
    subject, folder = parity_subject(name, settings, with_upstream), parity_folder(settings)
    verdict = None if again else gate.kept(folder, subject)
    if verdict is None or verdict.failure:
        verdict = gate.fresh_verdict(
            subject, folder, partial(load_in_mode, name, settings), progress
        )
    return subject, verdict


def parity_folder(settings: Settings) -> Path:
    """The folder of the stored verdicts."""
    return settings.data_dir / "parity"


def parity_subject(name: str, settings: Settings, with_upstream: bool = False) -> gate.Subject:
    """What a verdict on this model holds for, on this machine. Raises WeightsMissing.

    On CUDA a SAM-2's own package always takes part. On a CPU it would take most of the time.
    """
    weights_path = locate_weights(name, settings)
    from seg_pipeline.segmenters.devices import describe_device, pick_device

    sam2, device = _is_sam2(name), pick_device(settings.device)
    libraries = ("seg-pipeline", "torch", *(("sam2",) if sam2 else ("ultralytics", "openvino")))
    return gate.Subject(
        model=name,
        weights_sha256=weights_sha256(weights_path),
        device=describe_device(device),
        parameters=configured_parameters(name, settings),
        versions={library: _version(library) for library in libraries},
        with_upstream=sam2 and (with_upstream or device.startswith("cuda")),
    )


def _is_sam2(name: str) -> bool:
    """Whether the name is a SAM-2's.

    All other names are YOLO's, or paths to YOLO's weights that the operator configured.
    `find_weights` refuses the rest.
    """
    return re.fullmatch(r"demo-sam2|sam2.*", name) is not None


def _load_yolo(name: str, weights_path: Path, settings: Settings, mode: InferenceMode) -> Segmenter:
    from seg_pipeline.segmenters.yolo.segmenter import YoloSegmenter

    converted_dir = settings.weights_dir / "openvino"
    return YoloSegmenter(
        name, weights_path, settings.device, settings.confidence, mode, converted_dir
    )


def _load_sam2(name: str, weights_path: Path, settings: Settings, mode: gate.RunMode) -> Segmenter:
    from seg_pipeline.segmenters.sam2.embeddings import EmbeddingFolder
    from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter

    parameters = configured_sam2_parameters(name, settings)
    kept = EmbeddingFolder(
        embeddings_path(settings), settings.embedding_bytes, settings.embedding_seconds
    )
    segmenter = Sam2Segmenter(name, weights_path, settings.device, parameters, mode)
    segmenter.keep_embeddings(kept)
    if settings.compile_models and segmenter.is_batched:
        segmenter.quicken()
    return segmenter


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
