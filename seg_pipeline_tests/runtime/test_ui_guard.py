"""What a page in an operator's browser, or a stranger, may do in Dagster's UI: nothing. Before the
real UI."""

import base64
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets import Origin, Subprotocol
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from seg_pipeline.runtime.ui_guard import Authority, UiRequest, UiRules
from seg_pipeline_tests.conftest import make_settings
from seg_pipeline_tests.running_stack import environment_of_tests, free_ports

pytestmark = pytest.mark.process

GRAPHQL = [Subprotocol("graphql-ws")]
QUERY = {"query": "{ version }"}
MUTATIONS = {
    "deleteRun": 'mutation { deletePipelineRun(runId: "1") { __typename } }',
    "wipeAssets": (
        'mutation { wipeAssets(assetPartitionRanges: [{assetKey: {path: ["result"]}}]) {'
        " __typename } }"
    ),
    "shutdownRepositoryLocation": (
        'mutation { shutdownRepositoryLocation(repositoryLocationName: "x") { __typename } }'
    ),
    "launchRun": (
        'mutation { launchRun(executionParams: {selector: {repositoryLocationName: "x",'
        ' repositoryName: "x", jobName: "prune"}}) { __typename } }'
    ),
}
ELSEWHERE = "http://evil.example"
REPORT = "/report_asset_materialization/result"


@contextmanager
def ui(folder: Path, *options: str, **settings: str) -> Iterator[httpx.Client]:
    """The real UI, of an empty workspace, started as a user would."""
    (port,) = free_ports(1)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    environment = {
        **environment_of_tests(),
        "DAGSTER_HOME": str(folder),
        "DAGSTER_PORT": str(port),
        **settings,
    }
    command = [
        sys.executable,
        "-m",
        "seg_pipeline.runtime.webserver",
        "--empty-workspace",
        *options,
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=output, stderr=output
        )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            _wait_until_it_answers(client, process, folder / "output")
            yield client
    finally:
        process.terminate()
        process.wait(60)


def _wait_until_it_answers(
    client: httpx.Client, process: subprocess.Popen[bytes], output: Path
) -> None:
    give_up_at = time.monotonic() + 120
    while True:
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < give_up_at, output.read_text()
        try:
            client.get("/server_info").raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(0.2)


