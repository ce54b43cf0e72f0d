"""The columns of a report's tables, and its tables of differences, areas and attributes as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

Column = tuple[str, str, str, bool | None]  # key, heading, format, whether more is better (None: neither)
COLUMNS: tuple[tuple[Column, ...], ...] = (  # a table of each
    (
        ("fid", "FID ↓", ".2f", False),
        ("lpips", "LPIPS ↓", ".4f", False),
        ("psnr", "PSNR ↑", ".2f", True),
        ("ssim", "SSIM ↑", ".3f", True),
        ("l1_hole", "L1 hole ↓", ".4f", False),
        ("colourfulness", "colour", ".1f", None),
        ("true_colourfulness", "true colour", ".1f", None),
        ("seconds_per_image", "s/pic", ".3f", None),
        ("network_calls", "calls", "d", None),
    ),
    (
        ("kid", "KID ↓", ".4f", False),
        ("fid_hole", "FID hole ↓", ".2f", False),
        ("precision", "prec. ↑", ".2f", True),
        ("recall", "recall ↑", ".2f", True),
        ("density", "dens. ↑", ".2f", True),
        ("coverage", "cover. ↑", ".2f", True),
        ("p_ids", "P-IDS ↑", ".3f", True),
        ("u_ids", "U-IDS ↑", ".3f", True),
        ("seam", "seam", ".2f", None),
        ("diversity", "diversity", ".4f", None),
    ),
    (
        ("diversity_hole", "div. hole", ".4f", None),
        ("fd", "FD ↓", ".2f", False),
        ("training_distance", "to train", ".2f", None),
        ("true_training_distance", "truth's", ".2f", None),
        ("nearer_than_truth", "nearer", ".2f", None),
    ),
)
MORE_IS_BETTER = {key: more for table in COLUMNS for key, _, _, more in table}
HEADINGS = {key: (heading, form) for table in COLUMNS for key, heading, form, _ in table}
UNCERTAIN = "≈"

Entries = Sequence[Mapping[str, Any]]


def chosen(rows: Entries) -> list[list[Column]]:
    """The columns of each table: those of which a row has a value, for some were perhaps not asked for."""
    first = {key for key, *_ in COLUMNS[0] if key in rows[0]}
    known = first | {key for row in rows for key, value in row.items() if value is not None}
    tables = [[column for column in columns if column[0] in known] for columns in COLUMNS]
    return [columns for columns in tables if columns]


def against(uncertainty: Entries, first: str, tables: Sequence[Sequence[Column]]) -> list[str]:
    """How each method differs from the first on the same pictures, with what that says."""
    entries = [entry for entry in uncertainty if entry["differences"]]
    lines = [f"## Against {first}, on the same pictures", ""] if entries else []
    for columns in tables:
        known = [column for column in columns if any(column[0] in entry["differences"] for entry in entries)]
        if not known:
            continue
        lines += [line(["mask", "method", *(heading for _, heading, _, _ in known)])]
        lines += [line(["---"] * (2 + len(known)))]
        for entry in entries:
            cells = [_difference(entry["differences"].get(key), form) for key, _, form, _ in known]
            lines.append(line([entry["mask"], entry["method"], *cells]))
        lines.append("")
    return lines


def by_area(areas: Entries, tables: Sequence[Sequence[Column]]) -> list[str]:
    """The figures by the area of the hole, if holes differ in it."""
    if len({entry["from"] for entry in areas}) < 2:
        return []
    known = [column for columns in tables for column in columns if column[0] in areas[0]]
    lines = ["## By the area of the hole, all kinds together", ""]
    lines += [line(["hole", "method", "holes", *(heading for _, heading, _, _ in known)])]
    lines += [line(["---", "---", *["---:"] * (1 + len(known))])]
    for entry in sorted(areas, key=lambda entry: float(entry["from"])):
        figures = [
            " ".join(filter(None, (f"{entry[key]:{form}}", around(entry, key, form)))) for key, _, form, _ in known
        ]
        share = f"{entry['from']:.0%} to {entry['to']:.0%}"
        lines.append(line([share, entry["method"], str(entry["n"]), *figures]))
    return [*lines, ""]


def by_attribute(attributes: Entries, tables: Sequence[Sequence[Column]]) -> list[str]:
    """The figures of pictures with and without each attribute."""
    if not attributes:
        return []
    known = [column for columns in tables for column in columns if column[0] in attributes[0]["figures"]]
    lines = ["## By attribute, all kinds together", "", caution(attributes), ""]
    lines += [line(["attribute", "method", "with", "without", *(heading for _, heading, _, _ in known)])]
    lines += [line(["---", "---", "---:", "---:", *["---"] * len(known)])]
    for entry in attributes:
        cells = []
        for key, _, form, _ in known:
            figure = entry["figures"][key]
            cells.append(_difference({**figure, "mean": figure["difference"]}, form))
        counts = [str(entry["with"]), str(entry["without"])]
        lines.append(line([entry["attribute"], entry["method"], *counts, *cells]))
    return [*lines, ""]


def caution(attributes: Entries) -> str:
    """What the differences by attribute are, and how many of them chance makes."""
    comparisons = sum(len(entry["figures"]) for entry in attributes)
    return (
        "Figures of the pictures with it, minus those of the pictures without it; the verdict is of those with it. "
        f"These are {comparisons} comparisons at 95 %: about {comparisons / 20:.0f} of them differ by chance. "
        "What differs need not be the method's doing: some faces are harder to fill."
    )


def around(entry: Mapping[str, Any], key: str, form: str) -> str:
    """Half of an interval, and whether the value is no other than the first method's beyond chance."""
    if key not in entry["intervals"]:
        return ""
    low, high = entry["intervals"][key]
    said = entry.get("differences", {}).get(key, {}).get("verdict")
    return f"±{(high - low) / 2:{form}}" + (UNCERTAIN if said == "inconclusive" else "")


def line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _difference(found: Mapping[str, Any] | None, form: str) -> str:
    if found is None:
        return "-"
    mean, low, high = (f"{value:+{form}}" for value in (found["mean"], *found["interval"]))
    return f"{mean} ({low} to {high}): {found['verdict']}"
