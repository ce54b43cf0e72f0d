"""The gate: whether a model may take the place of another, and every reason for the answer."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffusion_lab import recipe
from diffusion_lab.bootstrap import interval
from diffusion_lab.cascade import Model, load
from diffusion_lab.protocol import differences, digest, essential
from diffusion_lab.registry.probes import image_size, probes, seconds_per_picture

MORE_IS_BETTER = frozenset(("psnr", "ssim"))


@dataclass(frozen=True)
class Candidate:
    """A model with what is known of it.

    Args:
        label: how the decision calls it, such as "faces@3".
        folder: of the inpainter.
        results: what `evaluate.py` wrote of it, parsed.
        card: its model card; empty if it has none.
    """

    label: str
    folder: Path
    results: Mapping[str, Any]
    card: str


@dataclass(frozen=True)
class Check:
    """One reason.

    Args:
        name: what was looked at.
        passed: whether it speaks for the candidate, or at least not against it.
        sentence: what was found.
    """

    name: str
    passed: bool
    sentence: str


@dataclass(frozen=True)
class Decision:
    """What the gate said.

    Args:
        candidate: label of the model that was judged.
        champion: label of the one that it was compared with; None if there was none.
        protocol: hash of how the figures came about.
        checks: all reasons, for and against.
        at: when, in UTC.
        by_hand: a person decided, and no gate.
    """

    candidate: str
    champion: str | None
    protocol: str
    checks: tuple[Check, ...]
    at: str
    by_hand: bool = False

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """The sentences that stand against the candidate."""
        return [check.sentence for check in self.checks if not check.passed]

    def facts(self) -> dict[str, Any]:
        """Plain JSON."""
        return {"passed": self.passed, **asdict(self)}

    @classmethod
    def read(cls, facts: Mapping[str, Any]) -> "Decision":
        """The decision that `facts` wrote."""
        rest = {key: value for key, value in facts.items() if key not in ("passed", "checks")}
        return cls(**rest, checks=tuple(Check(**check) for check in facts["checks"]))


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def by_hand(candidate: str, reason: str) -> Decision:
    """A person's decision, who answers for it with a reason.

    Raises:
        ValueError: if the reason is empty.
    """
    if not reason.strip():
        raise ValueError("a promotion by hand needs a reason, which is kept: --force 'why'")
    return Decision(candidate, None, "", (Check("by hand", True, reason),), now(), by_hand=True)


def judge(
    candidate: Candidate,
    champion: Candidate | None,
    *,
    metrics: Sequence[str] = ("lpips",),
    confidence: float = 0.95,
    fid_tolerance: float = 0.1,
    slower: float = 1.25,
    least: int = 100,
    pictures: int = 6,
    rounds: int = 5,
) -> Decision:
    """Whether a candidate is fit to serve, and no worse than the champion.

    Nothing that can be tried is believed: the model is loaded and asked, and its speed is measured beside the
    champion's. Figures are compared picture by picture, which no luck in the choice of pictures can explain.

    Args:
        candidate: who wants the place.
        champion: who has it; None leaves out all comparisons.
        metrics: of each picture, on which the candidate may not be worse than its interval explains: any of lpips,
            psnr, ssim, l1_hole. The last three reward blur.
        confidence: of all these intervals together (Bonferroni).
        fid_tolerance: FID is of a set, not of pictures: it may be higher by this share.
        slower: a picture may take this many times as long as the champion's.
        least: pictures that the figures must be of.
        pictures: how many the gate has the candidate complete.
        rounds: pictures that each of the two completes for the time, or more if they are quick.
    """
    checks = [_card(candidate)]
    try:
        inpainter = load(candidate.folder)
        checks.append(Check("loads", True, f"{candidate.label} loads strictly, from safetensors and its recipe"))
        checks += [_finite(inpainter, candidate), _known_pixels(inpainter, pictures), _enough(candidate, least)]
        if champion is None:
            checks.append(Check("champion", True, "nothing holds the place yet, so there is nothing to compare with"))
        else:
            checks.append(_same_protocol(candidate, champion))
            if checks[-1].passed:
                checks += _figures(candidate, champion, metrics, confidence)
                checks += _fid(candidate, champion, fid_tolerance)
            checks.append(_speed(inpainter, champion, slower, rounds))
    except (OSError, ValueError) as error:  # an answer too: this candidate is not fit
        checks.append(Check("sound", False, str(error)))
    label = champion.label if champion is not None else None
    return Decision(candidate.label, label, digest(protocol(candidate))[:16], tuple(checks), now())


def protocol(candidate: Candidate) -> dict[str, Any]:
    """What must agree before two figures may be compared.

    A sampler that is the model's own belongs to the model: another model may have another.
    """
    facts = essential(candidate.results.get("protocol", {}))
    try:
        own = recipe.sampler(json.loads((candidate.folder / "recipe.json").read_text()))
    except (OSError, ValueError, KeyError, TypeError):
        own = None
    samplers = facts.get("samplers", {})
    facts["samplers"] = {name: "its own" if sampler == own else sampler for name, sampler in samplers.items()}
    return facts


def _card(candidate: Candidate) -> Check:
    if not candidate.card.strip():
        return Check("card", False, f"{candidate.label} has no model card")
    return Check("card", True, f"{candidate.label} has a model card")


def _finite(inpainter: Model, candidate: Candidate) -> Check:
    broken = [name for name, tensor in inpainter.state_dict().items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        return Check("finite", False, f"{len(broken)} weights are not finite, the first is {broken[0]}")
    figures = [value for row in _rows(candidate).values() for value in row.values() if isinstance(value, float)]
    if not all(math.isfinite(value) for value in figures):
        return Check("finite", False, "a figure in the results is not finite")
    return Check("finite", True, "all weights and figures are finite")


def _known_pixels(inpainter: Model, count: int) -> Check:
    asked = probes(image_size(inpainter), count, inpainter.task)
    filled = inpainter(asked.image, asked.mask, seeds=asked.seeds)
    if not bool(filled.isfinite().all()):
        return Check("known pixels", False, "a completed picture holds values that are not finite")
    changed = int(((filled != asked.image) & ~asked.mask).flatten(1).any(dim=1).sum())
    if changed:
        return Check("known pixels", False, f"known pixels were changed in {changed} of {count} pictures")
    return Check("known pixels", True, f"known pixels came back bit for bit in {count} pictures, completed here")


def _enough(candidate: Candidate, least: int) -> Check:
    facts = candidate.results.get("protocol", {})
    n, data = int(facts.get("n", 0)), facts.get("data", "unnamed data")
    trained = facts.get("trained_on", data)
    aside = "" if trained == data else f"; it was trained on {trained}"
    return Check("pictures", n >= least, f"the figures are of {n} pictures of {data}, {least} are needed{aside}")


def _same_protocol(candidate: Candidate, champion: Candidate) -> Check:
    one, other = protocol(candidate), protocol(champion)
    differ = differences(one, other)
    if not differ:
        return Check("protocol", True, f"both were evaluated under protocol {digest(one)[:16]}")
    said = "; ".join(differ)
    return Check(
        "protocol",
        False,
        f"{candidate.label} and {champion.label} were not evaluated alike ({said}): evaluate one of them again",
    )


def _rows(candidate: Candidate) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The rows of the model by mask and method; baselines ask no network."""
    try:
        return {(row["mask"], row["method"]): row for row in candidate.results["rows"] if row["network_calls"] > 0}
    except (KeyError, TypeError):
        raise ValueError(f"the results of {candidate.label} are not what evaluate.py writes: evaluate it") from None