@pytest.fixture(scope="module")
def open_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Without a password, as on a laptop."""
    with ui(
        tmp_path_factory.mktemp("ui"), DAGSTER_ALLOWED_HOSTS="ui.example, other.example"
    ) as client:
        yield client


@pytest.fixture(scope="module")
def locked_ui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """With a password, or a proxy that says who somebody is."""
    settings = {"DAGSTER_PASSWORD": "pass:wört", "DAGSTER_IDENTITY_HEADER": "X-Forwarded-Email"}
    with ui(tmp_path_factory.mktemp("ui"), **settings) as client:
        yield client


def own_origin(client: httpx.Client) -> str:
    return str(client.base_url).rstrip("/")


def from_browser(origin: str, site: str, **more: str) -> dict[str, str]:
    return {
        "origin": origin,
        "sec-fetch-site": site,
        "sec-fetch-mode": "cors",
        "sec-fetch-dest": "empty",
        **more,
    }


# What the UI's own pages and an operator's scripts do


@pytest.mark.slow
def test_the_uis_own_pages_work(open_ui: httpx.Client) -> None:
    page = open_ui.get("/", headers={"sec-fetch-site": "none", "sec-fetch-mode": "navigate"})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    own = from_browser(own_origin(open_ui), "same-origin")
    assert open_ui.post("/graphql", json=QUERY, headers=own).json()["data"]["version"]
    for mutation in MUTATIONS.values():
        answer = open_ui.post("/graphql", json={"query": mutation}, headers=own)
        assert "refused" not in answer.text
        assert answer.json()["data"], answer.text


@pytest.mark.slow
def test_a_script_without_a_browser_works(open_ui: httpx.Client) -> None:
    assert open_ui.post("/graphql", json=QUERY).status_code == 200
    assert open_ui.get("/graphql", params=QUERY).status_code == 200
    assert open_ui.post(REPORT, json={}).status_code == 200


@pytest.mark.slow
def test_a_link_from_elsewhere_opens_a_page_of_the_ui(open_ui: httpx.Client) -> None:
    link = {
        "sec-fetch-site": "cross-site",
        "sec-fetch-mode": "navigate",
        "sec-fetch-dest": "document",
    }
    assert open_ui.get("/runs", headers=link).status_code == 200


@pytest.mark.slow
def test_a_uuid_leads_to_the_jobs_page(open_ui: httpx.Client) -> None:
    answer = open_ui.get("/job/0193-abc")
    page = "/assets/result?view=partitions&partition=0193-abc"
    assert (answer.status_code, answer.headers["location"]) == (307, page)
    assert open_ui.get(page).status_code == 200
    assert open_ui.get("/job/..%2Fx").status_code == 200  # the UI's own page, which says so


def test_subscriptions_of_the_uis_own_pages_work(open_ui: httpx.Client) -> None:
    address = own_origin(open_ui).replace("http", "ws") + "/graphql"
    origin = Origin(own_origin(open_ui))
    with connect(address, origin=origin, subprotocols=GRAPHQL) as socket:
        socket.send('{"type": "connection_init"}')
        assert "connection_ack" in str(socket.recv(30))


# What another site's page does


@pytest.mark.slow
@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
@pytest.mark.parametrize(
    "path", ["/graphql", "/graphql?query={version}&", "//graphql", "/graphql/"]
)
def test_an_address_changes_nothing(open_ui: httpx.Client, mutation: str, path: str) -> None:
    separator = "" if path.endswith("&") else "?"
    address = f"{path}{separator}{httpx.QueryParams({'query': mutation})}"
    for method in ("GET", "HEAD"):
        assert open_ui.request(method, own_origin(open_ui) + address).status_code == 405
    named = f"query A {{ version }} {mutation.replace('mutation', 'mutation B')}"
    assert open_ui.get("/graphql", params={"query": named, "operationName": "B"}).status_code == 405


@pytest.mark.slow
@pytest.mark.parametrize(
    "origin", [ELSEWHERE, "null", "http://localhost", "https://127.0.0.1", "http://127.0.0.1:1"]
)
def test_another_sites_page_changes_nothing(open_ui: httpx.Client, origin: str) -> None:
    for mutation in MUTATIONS.values():
        answer = open_ui.post("/graphql", json={"query": mutation}, headers={"origin": origin})
        assert (answer.status_code, "another site" in answer.json()["error"]) == (403, True)
    assert open_ui.post(REPORT, json={}, headers={"origin": origin}).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_what_a_browser_says_of_a_request_counts_without_an_origin_too(
    open_ui: httpx.Client, site: str
) -> None:
    """The API on another port of this machine is the same site, and no page of ours."""
    said = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert open_ui.post("/graphql", json=QUERY, headers=said).status_code == 403
    assert open_ui.get("/graphql", params=QUERY, headers=said).status_code == 403
    framed = {**said, "sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    assert open_ui.get("/runs", headers=framed).status_code == 403


@pytest.mark.slow
@pytest.mark.parametrize("content_type", [
    None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b",
    "text/plain; application/json", "application/jsonp", "application/graphql",
])  # fmt: skip
@pytest.mark.parametrize("path", ["/graphql", REPORT])
def test_what_a_form_can_send_is_refused(
    open_ui: httpx.Client, content_type: str | None, path: str
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    address = f"{path}?{httpx.QueryParams({'query': MUTATIONS['deleteRun']})}"
    answer = open_ui.post(address, content=b'{"query": "{ version }"}', headers=headers)
    assert answer.status_code == 415


@pytest.mark.slow
@pytest.mark.parametrize("headers", [
    {"origin": ELSEWHERE}, {"origin": "null"}, {"sec-fetch-site": "cross-site"},
    {"host": "evil.example"},
])  # fmt: skip
def test_another_sites_page_opens_no_websocket(
    open_ui: httpx.Client, headers: dict[str, str]
) -> None:
    address = own_origin(open_ui).replace("http", "ws") + "/graphql"
    uri_host = {"host": address} if "host" in headers else {}
    options: dict[str, Any] = {"additional_headers": {} if uri_host else headers}
    if uri_host:  # the name resolves to us, as after DNS rebinding
        options["sock"] = _connected(open_ui)
        address = "ws://evil.example/graphql"
    with pytest.raises(InvalidStatus) as refused:
        connect(address, subprotocols=["graphql-ws"], **options)  # type: ignore[list-item]
    assert refused.value.response.status_code == 403


def _connected(client: httpx.Client) -> Any:
    import socket

    return socket.create_connection((client.base_url.host, client.base_url.port or 80))


@pytest.mark.slow
def test_no_page_shows_the_ui_in_a_frame(open_ui: httpx.Client) -> None:
    headers = open_ui.get("/").headers
    assert headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]


# Names


@pytest.mark.slow
@pytest.mark.parametrize("host", [
    "evil.example", "localhost.evil.example", "evil.example:3000", "user@localhost",
    "localhost:80@evil.example", "",
    "127.0.0.1.evil.example", "localhost, evil.example", "10.0.0.1", "[::2]",
])  # fmt: skip
def test_a_name_that_is_not_ours_is_refused(open_ui: httpx.Client, host: str) -> None:
    """DNS rebinding: a page of evil.example whose name leads to this machine is of the same
    origin."""
    for answer in (
        open_ui.get("/", headers={"host": host}),
        open_ui.post("/graphql", json=QUERY, headers={"host": host, "origin": f"http://{host}"}),
    ):
        assert answer.status_code in (400, 403)  # 400: the server takes it for no HTTP


@pytest.mark.slow
@pytest.mark.parametrize(
    "host",
    ["localhost:3000", "LOCALHOST", "127.0.0.1", "[::1]:3000", "ui.example", "other.example:8443"],
)
def test_our_names_are_answered_at_any_port(open_ui: httpx.Client, host: str) -> None:
    """A tunnel or a container's published port may have another number."""
    assert (
        open_ui.post(
            "/graphql", json=QUERY, headers={"host": host, "origin": f"http://{host}"}
        ).status_code
        == 200
    )


