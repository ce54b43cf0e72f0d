"""What an exercise asks of a function: properties, each with a hint that says which one failed, never the answer."""

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor


@dataclass(frozen=True)
class Property:
    """A fact about a right solution.

    Args:
        name: what the marking script calls it.
        holds: of the student's function.
        en: what a student is told if it does not hold.
        vi: the same in Vietnamese.
    """

    name: str
    holds: bool
    en: str
    vi: str

    def hint(self, language: str) -> str:
        """What a student is told, in "en" or "vi"."""
        return self.vi if language == "vi" else self.en


Properties = Callable[[Any, Generator], Iterator[Property]]
"""(the student's function or class, fresh randomness) -> its properties, the most elementary first."""


@dataclass(frozen=True)
class Exercise:
    """A function for a student to write.

    Args:
        number: "1.3" is the third of lab 1.
        name: of the function or class.
        properties: what is asked of it.
        late: module that its properties import when they are asked, so that other exercises need not wait for it; None
            for none.
    """

    number: str
    name: str
    properties: Properties
    late: str | None = None


@dataclass(frozen=True)
class Outcome:
    """Of one check.

    Args:
        number: of the exercise.
        failed: the first property that does not hold; None if all do.
        written: False while the function still gives nothing.
    """

    number: str
    failed: Property | None = None
    written: bool = True

    @property
    def passed(self) -> bool:
        """Whether the exercise is solved."""
        return self.written and self.failed is None

    def line(self, language: str) -> str:
        """What the student reads."""
        if self.failed is not None:
            return f"✗ {self.number} ({self.failed.name}): {self.failed.hint(language)}"
        if not self.written:
            return f"… {self.number}: {'chưa viết' if language == 'vi' else 'not written yet'}"
        return f"✓ {self.number}"


class Unwritten(Exception):
    """The function gave None: its body is still `...`."""


class Unfit(Exception):
    """The function gave something that no property can look at."""

    def __init__(self, property: Property) -> None:
        super().__init__(property.name)
        self.property = property


def tensor(given: object, shape: Sequence[int]) -> Tensor:
    """What a function gave, if it is a tensor of this shape; as float64.

    Raises:
        Unwritten: if it gave None.
        Unfit: if it gave anything else.
    """
    if given is None:
        raise Unwritten
    if not isinstance(given, Tensor):
        raise Unfit(
            Property(
                "type",
                False,
                f"a tensor was expected, your function gives {type(given).__name__}",
                f"hàm cần trả về một tensor, nhưng lại trả về {type(given).__name__}",
            )
        )
    if tuple(given.shape) != tuple(shape):
        raise Unfit(
            Property(
                "shape",
                False,
                f"the shape is {tuple(given.shape)}, expected {tuple(shape)}",
                f"kích thước (shape) là {tuple(given.shape)}, cần {tuple(shape)}",
            )
        )
    return given.detach().double()


def several(given: object, shapes: Sequence[Sequence[int]]) -> list[Tensor]:
    """What a function gave, if it is one tensor for each of these shapes; as `tensor`."""
    if given is None:
        raise Unwritten
    if not isinstance(given, tuple | list) or len(given) != len(shapes):
        raise Unfit(
            Property(
                "type",
                False,
                f"your function should return {len(shapes)} values",
                f"hàm cần trả về {len(shapes)} giá trị",
            )
        )
    return [tensor(one, shape) for one, shape in zip(given, shapes, strict=True)]


def number(given: object) -> float:
    """What a function gave, if it is one number, as such or as a tensor of one."""
    if given is None:
        raise Unwritten
    if isinstance(given, Tensor) and given.numel() == 1:
        return float(given)
    if isinstance(given, int | float):
        return float(given)
    what = f"a tensor of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
    raise Unfit(
        Property("type", False, f"one number was expected, got {what}", f"cần trả về một số, nhưng nhận được {what}")
    )


def close(given: Tensor | float, wanted: Tensor | float, tolerance: float = 1e-4) -> bool:
    """Whether two results agree, to what float32 and another order of sums allow."""
    given, wanted = torch.as_tensor(given).detach().double(), torch.as_tensor(wanted).detach().double()
    if given.shape != wanted.shape:
        return False
    scale = max(1.0, float(wanted.abs().max())) if wanted.numel() else 1.0
    return bool(((given - wanted).abs() <= tolerance * scale).all())


def normal(generator: Generator, *shape: int) -> Tensor:
    """Float64 from N(0, 1)."""
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def grade(exercise: Exercise, function: Any, seed: int | None = None) -> Outcome:
    """Looks at the properties of a student's function, up to the first that fails.

    Args:
        exercise: which.
        function: the student's; None if there is none.
        seed: of the input; None is fresh input each time.
    """
    generator = Generator()
    generator.seed() if seed is None else generator.manual_seed(seed)
    try:
        if function is None:
            raise Unwritten
        for found in exercise.properties(function, generator):
            if not found.holds:
                return Outcome(exercise.number, found)
    except Unwritten:
        return Outcome(exercise.number, written=False)
    except Unfit as unfit:
        return Outcome(exercise.number, unfit.property)
    except Exception as error:  # a student's code may raise anything
        return Outcome(exercise.number, broken(error))
    return Outcome(exercise.number)


def broken(error: Exception) -> Property:
    """What is said of a function that raised; the place is the innermost line, which is mostly the student's own."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    what = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''} [{place.name}: {place.line}]"
    outside = isinstance(error, NameError)
    return Property(
        "runs",
        False,
        f"your function stops with {what}" + (". It may use its arguments and imports only." if outside else ""),
        f"hàm dừng lại với lỗi {what}" + (". Hàm chỉ nên dùng các tham số và các import của nó." if outside else ""),
    )
