"""Do the tests notice? ``python benchmarks/mutants.py --count 60 --seed 0``: one small change at a time, and its tests.

Changes are drawn from all places where one can be made: a comparison, a sign, a number, a condition or a truth value
becomes another. The tests of the changed file run in a fork that has torch and pytest already; who fails, or takes more
than two minutes of CPU time, has noticed. A survivor is a missing test, or changes nothing that anybody could notice.
First of all each file's tests must pass without a change: those that fail anyway would kill everything.
"""

import argparse
import ast
import importlib
import itertools
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {
    "diffusion/process.py": "diffusion/test_process.py diffusion/test_mixture.py",
    "diffusion/schedule.py": "diffusion/test_schedule.py",
    "diffusion/paths.py": "diffusion/test_paths.py diffusion/test_samplers.py",
    "diffusion/solvers.py": "diffusion/test_solvers.py diffusion/test_samplers.py",
    "diffusion/samplers.py": "diffusion/test_samplers.py diffusion/test_solvers.py",
    "diffusion/sampling.py": "diffusion/test_sampling.py",
    "diffusion/losses.py": "diffusion/test_losses.py",
    "diffusion/level_samplers.py": "diffusion/test_losses.py",
    "diffusion/likelihood.py": "diffusion/test_likelihood.py",
    "diffusion/guidance.py": "diffusion/test_guidance.py",
    "diffusion/zero_shot.py": "diffusion/test_zero_shot.py",
    "diffusion/noise.py": "diffusion/test_noise.py",
    "diffusion/flow.py": "diffusion/test_flow.py",
    "frechet.py": "metrics/test_frechet.py",
    "metrics/kernel.py": "metrics/test_kernel.py",
    "metrics/manifold.py": "metrics/test_manifold.py",
    "metrics/discrimination.py": "metrics/test_discrimination.py",
    "metrics/resizing.py": "metrics/test_resizing.py",
    "metrics/inpainting.py": "metrics/test_measures.py",
    "registry/versions.py": "registry/test_versions.py",
    "registry/manifest.py": "registry/test_versions.py",
    "registry/gate.py": "registry/test_gate.py",
    "serving/batching.py": "serving/test_engine.py serving/test_cascades.py",
}
"""What is drawn from by default."""
RESTORATION = {
    "photo/__init__.py": "photo/test_photo.py",
    "photo/parts.py": "photo/test_parts.py",
    "frames.py": "test_frames.py",
    "holes.py": "test_holes.py",
    "photo/tones.py": "photo/test_tones.py",
    "photo/seams.py": "photo/test_seams.py",
}
"""Drawn from with ``--restoration``, so that the samples of the others stay what they were."""
WARM = [
    "torch",
    "torchvision",
    "lightning.pytorch",
    "hypothesis",
    "scipy.stats",
    "hydra",
    "cv2",
    "PIL.Image",
    "safetensors.torch",
    "httpx",
]
"""What every fork has already: nothing of ours."""
SWAPS: dict[type, type] = {
    **{ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq},
    **{ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.And: ast.Or, ast.Or: ast.And},
    **{ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.FloorDiv: ast.Mult},
    **{ast.In: ast.NotIn, ast.NotIn: ast.In},  # codespell:ignore
}


def changes(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Makes one change after the other to a tree, says where and what, and takes it back."""
    hints = {id(part) for node in ast.walk(tree) for hint in annotations(node) for part in ast.walk(hint)}
    for node in ast.walk(tree):
        if id(node) in hints:
            continue
        if isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in SWAPS:
            before = node.op
            node.op = SWAPS[type(before)]()
            yield node.lineno, f"{type(before).__name__} -> {type(node.op).__name__}"
            node.op = before
        elif isinstance(node, ast.Compare) and type(node.ops[0]) in SWAPS:
            first = node.ops[0]
            node.ops[0] = SWAPS[type(first)]()
            yield node.lineno, f"{type(first).__name__} -> {type(node.ops[0]).__name__}"
            node.ops[0] = first
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
            value = node.value
            node.value = not value if isinstance(value, bool) else value + 1
            yield node.lineno, f"{value} -> {node.value}"
            node.value = value
        elif isinstance(node, ast.If | ast.IfExp | ast.While):
            test = node.test
            node.test = ast.copy_location(ast.UnaryOp(ast.Not(), test), test)
            yield node.lineno, "the condition's opposite"
            node.test = test


def annotations(node: ast.AST) -> list[ast.expr]:
    if isinstance(node, ast.FunctionDef):
        return [node.returns] if node.returns else []
    return [node.annotation] if isinstance(node, ast.arg | ast.AnnAssign) and node.annotation else []


def outcome(source: Path, tests: str) -> int:
    """What the tests say to the package in a folder: 0, pytest's code, or the signal that ended them."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
        null = os.open(os.environ.get("MUTANTS_OUT", os.devnull), os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        os.dup2(null, 1)
        os.dup2(null, 2)
        sys.path[:0] = [str(source), str(ROOT / "tests")]
        os.chdir(ROOT)
        code = 9
        try:
            import pytest

            paths = [str(ROOT / "tests" / path) for path in tests.split()]
            code = int(pytest.main(["-x", "-q", "--assert=plain", "-p", "no:cacheprovider", *paths]))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip", type=int, default=0, help="so many of the sample, which a call before has done")
    parser.add_argument("--restoration", action="store_true", help="the files that restore photographs instead")
    parser.add_argument("--files", nargs="*", choices=[*TESTS, *RESTORATION], help="these alone")
    asked = parser.parse_args()
    table = TESTS | RESTORATION
    for name in WARM:
        importlib.import_module(name)
    places = []
    for file in asked.files or (RESTORATION if asked.restoration else TESTS):
        tree = ast.parse((ROOT / "src" / "diffusion_lab" / file).read_text())
        places += [(file, i) for i, _ in enumerate(changes(tree))]
    chosen = random.Random(asked.seed).sample(places, min(asked.count, len(places)))[asked.skip :]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source)
        shutil.copytree(ROOT / "conf", Path(folder) / "conf")
        for file in {file for file, _ in chosen}:
            path = source / "diffusion_lab" / file
            path.write_text(ast.unparse(ast.parse(path.read_text())))  # as a changed one is written
        for tests in dict.fromkeys(table[file] for file, _ in chosen):
            begun = time.monotonic()
            if code := outcome(source, tests):
                raise SystemExit(f"{tests} fails without any change ({code}): it would kill everything")
            print(f"{tests} passes unchanged ({time.monotonic() - begun:.0f} s)", flush=True)
        for file, number in chosen:
            path, begun = source / "diffusion_lab" / file, time.monotonic()
            whole = (ROOT / "src" / "diffusion_lab" / file).read_text()
            tree = ast.parse(whole)
            making = itertools.islice(changes(tree), number, None)
            line, what = next(making)  # and the tree is as it has changed it
            path.write_text(ast.unparse(tree))
            code = outcome(source, table[file])
            path.write_text(whole)
            survived += not code
            said = whole.splitlines()[line - 1].strip()
            took = f"{time.monotonic() - begun:.0f} s"
            print(f"{f'killed ({code})' if code else 'SURVIVED'} {file}:{line} {what} | {said} ({took})", flush=True)
    killed = len(chosen) - survived
    print(f"{len(chosen)} of {len(places)} changes, seed {asked.seed}: {killed} killed, {survived} survived")


if __name__ == "__main__":
    main()
