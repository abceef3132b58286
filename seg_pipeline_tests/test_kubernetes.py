"""The manifests for Kubernetes against its schemas and against what they name: there is no cluster
where these run."""

import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from api.service_metrics import gauges_of
from seg_pipeline.local import stack
from seg_pipeline.monitoring.service_state import read_service_state
from seg_pipeline.settings import Settings
from seg_pipeline.store.object_store import ObjectStore
from seg_pipeline_tests.conftest import make_settings

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "deploy" / "kubernetes"
KUBERNETES = "1.31"
"""The oldest release that the manifests are for."""

NOT_SETTINGS = {"DAGSTER_HOME", "POSTGRES_PASSWORD"}
OF_KEDA = "ScaledObject"
ONCE_ONLY = {
    "daemon": "two would launch every run twice",
    "redis": "each would have its own half of the runs",
}
NAME = "app.kubernetes.io/name"

Manifest = dict[str, Any]


def manifests() -> list[Manifest]:
    """Every object of every file that is applied, in their order."""
    names = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    return [each for name in names for each in yaml.safe_load_all((FOLDER / name).read_text())]


def named(kind: str) -> dict[str, Manifest]:
    """Those of a kind."""
    return {each["metadata"]["name"]: each for each in manifests() if each["kind"] == kind}


def workloads() -> dict[str, Manifest]:
    """The pods' templates, by their workload."""
    kinds = ("Deployment", "StatefulSet", "Job")
    return {
        each["metadata"]["name"]: each["spec"]["template"]
        for each in manifests()
        if each["kind"] in kinds
    }


def containers() -> Iterator[tuple[str, Manifest, Manifest]]:
    """Every container, with its workload's name and its pod."""
    for name, template in workloads().items():
        for container in template["spec"]["containers"]:
            yield name, container, template["spec"]


def ours() -> Iterator[tuple[str, Manifest, Manifest]]:
    """The containers that run our image."""
    return (each for each in containers() if each[1]["image"].partition(":")[0] == "seg-pipeline")


def probes(container: Manifest) -> dict[str, Manifest]:
    """A container's probes, by their name."""
    return {name: value for name, value in container.items() if name.endswith("Probe")}


def commands_of(container: Manifest) -> list[list[str]]:
    """What it runs, its probes included."""
    asked = [probe["exec"]["command"] for probe in probes(container).values() if "exec" in probe]
    return [container["command"], *asked]


def test_every_file_is_applied() -> None:
    kustomization = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert {*kustomization["resources"], "kustomization.yaml"} == {
        path.name for path in FOLDER.iterdir()
    }


OF_KUBERNETES = [each for each in manifests() if each["kind"] != OF_KEDA]


