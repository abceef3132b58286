"""Steps side by side give what they give one after the other."""

from threading import Barrier, Event, Timer, current_thread

import pytest
import torch

from seg_pipeline.segmenters.core_pool import Lanes

pytestmark = pytest.mark.usefixtures("torch_threads")


def product(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    one, other = (torch.randn(64, 300, generator=generator) for _ in range(2))
    return (one @ other.T).softmax(1)


def test_the_answers_are_those_of_a_plain_loop_in_their_order() -> None:
    answers = Lanes("cpu").map(product, range(20))
    torch.testing.assert_close(
        torch.stack(answers), torch.stack([product(seed) for seed in range(20)])
    )


def test_two_steps_run_at_once_and_each_operator_on_one_thread() -> None:
    both = Barrier(2, timeout=60)

    def meet(_: int) -> int:
        both.wait()
        return torch.get_num_threads()

    lanes = Lanes("cpu")
    for _ in range(2):
        assert lanes.map(meet, range(2)) == [1, 1]
        assert torch.get_num_threads() == 2


def test_a_step_is_in_inference_mode_if_its_caller_is() -> None:
    lanes = Lanes("cpu")
    for mode in (True, False):
        with torch.inference_mode(mode):
            assert lanes.map(lambda _: torch.is_inference_mode_enabled(), range(3)) == [mode] * 3


def test_what_a_step_raises_is_raised_and_the_threads_are_as_before() -> None:
    begun, over = [], Event()

    def fail(number: int) -> None:
        begun.append(number)
        if number == 0:
            raise torch.OutOfMemoryError("step 0")
        over.wait(60)

    with pytest.raises(torch.OutOfMemoryError, match="step 0"):
        Lanes("cpu").map(fail, range(1000))
    assert torch.get_num_threads() == 2
    over.set()
    assert len(begun) <= 2


def test_no_step_begins_once_one_has_failed_beside_another() -> None:
    begun, over = [], Event()

    def fail_beside(number: int) -> None:
        begun.append(number)
        if number:
            Timer(0.2, over.set).start()
            raise ValueError(number)
        over.wait(60)

    with pytest.raises(ValueError, match="1"):
        Lanes("cpu").map(fail_beside, range(1000))
    assert sorted(begun) == [0, 1]


@pytest.mark.parametrize(
    ("device", "threads", "items"), [("cuda", 2, 3), ("cpu", 1, 3), ("cpu", 2, 1)]
)
def test_with_one_lane_the_caller_does_it_all(device: str, threads: int, items: int) -> None:
    torch.set_num_threads(threads)
    assert Lanes(device).map(lambda _: current_thread(), range(items)) == [current_thread()] * items
