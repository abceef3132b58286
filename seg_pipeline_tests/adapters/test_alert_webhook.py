"""Alerts reach their address, or are known not to; whatever it does."""

import logging
from pathlib import Path

import pytest

from seg_pipeline.adapters import alert_webhook
from seg_pipeline.adapters.alert_webhook import LONGEST_TEXT, send_alert
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.webhooks import webhook


def test_a_text_arrives_cut_to_what_is_taken() -> None:
    with webhook() as people:
        assert send_alert(make_settings(Path("nowhere"), alert_webhook_url=people.url), "x" * 5000)
    assert people.texts == ["x" * LONGEST_TEXT]


def test_without_an_address_nobody_is_to_be_told() -> None:
    assert send_alert(make_settings(Path("nowhere")), "text")


@pytest.mark.parametrize("status", [302, 404, 500])
def test_an_answer_that_is_no_success_is_a_failure_and_no_redirect_is_followed(status: int) -> None:
    with webhook() as people:
        people.status = status
        assert not send_alert(make_settings(Path("nowhere"), alert_webhook_url=people.url), "text")
    assert len(people.texts) == 1


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/secret", "no url", "http://[::bad/secret", "ftp://x/secret"]
)
def test_an_address_that_nobody_answers_is_a_failure_and_stays_out_of_the_log(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    assert not send_alert(make_settings(Path("nowhere"), alert_webhook_url=url), "text")
    assert "secret" not in caplog.text
    assert "sent again" in caplog.text


def test_one_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert_webhook, "TIMEOUT_SECONDS", 0.2)
    with webhook() as people:
        people.hangs_seconds = 3
        assert not send_alert(make_settings(Path("nowhere"), alert_webhook_url=people.url), "text")
