"""The service on a real socket: in front of an engine that tests can break, and of a small model."""

from collections.abc import Iterator

import httpx
import pytest
from fakes import FakeEngine, served, until

from diffusion_lab.inpainting import Inpainter
from diffusion_lab.serving.api import create_app
from diffusion_lab.serving.local import LocalEngine
from diffusion_lab.serving.settings import Limits, offered
from patience import PATIENCE
from small import MODEL, small_inpainter


@pytest.fixture(scope="session")
def _fake() -> Iterator[tuple[FakeEngine, str]]:
    engine = FakeEngine()
    app = create_app(engine, offered({"model": MODEL}), limits=Limits(pixels=1_000_000, bytes=2**20))
    with served(app) as url:
        yield engine, url


@pytest.fixture
def engine(_fake: tuple[FakeEngine, str]) -> Iterator[FakeEngine]:
    """What `service` stands in front of."""
    yield _fake[0]
    _fake[0].reset()


@pytest.fixture
def service(_fake: tuple[FakeEngine, str], engine: FakeEngine) -> Iterator[httpx.Client]:
    """A client of the service in front of `engine`: a megapixel and a MiB are its limits."""
    with httpx.Client(base_url=_fake[1], timeout=PATIENCE) as client:
        yield client


@pytest.fixture(scope="session")
def model() -> Inpainter:
    """A small model with random weights."""
    return small_inpainter()


@pytest.fixture(scope="session")
def url(model: Inpainter) -> Iterator[str]:
    """The address of the service in front of `model`."""
    engine = LocalEngine(model, "tiny@1")
    with served(create_app(engine, offered(model.recipe), trained_on="none")) as address:
        with httpx.Client(base_url=address, timeout=PATIENCE) as client:
            until(lambda: client.get("/readyz").status_code == 200)
        yield address
