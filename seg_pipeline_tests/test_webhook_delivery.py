"""Webhooks of jobs and a batch that the whole service works on, on each profile; the client's own
helper checks their signatures."""

import json
from io import BytesIO
from pathlib import Path
from zipfile import ZipFile

import pytest

from seg_client import is_genuine
from seg_pipeline.local.sample import BUNDLED, ask
from seg_pipeline_tests.app_servers import app_server, hang
from seg_pipeline_tests.running_stack import Stack

pytestmark = pytest.mark.slow

SETTINGS = {"WEBHOOK_HOSTS": "127.0.0.1", "WEBHOOK_SECRET": "sesame"}
PICTURE = BUNDLED.read_bytes()
ZIP = {"content-type": "application/zip"}
RAW = {"content-type": "application/octet-stream", "prefer": "respond-async"}


def zip_of(picture: bytes) -> bytes:
    """A ZIP with this picture."""
    file = BytesIO()
    with ZipFile(file, "w") as archive:
        archive.writestr("a.jpg", picture)
    return file.getvalue()


def test_a_webhook_is_told_though_another_one_never_answers(tmp_path: Path, profile: str) -> None:
    with (
        app_server(hang) as silent,
        app_server() as server,
        Stack(tmp_path, SETTINGS, profile) as stack,
    ):
        for url in (*[silent.url] * 6, f"{server.url}/hook"):
            path = f"{stack.base_url}/segment?webhook={url}"
            assert ask("POST", path, PICTURE, RAW).status == 202
        batch = f"{stack.base_url}/batches?uuid=summer&webhook={server.url}/batches"
        assert ask("POST", batch, zip_of(PICTURE), ZIP).status == 202
        stack.wait_for(lambda: len(server.told) == 2, "two webhooks' being told")
        refused = ask("POST", f"{stack.base_url}/segment?webhook=http://10.0.0.1/", PICTURE, RAW)
    told, of_batch = sorted(server.told, key=lambda each: each.path, reverse=True)
    assert (of_batch.path, of_batch.document["completed"]) == ("/batches", 1)
    assert is_genuine("sesame", of_batch.headers, of_batch.body)
    document = json.loads(told.body)
    assert (told.path, document["status"]) == ("/hook", "completed")
    assert document["segments"]
    assert is_genuine("sesame", told.headers, told.body)
    assert not is_genuine("sesame", told.headers, told.body[:-1])
    assert silent.told
    assert (refused.status, refused.body["code"]) == (422, "webhook_refused")
