"""The forms in which a YOLO-seg network runs: plain, in half precision, or by OpenVINO.

A fast form ends with the last convolutions. Boxes and scores are computed from its output in fp32:
beyond 256, bf16 cannot tell a pixel from the next one.
"""

import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from seg_pipeline.segmenters.devices import has_bf16

Output = tuple[torch.Tensor, torch.Tensor]
"""Predictions as `non_max_suppression` reads them, and prototypes `(n, c, h, w)`; both fp32."""

CONVERSION = 1
"""The version of the conversion. A model that an older release converted is not reused."""


class Network(Protocol):
    """A loaded network. `precision` and `engine` name its form."""

    precision: str
    engine: str

    def __call__(self, batch: torch.Tensor) -> Output:
        """The network's output for `(n, 3, h, w)` fp32 pictures between 0 and 1."""
        ...


class PlainNetwork:
    """Ultralytics' network as it is, in fp32."""

    precision, engine = "fp32", "torch"

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, batch: torch.Tensor) -> Output:
        (predictions, prototypes), _ = self._model(batch)
        return predictions, prototypes


class HalfNetwork:
    """The network in bf16 or fp16. It takes over the model."""

    engine = "torch"

    def __init__(self, model: Any, last_steps: "LastSteps", dtype: torch.dtype) -> None:
        self.precision = "bf16" if dtype == torch.bfloat16 else "fp16"
        self._dtype = dtype
        self._last_steps = last_steps
        self._model = model.to(dtype, memory_format=torch.channels_last)
        last_steps.keep_in_fp32()

    def __call__(self, batch: torch.Tensor) -> Output:
        raw, prototypes = self._model(batch.to(self._dtype, memory_format=torch.channels_last))
        return self._last_steps(raw, batch.shape[2:]), prototypes.float()


class OpenVinoNetwork:
    """The network compiled by OpenVINO for a CPU, in bf16 where the CPU has it.

    It takes over the model. The converted model is kept in a folder, if there is one, under a `key`
    that names the weights.
    """

    engine = "openvino"

    def __init__(
        self, model: Any, last_steps: "LastSteps", key: str, converted_dir: Path | None
    ) -> None:
        import openvino

        self._last_steps = last_steps
        core = openvino.Core()
        bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        self.precision = "bf16" if bf16 else "fp32"
        options = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "PERFORMANCE_HINT": "LATENCY",
        }
        with _folder(converted_dir) as folder:
            self._compiled = core.compile_model(_converted(model, folder, key), "CPU", options)

    def __call__(self, batch: torch.Tensor) -> Output:
        answer = self._compiled(batch.contiguous().numpy())
        raw, prototypes = (torch.from_numpy(each.copy()) for each in answer.to_tuple())
        return self._last_steps(raw, batch.shape[2:]), prototypes


def fast_network(model: Any, device: str, key: str, converted_dir: Path | None = None) -> Network:
    """The fastest form that this machine has. It takes over the model.

    On a CPU without bf16 or OpenVINO that is fp32, which only batches make faster.
    """
    cuda = device.startswith("cuda")
    openvino = device == "cpu" and openvino_version() is not None
    if not (cuda or openvino or has_bf16()):
        return PlainNetwork(model)
    last_steps = LastSteps(model)
    if openvino:
        return OpenVinoNetwork(model, last_steps, key, converted_dir)
    return HalfNetwork(model, last_steps, torch.float16 if cuda else torch.bfloat16)


def openvino_version() -> str | None:
    """OpenVINO's version; None if it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


class LastSteps:
    """What a head computes after its last convolutions: boxes from distances, and scores.

    These steps are taken out of the network.
    """

    def __init__(self, model: Any) -> None:
        head = self._head = model.model[-1]
        self._decode, self._select = head._inference, head.postprocess
        # As numbers of the host: asking a GPU for them would wait for it at every picture.
        head.stride = head.stride.float().cpu()
        head.export = True  # no raw predictions beside the decoded ones
        head._inference = _join
        head.postprocess = _unchanged

    def keep_in_fp32(self) -> None:
        """Call this after the network has changed its precision."""
        self._head.dfl.float()

    def __call__(self, raw: torch.Tensor, shape_hw: torch.Size) -> torch.Tensor:
        """Predictions from the output of `_join`, for an input of this height and width."""
        head = self._head
        boxes, scores, coefficients = raw.float().split((4 * head.reg_max, head.nc, head.nm), dim=1)
        # The maps themselves are not needed, only their shapes and precision.
        maps = [
            boxes.new_empty(()).expand(1, 1, *(side // int(stride) for side in shape_hw))
            for stride in head.stride
        ]
        named = {"boxes": boxes, "scores": scores, "mask_coefficient": coefficients, "feats": maps}
        predictions = self._decode(named)
        return self._select(predictions.permute(0, 2, 1)) if head.end2end else predictions


def _join(raw: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat((raw["boxes"], raw["scores"], raw["mask_coefficient"]), 1)


def _unchanged(permuted: torch.Tensor) -> torch.Tensor:
    return permuted.permute(0, 2, 1)


@contextmanager
def _folder(kept: Path | None) -> Iterator[Path]:
    """The folder that keeps converted models, else one that is removed."""
    if kept:
        yield kept
        return
    with tempfile.TemporaryDirectory(prefix="openvino-") as folder:
        yield Path(folder)


def _converted(model: Any, cache_dir: Path, key: str) -> Path:
    """The file of the converted model, made if it is missing.

    Its folder appears complete or not at all.
    """
    import openvino

    libraries = f"openvino{version('openvino')}-ultralytics{version('ultralytics')}"
    folder = cache_dir / f"{key[:16]}-{libraries}-{CONVERSION}"
    if not (folder / "model.xml").is_file():
        cache_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache_dir, prefix=".converting-") as unfinished:
            made = Path(unfinished) / folder.name
            made.mkdir()
            openvino.save_model(_convert(model), made / "model.xml", compress_to_fp16=False)
            _put(made, folder)
    return folder / "model.xml"


def _put(made: Path, folder: Path) -> None:
    """Moves the folder into its place, unless another process was faster."""
    try:
        made.rename(folder)
    except OSError:
        if not (folder / "model.xml").is_file():
            shutil.rmtree(folder, ignore_errors=True)
            made.rename(folder)


def _convert(model: Any) -> Any:
    """A torch module in OpenVINO's form, for any number of pictures of any size.

    It does not use `convert_model`, which reports its use to OpenVINO's makers.
    """
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates the tracing that OpenVINO does
        plain = model.to(memory_format=torch.contiguous_format)
        decoder = TorchScriptPythonDecoder(plain, example_input=torch.zeros(1, 3, 64, 64))
        front_end = FrontEndManager().load_by_framework("pytorch")
        converted = front_end.convert(front_end.load(decoder))
    converted.reshape([-1, 3, -1, -1])
    return converted
