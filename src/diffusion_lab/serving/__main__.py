"""Serves an inpainter without Hydra: `python -m diffusion_lab.serving --inpainter <folder>`."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from diffusion_lab.credentials import named
from diffusion_lab.inpainting import shipped
from diffusion_lab.serving.run import local, serve
from diffusion_lab.serving.security import digest, new_key


def main(arguments: Sequence[str] | None = None) -> int:
    """The exit code; a mistake of the user's is one sentence on stderr."""
    parser = argparse.ArgumentParser(prog="python -m diffusion_lab.serving", description=__doc__)
    parser.add_argument(
        "--inpainter", type=Path, help="folder with model.safetensors and recipe.json; the shipped model without it"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument(
        "--keys",
        nargs="*",
        metavar="SHA256",
        default=os.environ.get("DIFFUSION_LAB_KEYS", "").split(),
        help="SHA-256 of the API keys (or DIFFUSION_LAB_KEYS, separated by spaces)",
    )
    parser.add_argument("--allow-open", action="store_true", help="let other machines in without a key")
    parser.add_argument(
        "--credentials",
        nargs=2,
        metavar=("CHAIN", "KEY"),
        default=(None, None),
        help="PEM files of certificates and of a private key, by which finished pictures are signed (C2PA)",
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--max-batch", type=int, default=16, help="pictures in a network call")
    parser.add_argument("--max-queue", type=int, default=64, help="jobs that may wait")
    parser.add_argument("--bfloat16", action="store_true", help="quicker where the hardware has it")
    parser.add_argument("--drain", type=float, default=30.0, help="seconds that running jobs have to end")
    parser.add_argument("--new-key", action="store_true", help="make an API key and its hash, and end")
    asked = parser.parse_args(arguments)
    if asked.new_key:
        key = new_key()
        print(f"key:     {key}  (for the client; it is kept nowhere)\nSHA-256: {digest(key)}  (for --keys)")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        serve(
            asked.inpainter or shipped(),
            f"'{asked.inpainter}'" if asked.inpainter else "the shipped model",
            engine=partial(
                local,
                device=asked.device,
                max_batch=asked.max_batch,
                max_queue=asked.max_queue,
                bfloat16=asked.bfloat16,
            ),
            host=asked.host,
            port=asked.port,
            keys=asked.keys,
            allow_open=asked.allow_open,
            credentials=named(*asked.credentials),
            drain=asked.drain,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
