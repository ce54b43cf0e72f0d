"""What can be known of the container files without a container engine."""

import asyncio
import contextlib
import gzip
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
import torch
import yaml
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from diffusion_lab.inpainting import Inpainter
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.measures import Measures
from patience import until

ROOT = Path(__file__).parents[1]


def queries() -> list[str]:
    """Every PromQL expression of the dashboard and of the alerts."""
    dashboard = json.loads((ROOT / "deploy/grafana/dashboards/service.json").read_text())
    alerts = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())
    panels = [panel for panel in dashboard["panels"] if panel["datasource"]["type"] == "prometheus"]
    return [target["expr"] for panel in panels for target in panel["targets"]] + [
        rule["expr"] for group in alerts["groups"] for rule in group["rules"]
    ]


def checked(tool: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A tool of Prometheus', in `deploy/`."""
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed: apt-get install prometheus prometheus-alertmanager")
    return subprocess.run([tool, *arguments], cwd=ROOT / "deploy", capture_output=True, text=True)


@pytest.fixture(scope="module")
def metrics() -> dict[str, set[str]]:
    """Names of the service's series, with their labels, as it shows them after one of each event."""
    measures = Measures()
    measures.waited(1.0)
    measures.stepped(2, 0.1)
    measures.cancelled("queued")
    measures.failed("engine_error")
    measures.answered("/", 200, 0.1)
    measures.rejected("queue_full")
    measures.seen(torch.zeros(3, 4, 4), torch.ones(1, 4, 4, dtype=torch.bool))

    text = measures.text().decode()
    names: dict[str, set[str]] = {}
    for line in text.splitlines():
        if match := re.match(r"(\w+)(?:{(.*)})? ", line):
            names.setdefault(match[1], set()).update(re.findall(r"(\w+)=", match[2] or ""))
    return names


def test_every_query_asks_for_series_that_the_service_has(inpainter: Inpainter, metrics: dict[str, set[str]]) -> None:
    gauges = {"diffusion_lab_queue_depth", "diffusion_lab_running", "diffusion_lab_ready"}
    gauges |= {"diffusion_lab_heartbeat_seconds", "diffusion_lab_model_info"}  # of the engine, read below
    engine, measures = LocalEngine(inpainter, "a@1", max_batch=2), Measures()
    measures.watch(engine)
    shown = measures.text().decode()
    asyncio.run(engine.drain(0))  # an interpreter that ends under a call of its thread aborts
    assert all(f"\n{gauge}" in shown for gauge in gauges)
    for query in queries():
        for name in re.findall(r"\b(?:diffusion_lab|process)_\w+", query):
            assert name in metrics or name in gauges, f"'{name}' of '{query}' is not there"
        for labels in re.findall(r"by \((.*?)\)", query):
            (name,) = set(re.findall(r"\bdiffusion_lab_\w+", query)) or {""}
            assert set(labels.replace(" ", "").split(",")) <= metrics[name], query


def test_the_alerts_fire_when_they_are_said_to() -> None:
    """`deploy/alerts_test.yml`, by Prometheus' own evaluation."""
    done = checked("promtool", "test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stderr
    tests = yaml.safe_load((ROOT / "deploy/alerts_test.yml").read_text())["tests"]
    rules = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"][0]["rules"]
    asked = [each for test in tests for each in test["alert_rule_test"]]
    for silent in (True, False):  # promtool says nothing of an alert that no test asks for
        named = {each["alertname"] for each in asked if ("exp_alerts" not in each) == silent}
        assert named == {rule["alert"] for rule in rules}


def test_prometheus_and_alertmanager_take_their_files() -> None:
    for command in (
        ("promtool", "check", "config", "prometheus.yml"),
        ("amtool", "check-config", "alertmanager.yml"),
    ):
        done = checked(*command)
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("severity", ["page", "ticket"])
def test_an_alert_goes_where_its_severity_says(severity: str) -> None:
    done = checked("amtool", "config", "routes", "test", "--config.file=alertmanager.yml", f"severity={severity}")
    assert done.stdout == f"{severity}s\n"
    rules = yaml.safe_load((ROOT / "deploy/alerts.yml").read_text())["groups"][0]["rules"]
    assert severity in {rule["labels"]["severity"] for rule in rules} <= {"page", "ticket"}


def test_a_failure_that_never_happened_is_counted_as_none() -> None:
    """So that the first one is an increase."""
    shown = Measures().text().decode()
    for code in ("non_finite_output", "engine_error"):
        assert f'diffusion_lab_failed_total{{code="{code}"}} 0.0\n' in shown


class Loki(ThreadingHTTPServer):
    """Takes log lines as Loki does (OTLP in protobuf over HTTP, one address), and keeps them."""

    def __init__(self) -> None:
        lines: list[tuple[dict[str, str], LogRecord]] = []
        self.lines = lines

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                body = gzip.decompress(body) if self.headers["Content-Encoding"] == "gzip" else body
                for of in ExportLogsServiceRequest.FromString(body).resource_logs:
                    who = {each.key: each.value.string_value for each in of.resource.attributes}
                    lines.extend((who, line) for scope in of.scope_logs for line in scope.log_records)
                self.send_response(200 if self.path == "/otlp/v1/logs" else 404)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)


@pytest.fixture
def loki() -> Iterator[Loki]:
    with Loki() as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_log_reaches_loki_with_its_traces(loki: Loki, tmp_path: Path) -> None:
    """The service as `compose.yaml` starts it, but for the addresses."""
    service = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["service"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    where = "OTEL_EXPORTER_OTLP_LOGS_ENDPOINT"
    address = service["environment"][where].replace("loki:3100", f"127.0.0.1:{loki.server_port}")
    environment = {**os.environ, **service["environment"], where: address}
    words = [Path(sys.executable).parent / word for word in service["entrypoint"][:2]]
    with (
        (tmp_path / "output").open("w") as output,
        subprocess.Popen([*words, "serve", f"port={port}"], env=environment, stdout=output, stderr=output) as process,
    ):
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
                until(lambda: answers(client))
                client.get("/v1/info")
        finally:
            process.send_signal(signal.SIGTERM)
    written = (tmp_path / "output").read_text()
    said = {line.body.string_value: line for who, line in loki.lines if who["service.name"] == "diffusion_lab"}
    (info,) = (line for text, line in said.items() if text.startswith("GET /v1/info 200"))
    assert info.severity_text == "INFO"
    assert len(info.trace_id) == 16
    assert not any("/readyz 200" in text for text in said), "machines that ask whether all is well leave no line"
    assert all(text in written for text in said), "what Loki has, the container's own output has too"


def answers(client: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return client.get("/readyz").status_code == 200
    return False


def test_the_files_that_are_mounted_and_copied_exist() -> None:
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    mounted = [volume.split(":")[0] for service in compose["services"].values() for volume in service["volumes"]]
    for path in (path for path in mounted if path.startswith("./deploy")):
        assert (ROOT / path).exists(), path
    ignored = (ROOT / ".dockerignore").read_text()
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY") and "--from" not in line:
            for path in line.split()[1:-1]:
                assert (ROOT / path).exists(), path
                assert f"!{path}\n" in ignored, path


def test_the_image_runs_as_nobody_in_particular_and_tells_its_health() -> None:
    last_stage = (ROOT / "Dockerfile").read_text().split("\nFROM ")[-1]
    assert re.search(r"^USER \d+$", last_stage, re.M)
    assert "/healthz" in last_stage
    assert re.search(r"^HEALTHCHECK ", last_stage, re.M)
    images = re.findall(r"^FROM (\S+)", (ROOT / "Dockerfile").read_text(), re.M)
    assert all(":" in image and not image.endswith(":latest") for image in images), images
    compose = yaml.safe_load((ROOT / "compose.yaml").read_text())
    for service in compose["services"].values():
        assert "build" in service or re.search(r":v?\d", service["image"])


@pytest.mark.slow
@pytest.mark.network
def test_the_images_steps_make_a_service_without_the_training(tmp_path: Path) -> None:
    """The Dockerfile's RUN lines in a virtual environment: it serves, and Lightning and W&B are not there."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "lab"], check=True)
    python = tmp_path / "lab" / "bin" / "python"
    for step in (["pip>=25.1"], ["torch>=2.11,<3"], ["--group", "service", "--group", "telemetry"], ["--no-deps", "."]):
        subprocess.run([python, "-m", "pip", "install", "-q", *step], cwd=ROOT, check=True)
    probe = (
        "import importlib.util as u, diffusion_lab.serving.run; "
        "print([n for n in ('lightning', 'wandb', 'torchvision', 'torchmetrics') if u.find_spec(n)])"
    )
    assert subprocess.run([python, "-c", probe], capture_output=True, text=True, check=True).stdout == "[]\n"
    entrypoint = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["service"]["entrypoint"]
    assert all((python.parent / word).exists() for word in entrypoint[:2])
