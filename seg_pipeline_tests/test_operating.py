"""The alarms, the dashboard and the runbook fit each other, and the metrics that there are."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.metrics import Metrics
from api.service_metrics import counts_of, gauges_of
from seg_pipeline.monitoring.alarms import CHECKS
from seg_pipeline.monitoring.service_state import PruneState, read_service_state
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline.telemetry.snapshots import current_samples
from seg_pipeline_tests.builders import NOON

DOCS = Path(__file__).parent.parent / "docs"
RUNBOOK = (DOCS / "operating.md").read_text()
RULES: list[dict[str, Any]] = yaml.safe_load((DOCS / "alerts.yml").read_text())["groups"][0][
    "rules"
]
PANELS: list[dict[str, Any]] = json.loads((DOCS / "grafana.json").read_text())["panels"]
EXPRESSIONS = [
    *(rule["expr"] for rule in RULES),
    *(target["expr"] for panel in PANELS for target in panel["targets"]),
]


def families() -> dict[str, str]:
    """Every metric of /metrics by the name that expressions use, and what it is."""
    state = read_service_state(ObjectStore.in_memory(), 15, NOON)
    state = type(state)(**{**state.__dict__, "prune": PruneState(NOON)})
    of_service = [*gauges_of(state), *counts_of(current_samples())]
    of_api = [*Metrics()._registry.collect()]
    found = {"seg_store_up": "gauge"}
    for family in (*of_service, *of_api):
        suffix = "_total" if family.type == "counter" else ""
        found[f"{family.name}{suffix}"] = family.type
    return found


def series() -> set[str]:
    """Every name that a series can have."""
    found = families()
    histograms = {name for name, kind in found.items() if kind == "histogram"}
    parts = {f"{name}{suffix}" for name in histograms for suffix in ("_bucket", "_sum", "_count")}
    return {*found.keys(), *parts} - histograms


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_expressions_name_metrics_that_there_are(expression: str) -> None:
    assert set(re.findall(r"\b(?:seg|process)_[a-z_]+", expression)) <= series()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alarm_leads_to_its_place_in_the_runbook(rule: dict[str, Any]) -> None:
    file, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert file == "docs/operating.md"
    anchors = [
        heading.lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    ]
    assert anchors.count(anchor) == 1
    assert anchor == rule["alert"].lower()


def test_links_within_the_runbook_lead_somewhere() -> None:
    anchors = {
        heading.lower().replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", RUNBOOK, re.MULTILINE)
    }
    for file, anchor in re.findall(r"\]\(([^)#]*)#?([^)]*)\)", RUNBOOK):
        assert not file or (DOCS / file).exists(), file
        assert file or not anchor or anchor in anchors, anchor


def test_the_runbook_lists_every_metric_of_the_service() -> None:
    listed = set(re.findall(r"^\| `([a-z_]+)", RUNBOOK, re.MULTILINE))
    ours = {name for name in families() if name.startswith("seg_")}
    assert listed >= ours
    assert {name for name in listed if name.startswith("seg_")} == ours


def test_the_runbook_knows_every_check() -> None:
    assert set(CHECKS) <= set(re.findall(r"`([a-z_]+)`", RUNBOOK))


def test_panels_lie_side_by_side() -> None:
    """Else Grafana moves them."""
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        place = panel["gridPos"]
        columns, rows = (
            range(place[at], place[at] + place[size]) for at, size in (("x", "w"), ("y", "h"))
        )
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells


@pytest.mark.parametrize(
    "command", [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]]
)
@pytest.mark.process
def test_prometheus_reads_the_rules_and_they_fire_when_they_should(command: list[str]) -> None:
    if shutil.which("promtool") is None:
        assert os.environ.get("CI") != "true", "promtool is missing: apt-get install prometheus"
        pytest.skip("promtool is not installed (Debian: prometheus)")
    done = subprocess.run(
        ["promtool", *command], cwd=DOCS, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alarm_is_tried_on_a_quiet_service_and_on_one_in_trouble() -> None:
    quiet, trouble = yaml.safe_load((DOCS / "alerts.test.yml").read_text())["tests"]
    names = {rule["alert"] for rule in RULES}
    assert {test["alertname"] for test in quiet["alert_rule_test"]} == names
    assert {test["alertname"] for test in trouble["alert_rule_test"] if test["exp_alerts"]} == names
