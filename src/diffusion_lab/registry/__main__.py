"""``python -m diffusion_lab.registry`` is ``diffusion-lab registry``."""

import sys

from diffusion_lab.commands.registry import main

if __name__ == "__main__":
    sys.exit(main())
