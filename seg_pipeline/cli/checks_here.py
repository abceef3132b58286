"""Checks of this machine: versions, ports, weights and the GPU."""

import http.client
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from typing import Any

from seg_pipeline.errors import ModelError
from seg_pipeline.local import stack
from seg_pipeline.local.sample import ask
from seg_pipeline.local.supervisor import SupervisorError
from seg_pipeline.settings import Settings

LOCK = Path(__file__).parents[2] / "requirements.lock"
TORCH_SECONDS = 30.0
_ANSWER_SECONDS = 3.0
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)( ;)?", re.MULTILINE)
_BOUND = re.compile(r"(>=|<)\s*(\d+)\.(\d+)")
_NAMED = 3


class Wrong(Exception):
    """A check's finding: what is wrong, and what to do."""


def check_versions(lock: Path = LOCK) -> str:
    """Whether Python suits the package, and the libraries are those of the lock."""
    wanted = metadata("seg-pipeline")["Requires-Python"] or ""
    python = ".".join(map(str, sys.version_info[:3]))
    if not suits(wanted, sys.version_info[:2]):
        raise Wrong(f"Python {python} is not {wanted}; make the environment with one that is.")
    if not lock.is_file():
        return f"Python {python}; without {lock.name} there is nothing to hold the libraries to."
    pins, differing = _PIN.findall(lock.read_text(encoding="utf-8")), differences(lock)
    if differing:
        more = f" and {len(differing) - _NAMED} more" if len(differing) > _NAMED else ""
        raise Wrong(f"{'; '.join(differing[:_NAMED])}{more}; `make env` installs what is pinned.")
    return f"Python {python}, and {len({pin[0] for pin in pins})} libraries as {lock.name} says."


def suits(wanted: str, python: tuple[int, ...]) -> bool:
    """Whether a Python (major, minor) lies within bounds such as `>=3.11,<3.15`."""
    bounds = [(sign, (int(major), int(minor))) for sign, major, minor in _BOUND.findall(wanted)]
    return all(python >= bound if sign == ">=" else python < bound for sign, bound in bounds)


def differences(lock: Path) -> list[str]:
    """A phrase for each library whose installed version is not pinned.

    A library that only other platforms or Pythons need may be absent. What follows a `+`, such as
    torch's `+cpu`, is the same version built otherwise.
    """
    pinned: dict[str, set[str]] = defaultdict(set)
    conditional: set[str] = set()
    for name, number, condition in _PIN.findall(lock.read_text(encoding="utf-8")):
        pinned[name].add(number)
        conditional |= {name} if condition else set()
    found = {name: _installed(name) for name in pinned}
    return [
        f"{name} is {found[name] or 'not installed'} instead of {' or '.join(sorted(versions))}"
        for name, versions in pinned.items()
        if (found[name] or "").partition("+")[0] not in versions
        and not (name in conditional and found[name] is None)
    ]


def check_port(name: str, host: str, port: int, probe: str) -> str:
    """Whether the setting's port is free, or our own process answers 200 at the probe."""
    try:
        stack.check_port(name, host, port)
    except SupervisorError as error:
        if _is_ours(probe):
            return f"this service answers on port {port}."
        raise Wrong(str(error)) from error
    return f"port {port} on {host} is free."


def check_weights(settings: Settings) -> str:
    """Whether the weights are here that `up` needs: MODEL's, and QUEUE_MODEL's with a queue."""
    from seg_pipeline.segmenters.weights.locate import locate_weights

    taken, is_demo = stack.with_demo_models(settings)
    missing = []
    for name in dict.fromkeys(taken.wanted_models):
        try:
            locate_weights(name, taken)
        except ModelError as error:
            missing.append(str(error))
    if missing:
        raise Wrong(" ".join(missing))
    names = " and ".join(dict.fromkeys(taken.wanted_models))
    why = "; MODEL is not set, so `up` takes a demo model" if is_demo else ""
    return f"those of {names} are here{why}."


def check_gpu(device: str) -> str:
    """Whether DEVICE can be had: torch's CUDA against the GPU and its driver.

    Where nothing asks for a GPU and there is none, torch is not started, which takes seconds.
    """
    if device == "cpu":
        return "DEVICE=cpu: no GPU is used."
    driver = nvidia_driver()
    if device == "auto" and driver is None:
        return "no NVIDIA driver here, so models run on the CPU."
    return judge_gpu(device, driver, torch_report())


def judge_gpu(device: str, driver: str | None, seen: Mapping[str, Any]) -> str:
    """What torch's report (see `gpu_report`) means for DEVICE. Raises Wrong."""
    devices, number = seen["devices"], int(device.partition(":")[2] or 0)
    built = f"torch {seen['torch']} ({'CUDA ' + seen['cuda'] if seen['cuda'] else 'CPU only'})"
    if number < len(devices):
        return f"{built} computes on {devices[number]}, driver {driver or 'unknown'}."
    if devices:
        raise Wrong(f"DEVICE={device}, but the last GPU is cuda:{len(devices) - 1}; set DEVICE.")
    why = f" ({seen['complaint']})" if seen["complaint"] else ""
    if seen["cuda"] is None:
        remedy = "install torch built for CUDA, or set DEVICE=cpu"
    elif driver is None:
        remedy = "install NVIDIA's driver (in a container: `--gpus all`), or set DEVICE=cpu"
    else:
        remedy = f"update the driver for CUDA {seen['cuda']}, or set DEVICE=cpu"
    raise Wrong(f"{built} finds no GPU with driver {driver or 'none'}{why}; {remedy}.")


def nvidia_driver() -> str | None:
    """The version of NVIDIA's driver, if one is here. Raises Wrong if it hangs."""
    if program := shutil.which("nvidia-smi"):
        query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            done = subprocess.run(query, capture_output=True, text=True, timeout=8, check=False)
        except subprocess.TimeoutExpired as error:
            raise Wrong("nvidia-smi hangs, so the driver does; restart the machine.") from error
        if done.returncode == 0 and done.stdout.strip():
            return done.stdout.split()[0]
    return "unknown" if Path("/dev/nvidiactl").exists() else None


def torch_report() -> dict[str, Any]:
    """The report of `gpu_report`, by a process of its own. Raises Wrong."""
    command = [sys.executable, "-m", "seg_pipeline.segmenters.gpu_report"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TORCH_SECONDS, check=True
        )
        report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except subprocess.TimeoutExpired as error:
        raise Wrong(f"torch was not loaded within {TORCH_SECONDS:g} s; try again.") from error
    except (subprocess.CalledProcessError, ValueError, IndexError) as error:
        last = (getattr(error, "stderr", "") or str(error)).strip().splitlines()[-1]
        raise Wrong(f"torch cannot be loaded ({last}); `make env` installs it.") from error
    return report


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _is_ours(url: str) -> bool:
    try:
        return ask("GET", url, timeout_seconds=_ANSWER_SECONDS).status == 200
    except (OSError, http.client.HTTPException):
        return False