@pytest.mark.slow
def test_a_proxy_with_tls_keeps_the_origin(open_ui: httpx.Client) -> None:
    headers = {"host": "ui.example", "x-forwarded-proto": "https", "origin": "https://ui.example"}
    assert open_ui.post("/graphql", json=QUERY, headers=headers).status_code == 200


# Who somebody is


@pytest.mark.slow
def test_the_password_opens_and_nothing_else_does(locked_ui: httpx.Client) -> None:
    assert locked_ui.get("/", auth=("anybody", "pass:wört")).status_code == 200
    assert locked_ui.post("/graphql", json=QUERY, auth=("", "pass:wört")).status_code == 200
    for auth in [None, ("anybody", ""), ("anybody", "pass"), ("pass:wört", ""), ("", "PASS:WÖRT")]:
        answer = locked_ui.get("/", auth=auth)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith('Basic realm="Dagster"')
    for value in [
        "Basic",
        "Basic !",
        "Bearer x",
        "Basic " + base64.b64encode("pass:wört".encode()[:4]).decode(),
    ]:
        assert locked_ui.get("/", headers={"authorization": value}).status_code == 401


@pytest.mark.slow
def test_a_websocket_asks_for_the_password_too(locked_ui: httpx.Client) -> None:
    address = own_origin(locked_ui).replace("http", "ws") + "/graphql"
    with pytest.raises(InvalidStatus):
        connect(address, subprotocols=GRAPHQL)
    basic = "Basic " + base64.b64encode("anybody:pass:wört".encode()).decode()
    headers = {"authorization": basic}
    with connect(address, subprotocols=GRAPHQL, additional_headers=headers) as socket:
        socket.send('{"type": "connection_init"}')
        assert "connection_ack" in str(socket.recv(30))


@pytest.mark.slow
def test_a_proxy_on_this_machine_says_who_somebody_is(locked_ui: httpx.Client) -> None:
    assert locked_ui.get("/", headers={"x-forwarded-email": "ada@example.org"}).status_code == 200
    assert locked_ui.get("/", headers={"x-forwarded-email": ""}).status_code == 401
    forwarded = {"x-forwarded-email": "ada@example.org", "x-forwarded-for": "203.0.113.9"}
    assert locked_ui.get("/", headers=forwarded).status_code == 200


@pytest.mark.slow
def test_the_way_to_a_jobs_page_asks_for_the_password_too(locked_ui: httpx.Client) -> None:
    assert locked_ui.get("/job/abc").status_code == 401


def test_a_health_check_needs_no_password(locked_ui: httpx.Client) -> None:
    assert locked_ui.get("/server_info").status_code == 200
    assert locked_ui.get("/server_info", headers={"host": "evil.example"}).status_code == 403


def request_of(
    peer: str, headers: dict[str, str], path: str = "/", method: str = "GET"
) -> UiRequest:
    lines = [
        (name.encode(), value.encode()) for name, value in {"host": "localhost", **headers}.items()
    ]
    return UiRequest(
        {"type": "http", "method": method, "path": path, "client": (peer, 1), "headers": lines}
    )


@pytest.mark.parametrize(("peer", "is_believed"), [
    ("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("192.0.2.7", True),
    ("10.2.0.1", False), ("192.0.2.8", False), ("203.0.113.9", False), ("", False),
])  # fmt: skip
def test_only_proxies_that_are_named_are_believed(
    tmp_path: Path, peer: str, is_believed: bool
) -> None:
    settings = make_settings(
        tmp_path, dagster_identity_header="X-User", dagster_proxies="10.1.0.0/16, 192.0.2.7"
    )
    rules = UiRules.of(settings, "0.0.0.0")
    refusal = rules.refusal(request_of(peer, {"x-user": "ada"}))
    assert (refusal is None) == is_believed


def test_a_ui_on_every_address_still_has_names_of_its_own(tmp_path: Path) -> None:
    assert UiRules.of(make_settings(tmp_path), "0.0.0.0").hosts == {"localhost", "127.0.0.1", "::1"}
    assert "ui.internal" in UiRules.of(make_settings(tmp_path), "UI.internal").hosts


@pytest.mark.parametrize("networks", ["10.0.0.0/33", "proxy.example", "10.0.0.1/8"])
def test_a_proxy_that_is_no_address_is_a_setting_to_be_mended(
    tmp_path: Path, networks: str
) -> None:
    with pytest.raises(ValueError, match="DAGSTER_PROXIES"):
        make_settings(tmp_path, dagster_proxies=networks)


@pytest.mark.parametrize(("text", "authority"), [
    ("Ui.Example:81", Authority("ui.example", 81)), ("[::1]", Authority("::1", None)),
    ("a:b", None), ("a@b", None),
    ("a/b", None), ("", None), ("[::1", None), ("a:123456", None),
])  # fmt: skip
def test_hosts_and_ports_are_read(text: str, authority: Authority | None) -> None:
    assert Authority.parse(text) == authority
