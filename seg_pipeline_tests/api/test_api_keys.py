"""How keys are read and counted."""

import pytest
from pydantic import ValidationError

from api.api_keys import ApiKeys, Bucket
from seg_pipeline_tests.given_settings import GivenSettings


def keys_of(api_keys: str, api_rates: str | None = None) -> ApiKeys:
    return ApiKeys(GivenSettings(api_keys=api_keys, api_rates=api_rates))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a", "key-1"),
        ("b", "shop"),
        ("shop:b", "shop"),
        ("c d", "key-3"),
        ("é", "key-4"),
        ("a b:c", "key-5"),
    ],
)
def test_each_key_has_a_name(given: str, name: str) -> None:
    found = keys_of("a, shop:b, c d, é, a b:c").find(given)
    assert found
    assert found.name == name


@pytest.mark.parametrize(
    "given", ["", "A", "a ", "key-1", "shop", "shop:", ":b", "a, shop:b", "a" * 10_000]
)
def test_nothing_else_is_a_key(given: str) -> None:
    assert keys_of("a, shop:b").find(given) is None


def test_a_bucket_lets_through_its_rate_and_fills_again() -> None:
    now = [0.0]
    bucket = Bucket(6, lambda: now[0])
    assert [bucket.take() for _ in range(7)] == [0] * 6 + [10]
    now[0] = 9.0
    assert bucket.take() == pytest.approx(1)
    now[0] = 10.0
    assert bucket.take() == 0
    now[0] = 10_000.0
    assert [bucket.take() > 0 for _ in range(7)] == [False] * 6 + [True]


def test_a_star_stands_for_every_key_without_a_rate_of_its_own() -> None:
    keys = keys_of("shop:a,b", api_rates="shop=1, *=2")
    shop, other = keys.find("a"), keys.find("b")
    assert shop
    assert other
    assert [keys.wait_seconds(shop) > 0 for _ in range(2)] == [False, True]
    assert [keys.wait_seconds(other) > 0 for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    "rates", ["shop", "shop=0", "shop=-1", "shop=1.5", "=5", "a=1;b=2", "a=1 b=2"]
)
def test_rates_that_cannot_be_read_are_refused_at_the_start(rates: str) -> None:
    with pytest.raises(ValidationError):
        GivenSettings(api_rates=rates)
