import logging
import socket
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from fakes import FakeEngine, files, served, until
from fastapi.testclient import TestClient

from diffusion_lab.serving.__main__ import main
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.run import configured
from diffusion_lab.serving.security import Keys, check_open, digest, is_loopback, new_key
from diffusion_lab.serving.settings import offered
from patience import PATIENCE
from small import MODEL

OPEN = ("/", "/docs", "/page/page.css", "/openapi.json", "/healthz", "/readyz", "/version", "/metrics")
"""What docs/serving.md says is open beside keys."""


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *((host, True) for host in ("127.0.0.1", "localhost", "::1", "127.9.9.9")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.4", "example.org", "")),
    ],
)
def test_other_machines_need_a_key_unless_told(host: str, local: bool) -> None:
    assert is_loopback(host) == local
    check_open(host, ["0" * 64], allow_open=False)
    check_open(host, [], allow_open=True)
    if local:
        check_open(host, [], allow_open=False)
    else:
        with pytest.raises(ValueError, match="allow_open=true"):
            check_open(host, [], allow_open=False)


def test_only_hashes_are_kept() -> None:
    key = new_key()
    keys = Keys([digest("another"), digest(key).upper()])
    assert key not in str(vars(keys))
    assert keys.open(key)
    assert not keys.open(key + "x")
    assert not keys.open(digest(key))
    assert not Keys([]).open("")
    with pytest.raises(ValueError, match="no SHA-256"):
        Keys([key])


