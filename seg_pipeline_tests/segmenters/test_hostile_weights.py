"""Weights that would do something when they are opened: each is refused, and nothing is done.

A .pt file is a pickle, and a pickle may call whatever can be imported.
"""

import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from seg_pipeline.errors import ModelError
from seg_pipeline.segmenters.registry import load_segmenter
from seg_pipeline.settings import Settings

pytestmark = pytest.mark.process

MARK = "was-run"


class Call:
    """Pickled, it is a call of whatever is named."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def _calls() -> dict[str, Call]:
    import builtins
    import importlib
    import os
    import shutil
    import subprocess

    code = f"open({MARK!r}, 'w').close()"
    return {
        "os.mkdir": Call(os.mkdir, MARK),
        "os.system": Call(os.system, f"touch {MARK}"),
        "subprocess.Popen": Call(subprocess.Popen, ["touch", MARK]),
        "subprocess.run": Call(subprocess.run, ["touch", MARK]),
        "builtins.eval": Call(builtins.eval, f"open({MARK!r}, 'w')"),
        "builtins.exec": Call(builtins.exec, code),
        "builtins.open": Call(builtins.open, MARK, "w"),
        "builtins.getattr": Call(builtins.getattr, Path(MARK), "touch"),
        "Path.touch": Call(Path.touch, Path(MARK)),
        "importlib.import_module": Call(importlib.import_module, "antigravity"),
        "shutil.copyfile": Call(shutil.copyfile, "/etc/hostname", MARK),
        "torch.save": Call(torch.save, {}, MARK),
        "torch.hub.load": Call(torch.hub.load, "nobody/nothing", "none"),
        "torch.load": Call(torch.load, "inner.pt"),
    }


def _zip(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=pickle)
    return buffer.getvalue()


def _legacy(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, pickle_module=pickle, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


def _bare(value: Any) -> bytes:
    return pickle.dumps(value)


def _tar(value: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("pickle", "tensors", "storages", "sys_info"):
            data = pickle.dumps(value)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def _torchscript(value: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(value))
        archive.writestr("archive/constants.pkl", pickle.dumps(value))
        archive.writestr("archive/version", b"3\n")
    return buffer.getvalue()


FORMATS: tuple[Callable[[Any], bytes], ...] = (_zip, _legacy, _bare, _tar, _torchscript)


CASES = [
    *((call, FORMATS[number % len(FORMATS)]) for number, call in enumerate(_calls())),
    *(("os.mkdir", make) for make in FORMATS),
]


@pytest.mark.parametrize("name", ["sam2.1_hiera_tiny", "yolov8n-seg"])
@pytest.mark.parametrize(("call", "make"), CASES)
def test_no_call_in_a_file_is_made(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    call: str,
    make: Callable[[Any], bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.pt").write_bytes(make({"model": _calls()[call]}))
    with pytest.raises(ModelError) as refusal:
        load_segmenter(
            name, Settings(_env_file=None, weights_dir=tmp_path, model=name, device="cpu")
        )
    assert str(tmp_path) not in str(refusal.value)
    assert not (tmp_path / MARK).exists()
