"""What torch's compiler makes of SAM-2's encoder and decoder for a card that is not here.

`python -m benchmarks.gpu.compiled sam2.1_hiera_large turbo` prints it, and the memory that
upstream's decoder takes. The compiler writes its program as if there were an H200. The program then
runs without its kernels, so that it takes and frees memory as it would. Launches, bytes and the
peak of memory follow from that. Times do not.
"""

import argparse
import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields, is_dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._mode_utils import no_dispatch

from benchmarks.gpu.card_not_here import compiler_believes_in_it, fake_tensors
from benchmarks.gpu.host_side import Alive, Program, run
from seg_pipeline.segmenters.sam2.batched.network import BatchedNetwork
from seg_pipeline.segmenters.sam2.batched.steps import COMPILER, tensors
from seg_pipeline.segmenters.sam2.generator import PointBatches
from seg_pipeline.segmenters.sam2.precision import keep_encoder_in
from seg_pipeline.segmenters.sam2.segmenter import build_model
from seg_pipeline.segmenters.sam2.upstream import UpstreamMasks
from seg_pipeline_tests.segmenters.sam2.batched.models import on_no_gpu

DTYPES = {"exact": torch.float32, "turbo": torch.bfloat16}
STRIDES = (4, 8, 16, 32)
"""Of the encoder's stages, each of which has its own table of positions."""


def encoder(name: str, mode: str) -> Program:
    """The program of a model's encoder."""
    with torch.inference_mode(), fake_tensors() as fake:
        network = _network(name, DTYPES[mode])
        pixels = torch.empty(1, 3, network.side, network.side, device="cuda")
        return _program(lambda x: tensors(network.encode(x)), [pixels], fake)


def decoder(name: str, mode: str) -> Program:
    """The program of a model's decoder, for one batch of points."""
    with torch.inference_mode(), fake_tensors() as fake:
        network = _network(name, DTYPES[mode])
        pixels = torch.empty(1, 3, network.side, network.side, device="cuda")
        coordinates = torch.empty(network.points, 2, device="cuda")
        cache = network.encode(pixels)

        def decode(*inputs: Tensor) -> tuple[Tensor, ...]:
            return network.decode(_like(cache, iter(inputs[:-1])), inputs[-1])

        return _program(decode, [*tensors(cache), coordinates], fake)


def upstream_decoder_peak(name: str, points: int = 64) -> int:
    """The most bytes that upstream's decoder holds for so many points beside weights and inputs."""
    with torch.inference_mode(), fake_tensors():
        predictor = _on_no_gpu(name)
        model = predictor.model
        (side, _), channels = predictor._bb_feat_sizes[-1], model.hidden_dim
        fine, finest = (
            torch.empty(1, channels // part, scale * side, scale * side, device="cuda")
            for part, scale in ((4, 2), (8, 4))
        )
        image = torch.empty(1, channels, side, side, device="cuda")
        coordinates = torch.empty(points, 1, 2, device="cuda")
        labels = torch.ones(points, 1, dtype=torch.int, device="cuda")
        alive = Alive()
        with alive:
            sparse, dense = model.sam_prompt_encoder((coordinates, labels), None, None)
            position = model.sam_prompt_encoder.get_dense_pe()
            model.sam_mask_decoder(
                image, position, sparse, dense, True, True, high_res_features=[finest, fine]
            )
        return alive.peak


def _on_no_gpu(name: str, dtype: torch.dtype = torch.float32) -> Any:
    """The predictor of a model with random weights. Its tables of positions are filled."""
    with no_dispatch():
        model = build_model(name).eval()
        keep_encoder_in(dtype, model)
        for stride in STRIDES:
            side = model.image_size // stride
            model.image_encoder.neck.position_encoding(torch.empty(1, 1, side, side))
        predictor = UpstreamMasks(model, PointBatches()).predictor
    return on_no_gpu(predictor)


def _network(name: str, dtype: torch.dtype) -> BatchedNetwork:
    return BatchedNetwork(_on_no_gpu(name, dtype), dtype)


def _like(of: Any, leaves: Iterator[Tensor]) -> Any:
    """The same dataclasses of other tensors."""
    if isinstance(of, Tensor):
        return next(leaves)
    assert is_dataclass(of)
    kind: Any = type(of)
    return kind(**{each.name: _like(getattr(of, each.name), leaves) for each in fields(of)})


def _program(function: Callable[..., Any], inputs: list[Tensor], fake: FakeTensorMode) -> Program:
    traced = make_fx(function, _allow_non_fake_inputs=True)(*inputs)
    given = [*inputs, *_weights_as_inputs(traced, fake)]
    without_weights = torch.fx.GraphModule(torch.nn.Module(), traced.graph)
    return run(_source(without_weights, given, fake), given)


def _weights_as_inputs(traced: torch.fx.GraphModule, fake: FakeTensorMode) -> list[Tensor]:
    """Turns the weights into inputs, as `torch.compile` has them, and returns them."""
    last = [node for node in traced.graph.nodes if node.op == "placeholder"][-1]
    places: dict[str, Any] = {}
    for node in [*traced.graph.nodes]:
        if node.op != "get_attr":
            continue
        if node.target not in places:
            weight = getattr(traced, node.target)
            with traced.graph.inserting_after(last):
                last = traced.graph.placeholder(f"weight_{len(places)}")
            is_fake = isinstance(weight, FakeTensor)
            last.meta["val"] = weight if is_fake else fake.from_tensor(weight)
            places[node.target] = last
        node.replace_all_uses_with(places[node.target])
        traced.graph.erase_node(node)
    return [place.meta["val"] for place in places.values()]


class _Written(Exception):
    """The compiler has written its program, and need not load it."""


def _source(traced: torch.fx.GraphModule, inputs: Sequence[Tensor], fake: FakeTensorMode) -> str:
    """The program that the compiler writes for the card."""
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.graph import GraphLowering

    written: list[str] = []

    def write(graph: Any) -> None:
        written.append(graph.codegen()[0].value)
        raise _Written

    with compiler_believes_in_it(), patch.object(GraphLowering, "compile_to_module", write):
        try:
            with torch._guards.tracing(torch._guards.TracingContext(fake)):
                compile_fx(traced, inputs, config_patches=COMPILER)
        except Exception:
            if not written:
                raise
    return written[0]


def main(given: Sequence[str] | None = None) -> None:
    """Prints all of it as JSON, a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", default="sam2.1_hiera_large")
    parser.add_argument("mode", nargs="?", choices=DTYPES, default="turbo")
    parser.add_argument("--without-encoder", action="store_true", help="it takes half of the time")
    asked = parser.parse_args(given)
    warnings.simplefilter("ignore")
    print(json.dumps({"upstream_decoder_peak_bytes": upstream_decoder_peak(asked.model)}))
    for made in (decoder,) if asked.without_encoder else (decoder, encoder):
        program = made(asked.model, asked.mode)
        print(json.dumps({made.__name__: asdict(program)}), flush=True)


if __name__ == "__main__":
    main()
