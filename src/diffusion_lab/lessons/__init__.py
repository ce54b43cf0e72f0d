"""Lessons: where diffusion models come from, on the same training code and the same sampling loop."""
