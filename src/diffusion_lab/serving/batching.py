"""Jobs at different steps of different samplers in one network call."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffusion_lab.cascade import Model, reduced, shown, stage_seeds
from diffusion_lab.diffusion.denoiser import Condition, Denoiser, Prediction
from diffusion_lab.diffusion.sampling import Rows, Sampler, Wrap, advance, start
from diffusion_lab.photo import part_seeds
from diffusion_lab.pictures import to_uint8
from diffusion_lab.windows import Windows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Walk:
    """A job on its way from noise to pictures, through one stage of a model or several.

    Args:
        model: whose rules hold.
        image: ``(n P, 3, S, S)``, a job's P squares one after the other, n times.
        mask: ``(n P, 1, S, S)`` bool.
        seeds: one per square.
        leg: how many stages it has behind it.
        windows: where the stage's network looks: R of them.
        given: ``(R, 3, s, s)``, what the stage was given.
        hole: ``(R, 1, s, s)`` bool, what the stage fills.
        wrap: what the stage's sampler puts around its network.
        rows: where it stands.
        step: how often a network was asked.
        steps: how often it will have been.
        seen: what the stage's network said last; None before its first step.
    """

    model: Model
    image: Tensor
    mask: Tensor
    seeds: tuple[int, ...]
    leg: int
    windows: Windows
    given: Tensor
    hole: Tensor
    wrap: Wrap
    rows: Rows
    step: int
    steps: int
    seen: Prediction | None = None

    @property
    def legs(self) -> tuple[int, ...]:
        """The stages that it goes through."""
        return self.model.legs(self.image.shape[-1])

    @property
    def stage(self) -> int:
        """Where it is."""
        return self.legs[self.leg]

    @property
    def done(self) -> bool:
        return self.rows.done and self.leg == len(self.legs) - 1

    def advanced(self, prediction: Prediction) -> "Walk":
        """One step on, and into the next stage if that was the last of this one."""
        walk = replace(self, rows=advance(self.rows, prediction), step=self.step + 1, seen=prediction)
        # What is no number stays, to be seen: the next stage is shown 8 bits, which have none.
        if not walk.rows.done or walk.done or not bool(walk.rows.x.isfinite().all()):
            return walk
        return walk.onward()

    def onward(self) -> "Walk":
        """Before the first step of the next stage."""
        return entered(self.model, self.image, self.mask, self.seeds, self.leg + 1, None, self)

    def preview(self) -> Tensor:
        """``(n P, 3, s, s)`` uint8: what the model sees in the holes, at the smallest of its sides."""
        seen = self.given if self.seen is None else torch.where(self.hole, self.seen.x_0, self.given)
        side = self.model.sides[0]
        image, hole = reduced(self.image, self.mask, self.image.shape[-1] // side)
        return to_uint8(shown(self.model, self.leg, self.windows, seen.clamp(-1, 1), self.given, image, hole)).cpu()

    def filled(self) -> Tensor:
        """``(n P, 3, S, S)`` at the stage's side: where it ended."""
        made = torch.where(self.hole, self.rows.x.clamp(-1, 1), self.given)
        return self.model.joined(self.leg, self.windows, made, self.given)

    def pictures(self) -> Tensor:
        """``(n P, 3, S, S)``: where it ended; known pixels are the image's."""
        return torch.where(self.mask, self.filled(), self.image).cpu()


