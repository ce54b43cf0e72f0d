"""GroupNorm, scale and shift, and SiLU: one operation where a pixel's channels lie together in memory, on a CPU.

PyTorch's GroupNorm is slow in that order, up to 17 times in bfloat16, and takes from convolutions what they gain there.
`normed.cpp` does the three at once, both ways; the machine's own compiler makes it for the machine's own instructions
when it is first needed, and it is kept for the next time. Where there is no compiler PyTorch's three are taken.
"""

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusion_lab.files import cache, replacing

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("normed.cpp")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
KINDS = {torch.bfloat16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
"""Of x: of the parameters beside it."""
PATIENCE = 300
"""Seconds that the compiler has."""


def normed(
    norm: nn.GroupNorm, x: Tensor, scale: Tensor | None = None, shift: Tensor | None = None, silu: bool = True
) -> Tensor:
    """silu(norm(x) (1 + scale) + shift).

    Args:
        norm: with weight and bias.
        x: ``(B, C, H, W)``.
        scale: ``(B, C)``; None leaves scale and shift out.
        shift: likewise.
        silu: False leaves the activation out.
    """
    # What lies in both orders, such as a single pixel, is PyTorch's.
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    if last and norm.weight.dtype == KINDS.get(x.dtype) and can(x):
        made: Tensor = _Normed.apply(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps, silu)
        return made
    return _plain(x, norm.weight, norm.bias, scale, shift, norm.num_groups, norm.eps, silu)


def can(x: Tensor) -> bool:
    """Whether the one operation is there for a tensor like x, if its channels lie together.

    Networks are faster in that order if it is, and slower if it is not.
    """
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype not in KINDS:
        return False
    return kernel() is not None


@functools.cache
def kernel() -> ctypes.CDLL | None:
    """What `normed.cpp` became; None if it could not be made, which is logged."""
    try:
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
        if compiler is None:
            raise OSError("there is no C++ compiler")
        version = subprocess.run([compiler, "--version"], capture_output=True, check=True, timeout=PATIENCE).stdout
        command = [compiler, *FLAGS, str(SOURCE), *_threads()]
        known = [SOURCE.read_bytes(), version, _processor().encode(), *(part.encode() for part in command)]
        key = hashlib.sha256(b"\0".join(known)).hexdigest()[:16]
        file = cache() / f"normed-{key}.so"
        if not file.is_file():
            with replacing(file) as fresh:
                made = [*command, "-o", str(fresh)]
                subprocess.run(made, capture_output=True, check=True, text=True, timeout=PATIENCE)
        return ctypes.CDLL(str(file))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        said = error.stderr if isinstance(error, subprocess.CalledProcessError) else None
        log.info("GroupNorm and SiLU stay apart, and networks are slower for it: %s", str(said or error).strip())
        return None


def _threads() -> list[str]:
    """Links with the very OpenMP that PyTorch has loaded: two of them would be in each other's way."""
    try:
        mapped = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        return []
    loaded = sorted({path for path in (line.split()[-1] for line in mapped) if "libgomp" in path})
    return ["-fopenmp", loaded[0]] if loaded else []


def _processor() -> str:
    """What tells processors apart that do not know the same instructions."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return f"{platform.machine()} {platform.processor()}"
    return next((line for line in lines if line.startswith(("flags", "Features"))), platform.machine())


def _plain(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    shift: Tensor | None,
    groups: int,
    eps: float,
    silu: bool,
) -> Tensor:
    """The same by PyTorch's operations."""
    h = F.group_norm(x, groups, weight, bias, eps)
    if scale is not None and shift is not None:
        h = h * (1 + scale[:, :, None, None]) + shift[:, :, None, None]
    return F.silu(h) if silu else h


def _call(direction: str, dtype: torch.dtype, *arguments: Tensor | float | None) -> None:
    """Calls a function of `normed.cpp`: of a tensor it gets the address, of an int a long."""
    library = kernel()
    assert library is not None
    given = [
        ctypes.c_void_p(0 if a is None else a.data_ptr())
        if a is None or isinstance(a, Tensor)
        else (ctypes.c_double(a) if isinstance(a, float) else ctypes.c_long(a))
        for a in arguments
    ]
    getattr(library, f"{direction}_{str(dtype).removeprefix('torch.')}")(*given)


class _Normed(torch.autograd.Function):
    """`normed.cpp` as PyTorch sees it."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        scale: Tensor | None,
        shift: Tensor | None,
        groups: int,
        eps: float,
        silu: bool,
    ) -> Tensor:
        (b, c, h, w), kind = x.shape, weight.dtype
        ctx.save_for_backward(x, weight, bias, scale, shift)
        ctx.settings = groups, eps, silu
        factor, more = (None if each is None else each.to(kind).contiguous() for each in (scale, shift))
        y, mean, rstd = torch.empty_like(x), x.new_empty(b, groups, dtype=kind), x.new_empty(b, groups, dtype=kind)
        parts = (weight, bias, factor, more, y, mean, rstd)
        _call("forward", x.dtype, x, *parts, b, h * w, c, groups, float(eps), int(silu), torch.get_num_threads())
        ctx.seen = factor, more, mean, rstd
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), (x, weight, bias, scale, shift), (groups, eps, silu) = gradients, ctx.saved_tensors, ctx.settings
        if torch.is_grad_enabled():  # somebody wants the gradient of the gradient
            inputs = [each for each in (x, weight, bias, scale, shift) if each is not None]
            wanted = [each for each in inputs if each.requires_grad]
            y = _plain(x, weight, bias, scale, shift, groups, eps, silu)
            found = iter(torch.autograd.grad(y, wanted, dy, create_graph=True))
            tensors = (x, weight, bias, scale, shift)
            made = [next(found) if each is not None and each.requires_grad else None for each in tensors]
            return *made, None, None, None
        factor, more, mean, rstd = ctx.seen
        dy = dy.to(x.dtype).contiguous(memory_format=torch.channels_last)
        b, c, h, w = x.shape
        dx, straight, along = torch.empty_like(x), weight.new_empty(b, c), weight.new_empty(b, c)
        parts = (dy, weight, bias, factor, more, mean, rstd, dx, straight, along)
        _call("backward", x.dtype, x, *parts, b, h * w, c, groups, int(silu), torch.get_num_threads())
        if factor is None:
            return dx, along.sum(0), straight.sum(0), None, None, None, None, None
        d_weight, d_bias = ((1 + factor) * along).sum(0), ((1 + factor) * straight).sum(0)
        return dx, d_weight, d_bias, weight * along + bias * straight, straight, None, None, None
