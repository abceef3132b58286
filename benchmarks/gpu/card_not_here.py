"""A card that torch believes in where there is none: an H200."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from seg_pipeline.segmenters.sam2 import decoder

CARD = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    total_memory=141 * 2**30,
    multi_processor_count=132,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    regs_per_multiprocessor=65536,
    shared_memory_per_block_optin=232448,
    warp_size=32,
)

OF_CUDA: dict[str, Any] = {
    "is_available": lambda: True,
    "device_count": lambda: 1,
    "current_device": lambda: 0,
    "set_device": lambda *_: None,
    "_exchange_device": lambda *_: 0,
    "_maybe_exchange_device": lambda *_: 0,
    "synchronize": lambda *_: None,
    "_lazy_init": lambda: None,
    "get_device_properties": lambda *_: CARD,
    "_get_device_properties": lambda *_: CARD,
    "get_device_capability": lambda *_: (CARD.major, CARD.minor),
    "get_rng_state": lambda *_: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": lambda *_: None,
}
"""What the compiler asks `torch.cuda`, with the card's answers."""


@contextmanager
def fake_tensors() -> Iterator[FakeTensorMode]:
    """Fake tensors of a card that autocast and attention take for one with bf16."""
    with ExitStack() as stack:
        for place, name, value in (
            (torch.cuda.amp.common, "amp_definitely_not_available", lambda: False),
            (torch.cuda, "is_bf16_supported", lambda **_: True),
            (torch.compiler, "is_compiling", lambda: True),
            (torch.nn.functional, "scaled_dot_product_attention", _attention),
            (decoder, "scaled_dot_product_attention", _attention),
        ):
            stack.enter_context(patch.object(place, name, value))
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, scale: float | None = None, dropout_p: float = 0.0
) -> Tensor:
    """The kernel that torch chooses on such a card; without one it would choose none."""
    assert dropout_p == 0
    if query.dtype == torch.bfloat16 or torch.is_autocast_enabled("cuda"):
        half = (each.to(torch.bfloat16) for each in (query, key, value))
        flash = torch.ops.aten._scaled_dot_product_flash_attention
        attended: Tensor = flash(*half, 0.0, False, False, scale=scale)[0]
    else:
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        attended = efficient(query, key, value, None, False, 0.0, False, scale=scale)[0]
    return attended


@contextmanager
def compiler_believes_in_it() -> Iterator[None]:
    """Lets torch's compiler believe in a card. Whatever would run there is left out."""
    from torch._inductor import config
    from torch._inductor.fx_passes import joint_graph, post_grad
    from torch._subclasses import fake_tensor

    with ExitStack() as stack:
        for passes in (joint_graph, post_grad):
            passes.lazy_init(torch.device("cpu"))
            stack.enter_context(patch.object(passes, "lazy_init", lambda *_: None))
        stack.enter_context(patch.object(fake_tensor, "init_gpu_context", lambda *_: None))
        for name, value in OF_CUDA.items():
            stack.enter_context(patch.object(torch.cuda, name, value, create=True))
        # Both would measure on the card.
        stack.enter_context(config.patch(joint_graph_constant_folding=False, shape_padding=False))
        stack.enter_context(_triton_driver())
        yield


@contextmanager
def _triton_driver() -> Iterator[None]:
    import triton
    from triton.backends.compiler import GPUTarget

    before = triton.runtime.driver._active
    target = GPUTarget("cuda", 10 * CARD.major + CARD.minor, CARD.warp_size)
    triton.runtime.driver.set_active(
        SimpleNamespace(get_current_target=lambda: target, get_current_device=lambda: 0)
    )
    try:
        yield
    finally:
        triton.runtime.driver._active = before
