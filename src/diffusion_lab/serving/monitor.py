"""Do the visitors send what the model was trained on? ``python -m diffusion_lab.serving.monitor URL --inputs FOLDER``.

It reads the service's histograms of mask fraction and input brightness, and holds them against the same two figures of
training, which a version in the registry has in ``inputs.json``. The exit code is 0 when they look alike or when there
are too few visitors to tell, 1 when they do not, 2 when something could not be read.
"""

import argparse
import bisect
import csv
import itertools
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

FIGURES = {"mask_fraction": "mask fraction", "input_brightness": "input brightness"}
SURE = 1.63
"""Of Kolmogorov and Smirnov's distance, times sqrt(nm / (n + m)): chance goes beyond it once in a hundred."""


@dataclass(frozen=True)
class Histogram:
    """What a service has counted of a figure.

    Args:
        bounds: upper ends of the buckets, rising, the last one infinite.
        counts: values up to each of them, so never falling.
    """

    bounds: tuple[float, ...]
    counts: tuple[float, ...]

    @property
    def total(self) -> float:
        return self.counts[-1]

    def since(self, before: "Histogram | None") -> "Histogram":
        """What came after an earlier look; all of it if the service started anew in between."""
        if before is None or before.bounds != self.bounds:
            return self
        fresh = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Histogram(self.bounds, fresh) if min(fresh) >= 0 else self

    def values(self) -> list[float]:
        """As many as were counted of a share, rising, each somewhere in its bucket: they are spread evenly over it.

        Example:
            >>> Histogram((0.5, math.inf), (2, 3)).values()  # a share is 1 at most
            [0.125, 0.375, 0.75]
        """
        found: list[float] = []
        before, start = 0, 0.0
        for count, end in zip(map(round, self.counts), self.bounds, strict=True):
            stop = min(end, 1.0)
            found += [start + (stop - start) * (i + 0.5) / (count - before) for i in range(count - before)]
            before, start = count, stop
        return found


@dataclass(frozen=True)
class Verdict:
    """How a figure of the visitors compares with training.

    Args:
        drifted: whether it is further away than the bound, and than chance explains.
        sentence: for people.
    """

    drifted: bool
    sentence: str


def histograms(text: str) -> dict[str, Histogram]:
    """The histograms of the figures in what ``/metrics`` answers.

    Raises:
        ValueError: if they are not in it.
    """
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in FIGURES}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = sample.name.removeprefix("diffusion_lab_").removesuffix("_bucket")
            if name in found and sample.name.endswith("_bucket"):
                found[name].append((float(sample.labels["le"]), float(sample.value)))
    if missing := [name for name, buckets in found.items() if not buckets]:
        raise ValueError(f"the metrics have no histogram diffusion_lab_{missing[0]}: is that the service's /metrics?")
    return {name: Histogram(*zip(*sorted(buckets), strict=True)) for name, buckets in found.items()}


def compare(name: str, live: Histogram, trained: Sequence[float], bound: float, least: int) -> Verdict:
    """Holds a figure of the visitors against training.

    The distance is Kolmogorov's: the largest difference between the shares of visitors and of training examples that
    lie at or below a value, looked at where the histogram's buckets end.

    Args:
        name: of the figure, for the sentence.
        live: of the visitors.
        trained: values of training examples, sorted.
        bound: the largest distance that does not matter; chance alone makes smaller ones drift by no sample size.
        least: visitors that are needed to tell.
    """
    if live.total < least:
        return Verdict(False, f"{name}: {live.total:g} squares, too few to tell ({least} are needed)")
    apart = [
        (count / live.total, bisect.bisect_right(trained, end) / len(trained), end)
        for end, count in zip(live.bounds, live.counts, strict=True)
    ]
    here, there, end = max(apart, key=lambda shares: abs(shares[0] - shares[1]))
    distance = abs(here - there)
    chance = SURE * math.sqrt((live.total + len(trained)) / (live.total * len(trained)))
    drifted = distance > max(bound, chance)
    return Verdict(
        drifted,
        f"{name}: {'DRIFTED' if drifted else 'as in training'}, distance {distance:.2f} ({max(bound, chance):.2f} is "
        f"allowed): {here:.0%} of {live.total:g} squares are at or below {end:g}, of training {there:.0%}",
    )