@pytest.mark.parametrize(
    "manifest", OF_KUBERNETES, ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_a_manifest_fits_the_schema_of_its_kind(manifest: Manifest) -> None:
    """Strictly: a misspelt field would be ignored in silence."""
    kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_a_manifest_that_does_not_fit_is_refused() -> None:
    manifest = named("Deployment")["api"]
    manifest["spec"]["replica"] = 2
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(manifest, KUBERNETES, strict=True)


def test_what_a_container_runs_exists() -> None:
    binaries = str(Path(sys.executable).parent)
    for name, container, _ in ours():
        for command in commands_of(container):
            if command[:2] == ["python", "-m"]:
                assert find_spec(command[2]), command
            elif command[0] == "python":
                assert (ROOT / command[1]).is_file(), command
            else:
                assert shutil.which(command[0], path=binaries), f"{name}: {command}"


def test_the_processes_are_those_of_make_run(tmp_path: Path) -> None:
    by_hand = {program.name: program for program in stack.programs(make_settings(tmp_path))}
    assert by_hand.keys() | {"postgres", "redis"} == workloads().keys()
    for name, container, _ in ours():
        assert container["command"][:2] == ["seg-pipeline", name] or by_hand[name].once, name


def test_every_variable_is_a_setting() -> None:
    """A misspelt one would be ignored in silence."""
    given = {**named("ConfigMap")["settings"]["data"], **named("Secret")["secrets"]["stringData"]}
    assert given.keys() - NOT_SETTINGS <= {name.upper() for name in Settings.model_fields}
    Settings(
        _env_file=None,
        **{name.lower(): value for name, value in given.items() if name not in NOT_SETTINGS},
    )
    sources = [{"configMapRef": {"name": "settings"}}, {"secretRef": {"name": "secrets"}}]
    for name, container, _ in ours():
        assert container["envFrom"] == sources, name
        assert "env" not in container, name


def test_addresses_lead_to_services() -> None:
    given = {**named("ConfigMap")["settings"]["data"], **named("Secret")["secrets"]["stringData"]}
    for variable in ("BROKER_URL", "DATABASE_URL", "CODE_SERVER"):
        host, port = re.search(r"([\w-]+):(\d+)(/|$)", given[variable]).group(1, 2)  # type: ignore[union-attr]
        (found,) = named("Service")[host]["spec"]["ports"]
        assert found["port"] == int(port), variable
    assert given["DATABASE_URL"].split(":")[2].startswith(f"{given['POSTGRES_PASSWORD']}@")


def test_labels_and_selectors_agree() -> None:
    for name, template in workloads().items():
        assert template["metadata"]["labels"] == {NAME: name}
    for kind in ("Deployment", "StatefulSet"):
        for name, manifest in named(kind).items():
            assert manifest["spec"]["selector"]["matchLabels"] == {NAME: name}
    for name, manifest in named("Service").items():
        assert manifest["spec"]["selector"] == {NAME: name}
    for name, manifest in named("PodDisruptionBudget").items():
        assert manifest["spec"]["selector"]["matchLabels"] == {NAME: name}
    assert named("PodDisruptionBudget").keys() <= named("Deployment").keys()


def test_ports_have_the_names_that_services_probes_and_policies_use() -> None:
    ports = {name: {port["name"]: port["containerPort"] for port in container.get("ports", [])}
             for name, container, _ in containers()}  # fmt: skip
    for name, service in named("Service").items():
        assert {each["targetPort"] for each in service["spec"]["ports"]} <= ports[name].keys()
        assert {each["port"] for each in service["spec"]["ports"]} == {*ports[name].values()}
    for name, container, _ in containers():
        for probe in probes(container).values():
            asked = (probe.get("httpGet") or probe.get("grpc") or {}).get("port")
            assert asked is None or asked in {*ports[name], *ports[name].values()}, name
    given = named("ConfigMap")["settings"]["data"]
    assert (ports["api"]["http"], ports["webserver"]["http"]) == (
        int(given["API_PORT"]),
        int(given["DAGSTER_PORT"]),
    )


def test_what_stays_is_watched() -> None:
    """A worker and the daemon have no port: their heartbeats are asked for."""
    for name, container, _ in containers():
        if name not in named("Job"):
            assert "livenessProbe" in probes(container), name
    assert named("Deployment").keys() >= {"api", "worker"}


def test_of_what_may_run_only_once_there_is_never_a_second() -> None:
    for name, reason in ONCE_ONLY.items():
        spec = named("Deployment")[name]["spec"]
        assert (spec["replicas"], spec["strategy"]) == (1, {"type": "Recreate"}), reason


def test_no_pod_has_rights_or_is_told_of_services_by_variables() -> None:
    """Kubernetes sets API_PORT to `tcp://…` in a namespace with a Service `api`, and that is a
    setting of ours."""
    for name, container, pod in containers():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        assert container["securityContext"]["allowPrivilegeEscalation"] is False, name
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}, name
        assert container["resources"].keys() == {"requests", "limits"}, name
    assert [name for name, _, pod in ours() if pod["enableServiceLinks"] is not False] == []


def test_volumes_exist() -> None:
    templates = {claim["metadata"]["name"] for each in named("StatefulSet").values()
                 for claim in each["spec"]["volumeClaimTemplates"]}  # fmt: skip
    for name, container, pod in containers():
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            assert mount["name"] in volumes.keys() | templates, name
        claims = {volume["persistentVolumeClaim"]["claimName"] for volume in volumes.values()
                  if "persistentVolumeClaim" in volume}  # fmt: skip
        assert claims <= named("PersistentVolumeClaim").keys()
    places = {
        mount["mountPath"] for _, container, _ in ours() for mount in container["volumeMounts"]
    }
    given = named("ConfigMap")["settings"]["data"]
    assert {given["DATA_DIR"], given["WEIGHTS_DIR"]} <= places


def test_the_api_alone_is_open_to_all() -> None:
    """Whoever reaches the broker, the database, the code server or the UI runs what he likes."""
    policies = {name: each["spec"] for name, each in named("NetworkPolicy").items()}
    assert policies["nobody-comes-in"] == {"podSelector": {}, "policyTypes": ["Ingress"]}
    opening = [policy for policy in policies.values() if "ingress" in policy]
    reached = {policy["podSelector"]["matchLabels"][NAME]: policy["ingress"] for policy in opening}
    assert reached.keys() == named("Service").keys()
    assert [
        name for name, rules in reached.items() if not all(rule.get("from") for rule in rules)
    ] == ["api"]
    for rules in reached.values():
        for peer in (peer for rule in rules for peer in rule.get("from", [])):
            label = peer.get("podSelector", {}).get("matchLabels", {}).get(NAME)
            assert label is None or label in workloads()


def test_workers_follow_a_figure_that_is_served() -> None:
    """KEDA's own schema is not at hand: what it asks of a trigger is that every value is text."""
    scaled = named(OF_KEDA)["worker"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    assert scaled["spec"]["scaleTargetRef"]["name"] in named("Deployment")
    (trigger,) = scaled["spec"]["triggers"]
    assert all(isinstance(value, str) for value in trigger["metadata"].values())
    assert scaled["spec"]["minReplicaCount"] < scaled["spec"]["maxReplicaCount"]
    metric, state = re.search(r"(\w+)\{state=\"(\w+)\"\}", trigger["metadata"]["query"]).groups()  # type: ignore[union-attr]
    families = {
        each.name: each for each in gauges_of(read_service_state(ObjectStore.in_memory(), 15))
    }
    assert state in {sample.labels["state"] for sample in families[metric].samples}
    assert "replicas" not in named("Deployment")["worker"]["spec"], "it would undo what was scaled"