def begin(model: Model, image: Tensor, mask: Tensor, seeds: Sequence[int], sampler: Sampler | None) -> Walk:
    """The walk that the model's `forward` would take, before its first step.

    Args:
        model: whose rules hold.
        image: ``(P, 3, S, S)``, the squares of a picture; of a side that the model does not fill they are made as much
            smaller as is needed, for they may have been cut for the one before it.
        mask: ``(P, 1, S, S)`` bool.
        seeds: n, one per completion.
        sampler: of the first stage; None is its own.
    """
    side = image.shape[-1]
    image, mask = reduced(image, mask, side // max(own for own in model.sides if side % own == 0))
    drawn = [seed for row in zip(*(part_seeds(seeds, part) for part in range(len(image))), strict=True) for seed in row]
    image, mask = (x.expand(len(seeds), *x.shape).flatten(0, 1) for x in (image, mask))
    return entered(model, image, mask, tuple(drawn), 0, sampler, None)


def entered(
    model: Model,
    image: Tensor,
    mask: Tensor,
    seeds: tuple[int, ...],
    leg: int,
    sampler: Sampler | None,
    before: Walk | None,
) -> Walk:
    """The walk before the first step of a stage; `before` is where it left the last one, None at the first."""
    side = image.shape[-1]
    inpainter = model.stages[model.legs(side)[leg]]
    taken = model.taken(leg, sampler)
    whole, holes = model.asked(leg, image, mask, None if before is None else before.filled())
    windows = model.windows(leg, holes)
    given, hole = windows.cut(whole), windows.cut(holes)
    noise = windows.noise(stage_seeds(seeds, leg), given.shape[1], given.device)
    x_T = noise()
    condition = inpainter.condition(given, hole, fill=noise())
    rows = start(x_T, taken.path(inpainter.denoiser.schedule), taken, inpainter.constrain, condition, noise)
    step, steps = (0, model.network_calls(sampler, side)) if before is None else (before.step, before.steps)
    return Walk(model, image, mask, seeds, leg, windows, given, hole, taken.wrap, rows, step, steps)


@dataclass(frozen=True)
class Question:
    """What a denoiser is called with."""

    x: Tensor
    level: Tensor
    condition: Condition

    def part(self, rows: slice) -> "Question":
        return Question(self.x[rows], self.level[rows], self.condition.map(lambda tensor: tensor[rows]))

    def kind(self) -> tuple[Any, ...]:
        """Questions of one kind can be joined."""
        shapes = ((name, value.shape[1:]) for name, value in vars(self.condition).items() if value is not None)
        return self.x.shape[1:], self.x.dtype, *shapes


class Asked(Exception):
    """A wrap has come to its question to the model."""

    def __init__(self, question: Question) -> None:
        super().__init__()
        self.question = question


def joined(questions: Sequence[Question]) -> Question:
    """One question of several of a kind."""
    first = questions[0]
    condition = {
        name: torch.cat([getattr(question.condition, name) for question in questions])
        for name, value in vars(first.condition).items()
        if value is not None
    }
    return Question(
        torch.cat([question.x for question in questions]),
        torch.cat([question.level for question in questions]),
        Condition(**condition),
    )


def question_of(walk: Walk) -> Question | None:
    """What a walk's wrap asks the model first; None if it wants a gradient through the answer."""

    def interrupt(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        raise Asked(Question(x, level, condition))

    try:
        walk.wrap(interrupt)(walk.rows.x, walk.rows.level, walk.rows.condition)
    except Asked as asked:
        return None if asked.question.x.requires_grad else asked.question
    return None  # it never asks


def answered(walk: Walk, answer: Prediction, denoiser: Denoiser) -> Prediction:
    """What a walk's wrap makes of the model's answer; should it ask again, it is answered alone."""
    answers = [answer]

    def reply(x: Tensor, level: Tensor, condition: Condition) -> Prediction:
        return answers.pop() if answers else denoiser(x, level, condition)

    return walk.wrap(reply)(walk.rows.x, walk.rows.level, walk.rows.condition)


class SharedCalls:
    """Asks a denoiser for many walks at once.

    A wrap is entered twice: up to its question to the model, which is joined with the others', and again with its part
    of the answer. So walks share a network call whatever goes around the model. A wrap that differentiates through the
    model is called as it is, alone.

    Args:
        most: rows of one network call; halved whenever the memory does not suffice.
    """

    def __init__(self, most: int) -> None:
        if most < 1:
            raise ValueError(f"a network call needs at least 1 row, got {most}")
        self.most = most

    @torch.no_grad()
    def __call__(self, denoiser: Denoiser, walks: Sequence[Walk]) -> list[Prediction | Exception]:
        """What the model says to each walk, or why it cannot; a walk's error is its own."""
        said: list[Prediction | Exception | None] = [None] * len(walks)
        kinds: dict[tuple[Any, ...], list[tuple[int, Question]]] = {}
        for i, walk in enumerate(walks):
            try:
                question = question_of(walk)
                if question is None:
                    said[i] = walk.wrap(denoiser)(walk.rows.x, walk.rows.level, walk.rows.condition)
                else:
                    kinds.setdefault(question.kind(), []).append((i, question))
            except Exception as error:
                said[i] = error
        for members in kinds.values():
            answers = self.together(denoiser, [question for _, question in members])
            for (i, _), answer in zip(members, answers, strict=True):
                try:
                    said[i] = answer if isinstance(answer, Exception) else answered(walks[i], answer, denoiser)
                except Exception as error:
                    said[i] = error
        return [one for one in said if one is not None]

    def together(self, denoiser: Denoiser, questions: Sequence[Question]) -> list[Prediction | Exception]:
        """The answers of one joined call; if that fails, of one call each, so that only the guilty suffer."""
        try:
            answer = self.ask(denoiser, joined(questions) if len(questions) > 1 else questions[0])
        except Exception as error:
            if len(questions) == 1:
                return [error]
            log.warning("a call for %d jobs failed and is tried for each alone", len(questions), exc_info=error)
            return [self.together(denoiser, [question])[0] for question in questions]
        answers: list[Prediction | Exception] = []
        end = 0
        for question in questions:
            begun, end = end, end + len(question.x)
            answers.append(answer if len(questions) == 1 else rows_of(answer, slice(begun, end)))
        return answers

    def ask(self, denoiser: Denoiser, question: Question) -> Prediction:
        """One answer, in as many network calls as the memory needs."""
        rows = len(question.x)
        while True:
            try:
                if rows <= self.most:
                    return denoiser(question.x, question.level, question.condition)
                parts = [question.part(slice(i, i + self.most)) for i in range(0, rows, self.most)]
                return Prediction.joined([denoiser(part.x, part.level, part.condition) for part in parts])
            except torch.OutOfMemoryError:
                tried = min(rows, self.most)
                if tried == 1:
                    raise
            self.most = tried // 2  # out here, where the failed call's tensors are let go of
            log.warning("out of memory with %d pictures in a network call: at most %d from now on", tried, self.most)
            if question.x.is_cuda:
                torch.cuda.empty_cache()


def rows_of(prediction: Prediction, rows: slice) -> Prediction:
    """A part of an answer."""
    return prediction.map(lambda tensor: tensor[rows])
