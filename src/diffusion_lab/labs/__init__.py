"""The course, to do with one's own hands: exercises, what is checked of them, and the notebooks they stand in.

Nothing in the package imports this room; `labs/README.md` is for who learns or teaches.
"""

from typing import Any


def check(number: str, function: Any, language: str = "en") -> None:
    """Says whether a function solves an exercise, and if not which property failed.

    Args:
        number: such as "1.3".
        function: the student's.
        language: of the hint, "en" or "vi".

    Raises:
        ValueError: if there is no such exercise.
    """
    from diffusion_lab.labs.course import exercise  # here: it brings torch, and who builds notebooks needs none
    from diffusion_lab.labs.grading import grade

    print(grade(exercise(number), function).line(language))
