"""Train, compare and deploy diffusion models that restore faces.

Conventions, kept everywhere:

- An image ``x`` is float32 ``(B, 3, H, W)`` in [-1, 1]. uint8, [0, 1] and PIL exist only at the borders: data, metrics,
  command line, service. ``diffusion`` itself is generic over the shape ``(B, ...)`` and the dtype.
- A mask is bool ``(B, 1, H, W)``, True where the hole is. In files white is the hole.
- A level is the signal power gamma, the papers' alpha-bar: float64 on the CPU, one per example ``(B,)``, 1 for data
  and towards 0 for noise: ``x = sqrt(gamma) x_0 + sqrt(1 - gamma) eps``. A discrete model's ``t`` is a detail of its
  denoiser.
- Randomness is an argument. While sampling each example has a generator of its own, so that a seed draws the same noise
  whatever the batch; while training noise and level depend on (seed, epoch, index of the picture) alone.
- Sampling runs under ``no_grad``, never ``inference_mode``, since guides must differentiate.
"""

__version__ = "0.1.0"
