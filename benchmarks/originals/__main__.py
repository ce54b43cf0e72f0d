"""Runs the papers' own programs beside ours: ``python -m benchmarks.originals --peers FOLDER``.

Same weights, same noise; the worst difference of each quantity as a Markdown table. None of their code is here: it is
imported from the folder. Prints how to get the programs where they are missing, and ends with 1 then, as it does where
a difference has no reason.
"""

import argparse
import os
import re
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from .comparing import Peer, at_home
from .ddim import DDIM
from .ddnm import DDNM
from .dit import DIT
from .edm import EDM, EDM2
from .guided_diffusion import GUIDED_DIFFUSION
from .jit import JIT
from .k_diffusion import K_DIFFUSION
from .metrics import LPIPS, PYTORCH_FID, SCIKIT_IMAGE, TORCH_FIDELITY
from .palette import PALETTE
from .posterior import DPS, MCG
from .repaint import REPAINT

PEERS = (
    GUIDED_DIFFUSION,
    DDIM,
    EDM,
    EDM2,
    DIT,
    JIT,
    K_DIFFUSION,
    PALETTE,
    REPAINT,
    DDNM,
    DPS,
    MCG,
    PYTORCH_FID,
    TORCH_FIDELITY,
    LPIPS,
    SCIKIT_IMAGE,
)


def lines(peer: Peer, peers: Path) -> tuple[list[str], int]:
    """The rows of one peer, and how many of them nobody has explained."""
    found, rows, open_ends = peer.found(peers), [], 0
    version = found[:7] + ("" if found == peer.commit else " (not the one of the page)") if peer.commit else found
    with at_home(peers / peer.name / peer.inside, peer.missing), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for comparison in peer.comparisons:
            try:
                with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
                    difference = comparison.measure()
            except Exception as error:  # theirs or ours: it must not cost the other rows
                message = re.sub(
                    r"/\S*/\S+", "FOLDER", " ".join(str(error).split())
                )  # no machine's folders on the page
                said, why = "-", f"**failed**: {type(error).__name__}: {message[:160]}"
                open_ends += 1
            else:
                said, why = f"{difference:.1e}" if difference else "0", ""
                if not difference <= comparison.rounding:
                    explained = difference <= comparison.at_most
                    why = comparison.why if explained else "**unexplained**"
                    open_ends += not explained
            rows.append(f"| {peer.repository} | {version} | {comparison.quantity} | {said} | {why} |")
    return rows, open_ends


def main(given: Sequence[str] | None = None) -> int:
    """Prints the table; 1 if a program is missing or a difference has no reason."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="folder of the programs, each under its repository's name")
    parser.add_argument("--only", nargs="+", default=[peer.name for peer in PEERS], help="some of them")
    asked = parser.parse_args(given)
    wanted = [peer for peer in PEERS if peer.name in asked.only]
    absent = [peer for peer in wanted if not peer.found(asked.peers)]
    for peer in absent:
        folder = f"{asked.peers or 'PEERS'}/{peer.name}"
        print(
            f"git clone https://github.com/{peer.repository} {folder} && git -C {folder} checkout --quiet {peer.commit}"
            if peer.commit
            else f"uv run --with {peer.repository} ..."
        )
    if asked.peers is None or len(absent) == len(wanted):
        print("Get the programs so, then say --peers.", file=sys.stderr)
        return 1
    open_ends = 0
    print("| peer | commit or version | quantity | worst difference | why it stays |\n|---|---|---|---:|---|")
    for peer in wanted:
        if peer not in absent:
            rows, unexplained = lines(peer, asked.peers.resolve())
            print(*rows, sep="\n", flush=True)
            open_ends += unexplained
    print(f"\n{open_ends} without a reason, torch {torch.__version__}, {time.process_time():.0f} s", file=sys.stderr)
    return int(bool(open_ends or absent))


if __name__ == "__main__":
    os.environ["TQDM_DISABLE"] = "1"
    torch.set_num_threads(1)
    sys.exit(main())
