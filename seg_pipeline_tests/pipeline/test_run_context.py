"""MemoryBudget for pictures, and who gives it back when."""

from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from threading import Event

import numpy as np
import pytest

from seg_pipeline.pipeline.run_context import MemoryBudget, RunContext, make_encoders, mask_bytes
from seg_pipeline_tests.builders import make_found

PATIENCE_SECONDS = 30


def make_line(room_bytes: int) -> RunContext:
    """A line with encoders of its own."""
    return RunContext(room_bytes, make_encoders())


def taking(budget: MemoryBudget, size: int) -> tuple[Future[None], Event]:
    """Somebody who takes room on a thread of its own, and the event that says that it has begun
    to."""
    begun = Event()

    def take() -> None:
        begun.set()
        budget.take(size)

    pool = ThreadPoolExecutor(1)
    future = pool.submit(take)
    pool.shutdown(wait=False)
    return future, begun


class TestMemoryBudget:
    """What stands between a batch of large pictures and the machine's memory."""

    def test_whoever_wants_more_than_is_left_waits_for_others(self) -> None:
        budget = MemoryBudget(10)
        budget.take(6)
        future, begun = taking(budget, 5)
        assert begun.wait(PATIENCE_SECONDS)
        assert not future.done()
        budget.give_back(1)
        future.result(PATIENCE_SECONDS)
        assert budget.held_bytes == 10

    def test_what_is_larger_than_the_whole_budget_gets_it_alone(self) -> None:
        """A picture of 200 megapixels is slow company, but it must not wait for ever."""
        budget = MemoryBudget(10)
        budget.take(1)
        future, begun = taking(budget, 100)
        assert begun.wait(PATIENCE_SECONDS)
        assert not future.done()
        budget.give_back(1)
        future.result(PATIENCE_SECONDS)
        assert budget.held_bytes == 100

    def test_at_the_end_of_a_run_nobody_goes_on_waiting(self) -> None:
        budget = MemoryBudget(10)
        budget.take(10)
        future, _ = taking(budget, 1)
        budget.close()
        with pytest.raises(CancelledError):
            future.result(PATIENCE_SECONDS)
        with pytest.raises(CancelledError):
            budget.take(0)


class TestLine:
    """What a run leaves in memory between its stages."""

    def test_a_picture_goes_with_the_last_who_needs_it(self) -> None:
        run = make_line(100)
        with run.holding("job-1", 12) as slot:
            slot.picture = np.zeros((2, 2, 3), dtype=np.uint8)
        run.retain("job-1", 2)
        run.release("job-1")
        assert (run.budget.held_bytes, slot.picture is None) == (12, False)
        run.release("job-1")
        assert (run.budget.held_bytes, slot.picture is None) == (0, True)

    def test_a_picture_that_does_not_decode_holds_no_memory(self) -> None:
        run = make_line(100)
        with pytest.raises(ValueError, match="damaged"), run.holding("job-1", 12):
            raise ValueError("damaged")
        assert run.budget.held_bytes == 0

    def test_masks_count_as_part_of_their_picture(self) -> None:
        run = make_line(100)
        with run.holding("job-1", 12):
            pass
        run.hold_more("job-1", 30)
        assert run.budget.held_bytes == 42
        run.release("job-1")
        assert run.budget.held_bytes == 0

    def test_segments_are_kept_only_as_far_as_they_fit(self) -> None:
        """The last stage reads those from the store that were not."""
        found = make_found("##/##")
        run = make_line(2 * mask_bytes(found))
        for uuid in ("a", "b", "c"):
            run.keep_output(uuid, found)
        assert [run.slot(uuid).output is not None for uuid in ("a", "b", "c")] == [
            True,
            True,
            False,
        ]

    def test_what_waits_for_its_turn_when_a_run_ends_is_never_begun(self) -> None:
        run, begun, go_on = make_line(100), Event(), Event()

        def work() -> None:
            begun.set()
            go_on.wait(PATIENCE_SECONDS)

        written = [run.encode("job-1", work) for _ in range(100)]
        assert begun.wait(PATIENCE_SECONDS)
        run.stop()
        go_on.set()
        run.end()
        wait(written, PATIENCE_SECONDS)
        assert any(future.cancelled() for future in written)
