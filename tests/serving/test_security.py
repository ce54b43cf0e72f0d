import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fakes import FakeEngine, files, served

from diffusion_lab.serving.__main__ import main
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.desk import offered
from diffusion_lab.serving.security import Keys, check_open, digest, is_loopback, new_key
from small import MODEL


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
    with served(app) as url, httpx.Client(base_url=url) as client:
        for method, path in (
            ("POST", "/v1/inpaint"),
            ("POST", "/v1/images/edits"),
            ("POST", "/v1/jobs"),
            ("GET", "/v1/jobs/none"),
            ("GET", "/v1/jobs/none/events"),
            ("GET", "/v1/jobs/none/images/0"),
            ("DELETE", "/v1/jobs/none"),
            ("GET", "/v1/info"),
        ):
            for headers in (
                {},
                {"X-API-Key": "wrong"},
                {"Authorization": "Bearer wrong"},
                {"Authorization": "Basic x"},
            ):
                answer = client.request(method, path, headers=headers)
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "unauthorized"), path
                assert answer.headers["www-authenticate"] == "Bearer"
        for path in ("/", "/healthz", "/readyz", "/version", "/metrics", "/openapi.json"):
            assert client.get(path).status_code == 200
        for headers in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}, {"Authorization": f"bearer {key}"}):
            assert client.post("/v1/inpaint", files=files(), headers=headers).status_code == 200
        schema = client.get("/openapi.json").json()
        assert set(schema["components"]["securitySchemes"]) == {"HTTPBearer", "APIKeyHeader"}
        assert "401" in schema["paths"]["/v1/inpaint"]["post"]["responses"]
        assert key not in client.get("/metrics").text


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
from diffusion_lab.serving.desk import offered
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