def trained_inputs(path: Path) -> dict[str, list[float]]:
    """The figures of training that a folder or its ``inputs.json`` holds.

    Raises:
        FileNotFoundError: if it has none.
        ValueError: if they are damaged.
    """
    file = path / "inputs.json" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no '{file}': a version that pipeline.py registered has it")
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
        values = {name: sorted(float(value) for value in facts[name]) for name in FIGURES}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"'{file}' is damaged ({error!r})") from None
    if not all(values.values()):
        raise ValueError(f"'{file}' is damaged: it holds no values")
    return values


def fetched(url: str) -> str:
    """What the metrics' address answers; the service's own address will do.

    Raises:
        ValueError: if it cannot be reached, or is not a service.
    """
    address = url if url.rstrip("/").endswith("/metrics") else f"{url.rstrip('/')}/metrics"
    try:
        return httpx.get(address, timeout=10).raise_for_status().text
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ValueError(f"{address} does not answer: {error}") from None


def write_tables(folder: Path, live: Mapping[str, Histogram], trained: Mapping[str, Sequence[float]]) -> None:
    """Writes ``current.csv`` and ``reference.csv``, a column for each figure, for programs that compare tables.

    A service keeps no value of anybody, only histograms: so a row is nobody's, each column rises by itself, and both
    tables are spread over the same buckets.

    Args:
        folder: is made.
        live: of the visitors.
        trained: values of training examples, sorted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen = {name: histogram.values() for name, histogram in live.items()}
    learned = {
        name: Histogram(
            histogram.bounds, tuple(bisect.bisect_right(trained[name], end) for end in histogram.bounds)
        ).values()
        for name, histogram in live.items()
    }
    for file, columns in (("current.csv", seen), ("reference.csv", learned)):
        with (folder / file).open("w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream)
            rows.writerow(columns)
            rows.writerows(itertools.zip_longest(*columns.values()))


def _earlier(path: Path | None) -> Mapping[str, Histogram]:
    if path is None or not path.is_file():
        return {}
    try:
        return {
            name: Histogram(tuple(map(float, facts["bounds"])), tuple(map(float, facts["counts"])))
            for name, facts in json.loads(path.read_text()).items()
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f"'{path}' is damaged: delete it, and the next call looks at all requests") from None


def _note(path: Path, found: Mapping[str, Histogram]) -> None:
    facts = {
        name: {"bounds": [str(bound) for bound in histogram.bounds], "counts": histogram.counts}
        for name, histogram in found.items()
    }
    path.write_text(json.dumps(facts) + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="diffusion-lab monitor",
        description="Say whether the visitors of a service send what its model was trained on.",
    )
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000", help="of the service (default: %(default)s)")
    parser.add_argument("--inputs", type=Path, required=True, help="folder of the version in service, or inputs.json")
    parser.add_argument("--bound", type=float, default=0.2, help="distance that does not matter (default: %(default)s)")
    parser.add_argument("--least", type=int, default=100, help="requests that are needed (default: %(default)s)")
    parser.add_argument("--since", type=Path, help="file that keeps the counts, so that each call looks at what is new")
    parser.add_argument("--tables", type=Path, help="folder for what was compared as tables, which Evidently reads")
    asked = parser.parse_args(arguments)
    try:
        trained = trained_inputs(asked.inputs)
        before = _earlier(asked.since)
        found = histograms(fetched(asked.url))
        fresh = {name: histogram.since(before.get(name)) for name, histogram in found.items()}
        verdicts = [
            compare(said, fresh[name], trained[name], asked.bound, asked.least) for name, said in FIGURES.items()
        ]
        if asked.tables is not None:
            write_tables(asked.tables, fresh, trained)
        if asked.since is not None and all(histogram.total >= asked.least for histogram in fresh.values()):
            _note(asked.since, found)  # too few are looked at again, together with the next ones
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for verdict in verdicts:
        print(verdict.sentence)
    return 1 if any(verdict.drifted for verdict in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