def _values(candidate: Candidate, mask: str, method: str, metric: str) -> NDArray[np.float64]:
    for each in candidate.results.get("pictures", []):
        if (each["mask"], each["method"]) == (mask, method) and metric in each:
            return np.asarray(each[metric], dtype=np.float64)
    raise ValueError(
        f"the results of {candidate.label} have no {metric} of each picture ({mask}, {method}): "
        "evaluate it again with this version"
    )


def _figures(candidate: Candidate, champion: Candidate, metrics: Sequence[str], confidence: float) -> Iterator[Check]:
    """A check of each mask, method and metric."""
    rows = _rows(candidate)
    if not rows or rows.keys() != _rows(champion).keys():
        raise ValueError(f"the results of {candidate.label} and {champion.label} have no rows of a model in common")
    level = 1 - (1 - confidence) / (len(rows) * max(1, len(metrics)))
    for mask, method in rows:
        for metric in metrics:
            mine, theirs = (_values(each, mask, method, metric) for each in (candidate, champion))
            if len(mine) != len(theirs):
                raise ValueError(f"{candidate.label} has {len(mine)} pictures and {champion.label} {len(theirs)}")
            worse_by = (theirs - mine) if metric in MORE_IS_BETTER else (mine - theirs)
            low, high = interval(worse_by, level)
            verdict = "worse" if low > 0 else "better" if high < 0 else "no difference beyond chance"
            yield Check(
                f"{metric}, {mask}, {method}",
                low <= 0,
                f"{mask}, {method}: {metric} {mine.mean():.4f} against {theirs.mean():.4f}, worse by "
                f"{worse_by.mean():+.4f} ({low:+.4f} to {high:+.4f}): {verdict}",
            )


def _fid(candidate: Candidate, champion: Candidate, tolerance: float) -> Iterator[Check]:
    theirs = _rows(champion)
    for (mask, method), row in _rows(candidate).items():
        mine, other = row["fid"], theirs[mask, method]["fid"]
        if mine is None or other is None:
            continue
        yield Check(
            f"fid, {mask}, {method}",
            mine <= other * (1 + tolerance),
            f"{mask}, {method}: FID {mine:.2f} against {other:.2f}; it may be {tolerance:.0%} higher",
        )


def _speed(inpainter: Model, champion: Candidate, slower: float, rounds: int) -> Check:
    mine, theirs = seconds_per_picture([inpainter, load(champion.folder)], rounds)
    return Check(
        "seconds",
        mine <= slower * theirs,
        f"a picture takes {mine:.3f} s of the CPU, the champion's {theirs:.3f} s, in turns on this machine: "
        f"{mine / theirs:.2f} times as long, {slower:g} are allowed",
    )
