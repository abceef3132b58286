"""Of more masks than fit into memory the surest are kept, and the log says that some went."""

import logging

import pytest

from seg_pipeline.segmenters.mask_budget import surest_that_fit


def test_what_fits_is_kept_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    assert surest_that_fit([0.1, 0.9], [4, 6], 10) == {0, 1}
    assert surest_that_fit([], [], 0) == set()
    assert caplog.text == ""


def test_of_too_many_the_surest_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert surest_that_fit([0.1, 0.9, 0.5], [4, 4, 4], 11) == {1, 2}
    assert "the surest 2 of 3 masks" in caplog.text


def test_a_less_sure_one_takes_no_place_that_a_surer_one_did_not_fit_into() -> None:
    assert surest_that_fit([0.9, 0.8, 0.7], [4, 10, 1], 8) == {0}


def test_of_equals_the_first_is_kept() -> None:
    assert surest_that_fit([0.5, 0.5], [4, 4], 4) == {0}
