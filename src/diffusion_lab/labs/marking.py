"""A student's marks: every exercise that was asked for, of the notebooks in a folder."""

import contextlib
import json
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion_lab.labs import student
from diffusion_lab.labs.course import everything, exercise
from diffusion_lab.labs.grading import Exercise, Outcome, Property, grade

LIMIT = 60.0  # seconds that a check may take; a right solution takes one or two


def limited(asked: Exercise, function: Any, limit: float = LIMIT) -> Outcome:
    """As `grade`, but a function that does not come to an end fails."""
    outcomes: list[Outcome] = []
    thread = threading.Thread(target=lambda: outcomes.append(grade(asked, function)), daemon=True)
    thread.start()
    thread.join(limit)
    if outcomes:
        return outcomes[0]
    en = f"your function is not done after {limit:g} seconds"
    return Outcome(asked.number, Property("time", False, en, f"sau {limit:g} giây hàm vẫn chưa chạy xong"))


def marks(numbers: Sequence[str], folder: Path) -> list[tuple[Outcome, str]]:
    """The outcome of each exercise, and the language that its student reads.

    Raises:
        FileNotFoundError: if the folder holds none of the labs asked for; one that is missing is not written yet.
    """
    asked = [exercise(number) for number in numbers]
    files = {lab: student.found(folder, lab) for lab in dict.fromkeys(one.number[0] for one in asked)}
    if not any(files.values()):
        raise FileNotFoundError(
            f"'{folder}' holds no notebook or script of lab {', '.join(files)} (such as {next(iter(files))}_*.ipynb): "
            f"write them by `python -m diffusion_lab.labs start FOLDER`, or say where they are (--folder)"
        )
    wanted = {"LANGUAGE", *(one.name for one in asked)}
    defined = {lab: student.definitions(path, wanted) if path else {} for lab, path in files.items()}
    results = []
    for one in asked:
        names = defined[one.number[0]]
        results.append((limited(one, names.get(one.name)), names.get("LANGUAGE", "en")))
    return results


def checked(numbers: Sequence[str], folder: Path, as_json: bool) -> int:
    """Prints the outcomes; 0 if all are solved.

    Args:
        numbers: of the exercises; none are all.
        folder: of the student's notebooks.
        as_json: one object for a program, instead of lines for a person.
    """
    with contextlib.redirect_stdout(sys.stderr):  # a student's print is not a mark
        outcomes = marks(numbers or list(everything()), folder)
    passed = sum(outcome.passed for outcome, _ in outcomes)
    if as_json:
        rows = [
            {
                "exercise": outcome.number,
                "passed": outcome.passed,
                "written": outcome.written,
                "property": outcome.failed and outcome.failed.name,
                "hint": outcome.failed and outcome.failed.hint(language),
            }
            for outcome, language in outcomes
        ]
        print(json.dumps({"passed": passed, "of": len(rows), "exercises": rows}, ensure_ascii=False, indent=1))
    else:
        print("\n".join(outcome.line(language) for outcome, language in outcomes))
    return 0 if passed == len(outcomes) else 1