def test_a_new_key_fits_its_hash(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--new-key"]) == 0
    words = capsys.readouterr().out.split()
    assert digest(words[1]) in words


def test_the_door() -> None:
    key = new_key()
    app = create_app(FakeEngine(), offered({"model": MODEL}), keys=Keys([digest(key)]))
    with served(app) as url, httpx.Client(base_url=url, timeout=PATIENCE) as client:
        paths = client.get("/openapi.json").json()["paths"]
        shut = {(method, path) for path, methods in paths.items() for method in methods if path not in OPEN}
        assert shut >= {("get", "/v1/info"), ("post", "/v1/jobs"), ("post", "/v1/images/edits")}
        for method, path in sorted(shut):
            path = path.format(job_id="none", number=0)
            for headers in (
                {},
                {"X-API-Key": "wrong"},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic x"},
            ):
                answer = client.request(method, path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in OPEN:
            assert client.get(path).status_code == 200
        for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {key}"}):
            assert client.post("/v1/inpaint", files=files(), headers=headers).status_code == 200
        schema = client.get("/openapi.json").json()
        assert set(schema["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
        assert "401" in schema["paths"]["/v1/inpaint"]["post"]["responses"]
        assert key not in client.get("/metrics").text


def test_a_job_belongs_to_the_key_that_started_it() -> None:
    mine, other = new_key(), new_key()
    engine = FakeEngine()
    app = create_app(engine, offered({"model": MODEL}), keys=Keys([digest(mine), digest(other)]))
    with served(app) as url, httpx.Client(base_url=url, headers={"X-API-Key": mine}, timeout=PATIENCE) as client:
        paths = client.get("/openapi.json").json()["paths"]
        routes = [(method, path) for path, methods in paths.items() for method in methods if "{job_id}" in path]
        assert len(routes) == 4
        engine.held_at = 2
        job = client.post("/v1/jobs", files=files()).json()["id"]

        def asked(job_id: str, key: str) -> list[tuple[int, str]]:
            """What all routes say, as far as it does not name the job; cancelling comes last, so that it is one."""
            answers = []
            for method, path in sorted(routes, key=lambda route: route[0] == "delete"):
                answer = client.request(method, path.format(job_id=job_id, number=0), headers={"X-API-Key": key})
                answers.append((answer.status_code, answer.text.replace(job_id, "<id>")))
            return answers

        unknown = asked("none", mine)
        assert {status for status, _ in unknown} == {404}
        assert asked(job, other) == asked("none", other) == unknown
        assert engine.running == 1  # nobody has cancelled it
        engine.held_at = None
        until(lambda: client.get(f"/v1/jobs/{job}").json()["status"] == "succeeded")
        assert asked(job, other) == unknown
        bearer = {"Authorization": f"Bearer {mine}", "X-API-Key": ""}  # the same key, however it comes
        assert client.get(f"/v1/jobs/{job}/images/0", headers=bearer).status_code == 200
        assert {status for status, _ in asked(job, mine)} == {200}


def test_where_no_key_is_asked_for_jobs_are_everybodys(service: httpx.Client) -> None:
    job = service.post("/v1/jobs", files=files(), headers={"X-API-Key": "one"}).json()["id"]
    assert service.get(f"/v1/jobs/{job}", headers={"X-API-Key": "another"}).status_code == 200


@pytest.mark.parametrize(
    ("address", "headers", "status"),
    [
        ("/healthz", {}, 200),
        ("/healthz", {"X-Long": "x" * 15_000}, 200),
        ("/healthz", {"X-Long": "x" * 17_000}, 431),
        ("/healthz", {"X-Long": "x" * 200_000}, 431),
        ("/healthz", {f"X-{i}": "x" * 2000 for i in range(9)}, 431),
        ("/healthz", {"X" * 17_000: "x"}, 431),
        ("/healthz", {f"X-{i}": "" for i in range(90)}, 200),
        ("/healthz", {f"X-{i}": "" for i in range(101)}, 431),
        ("/healthz?" + "x" * 8000, {}, 200),
        ("/healthz?" + "x" * 9000, {}, 414),
        ("/" + "x" * 9000, {}, 414),
    ],
)
def test_what_comes_before_the_body_is_bounded(
    address: str, headers: dict[str, str], status: int, service: httpx.Client
) -> None:
    answer = service.get(address, headers=headers)
    assert answer.status_code == status
    if status != 200:
        assert answer.json()["error"]["code"] == ("address_too_long" if status == 414 else "headers_too_large")
        assert answer.headers["x-request-id"]


@pytest.mark.parametrize("piece", [b"x" * 65536, b"X-More: x\r\n" * 6554], ids=["one header", "many headers"])
def test_a_head_that_never_ends_is_not_kept(piece: bytes, service: httpx.Client) -> None:
    with socket.create_connection((service.base_url.host, service.base_url.port or 80)) as endless:
        endless.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ")
        with pytest.raises(ConnectionError):  # the other end has closed; 64 MiB fit in no socket's buffer
            endless.sendall(piece * 1024)
    assert service.get("/healthz").status_code == 200


@pytest.mark.slow
def test_a_connection_waits_for_its_next_request(service: httpx.Client) -> None:
    """Who asks again after some idle seconds never finds that the connection has just been closed."""
    kept = HTTPConnection(service.base_url.host, service.base_url.port, timeout=PATIENCE)
    kept.auto_open = 0  # the same one, or an error
    kept.connect()
    for idle in (6, 0):  # uvicorn's own limit is 5 seconds
        kept.request("GET", "/version")
        assert kept.getresponse().read()
        time.sleep(idle)
    kept.close()


def test_proxies_close_idle_connections_first() -> None:
    """They keep theirs for a minute: nginx by `keepalive_timeout`, the balancers of clouds by default."""
    assert configured(create_app(FakeEngine(), offered({"model": MODEL}))).timeout_keep_alive > 60


def test_every_answer_has_a_name_and_its_headers(service: httpx.Client) -> None:
    for answer in (service.get("/healthz"), service.get("/none"), service.post("/v1/inpaint"), service.get("/")):
        assert len(answer.headers["x-request-id"]) == 16
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-model-version"] == "fake@1"
        assert "server" not in answer.headers or answer.headers["server"] == "uvicorn"
    assert service.get("/healthz", headers={"X-Request-ID": "trace-7"}).headers["x-request-id"] == "trace-7"
    forged = service.get("/healthz", headers={"X-Request-ID": "a b\tc"}).headers["x-request-id"]
    assert len(forged) == 16


def test_requests_are_traces_where_opentelemetry_runs() -> None:
    """In a process of its own: a provider of traces is set once for all."""
    pytest.importorskip("opentelemetry.sdk")
    code = """
import sys
sys.path.append("..")
from fakes import FakeEngine
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.settings import offered
from small import MODEL
spans, provider = InMemorySpanExporter(), TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(provider)
client = TestClient(create_app(FakeEngine(), offered({"model": MODEL})))
for path in ("/v1/info", "/healthz", "/metrics"):
    assert client.get(path).status_code == 200
print([span.name for span in spans.get_finished_spans() if span.kind is trace.SpanKind.SERVER])
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True)
    assert run.stdout.strip() == "['GET /v1/info']", run.stderr


def test_of_what_machines_ask_only_what_is_wrong_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "diffusion_lab.serving.security")
    engine = FakeEngine()
    with TestClient(create_app(engine, offered({"model": MODEL}))) as client:
        for address in ("/healthz", "/metrics", "/v1/info"):
            assert client.get(address).status_code == 200
        engine.ready = False
        assert client.get("/readyz").status_code == 503
    said = [" ".join(record.message.split()[:3]) for record in caplog.records]
    assert said == ["GET /v1/info 200", "GET /readyz 503"]
