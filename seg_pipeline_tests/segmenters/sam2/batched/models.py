"""The demo model, as the batched modules get it."""

from types import SimpleNamespace
from typing import Any

import torch

from seg_pipeline.segmenters.sam2.segmenter import Sam2Segmenter
from seg_pipeline_tests.segmenters.sam2.upstreams_masks import FEW, WEIGHTS


def make_upstream() -> Sam2Segmenter:
    """Upstream's own generator."""
    return Sam2Segmenter("demo-sam2", WEIGHTS, "cpu", FEW, "upstream")


def make_predictor() -> Any:
    """Upstream's predictor of the demo model."""
    upstream = make_upstream()._upstream
    assert upstream is not None
    return upstream.predictor


def on_no_gpu(predictor: Any) -> Any:
    """The predictor on a GPU that is not there. Call it under a `FakeTensorMode`."""
    _move_to_no_device(predictor.model)
    return SimpleNamespace(
        model=predictor.model,
        device=torch.device("cuda", 0),
        _bb_feat_sizes=predictor._bb_feat_sizes,
        _transforms=predictor._transforms,
    )


def _move_to_no_device(model: Any) -> None:
    """Parameters, buffers and tables as fake tensors of a GPU."""
    for module in model.modules():
        tables = getattr(module, "cache", None)
        of_module = [module._parameters, module._buffers, tables if tables else {}]
        for held in of_module:
            for name, tensor in [*held.items()]:
                if tensor is not None:
                    fake = torch.empty_like(tensor, device="cuda")
                    held[name] = torch.nn.Parameter(fake, requires_grad=False)
