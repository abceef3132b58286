"""A short form of `make fuzz`: a few of every format and flaw through the decoding processes."""

from collections.abc import Iterator

import pytest

from seg_pipeline.errors import ImageError
from seg_pipeline.imaging.decoder_pool import Decoders
from seg_pipeline_tests.hostile_pictures import COMPLETED, HostilePicture, hostile_pictures

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def pool() -> Iterator[Decoders]:
    decoders = Decoders(processes=2)
    yield decoders
    decoders.close()


def outcome(pool: Decoders, picture: HostilePicture) -> str:
    try:
        pool.read(picture.data, 50_000_000)
    except ImageError as error:
        return error.code
    return COMPLETED


def test_every_flaw_is_called_what_it_is(pool: Decoders) -> None:
    """And nothing ends a decoder."""
    wrong = [
        (picture.format, picture.flaw, found)
        for picture in hostile_pictures(600, seed=13)
        if (found := outcome(pool, picture)) not in picture.outcomes - {"undecodable_image"}
    ]
    assert wrong == []


def test_a_seed_gives_the_same_pictures_again() -> None:
    assert list(hostile_pictures(150, seed=1)) == list(hostile_pictures(150, seed=1))
    assert list(hostile_pictures(150, seed=1)) != list(hostile_pictures(150, seed=2))
