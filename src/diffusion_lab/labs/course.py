"""All exercises."""

from collections.abc import Mapping

from diffusion_lab.labs import lab1, lab2, lab3, lab4
from diffusion_lab.labs.grading import Exercise

EXERCISES: Mapping[str, Exercise] = {
    exercise.number: exercise for lab in (lab1, lab2, lab3, lab4) for exercise in lab.EXERCISES
}


def exercise(number: str) -> Exercise:
    """The exercise of this number.

    Raises:
        ValueError: if there is none.
    """
    if number not in EXERCISES:
        raise ValueError(f"there is no exercise '{number}': choose one of {', '.join(EXERCISES)}")
    return EXERCISES[number]
