"""Scoring methods that fill holes: one protocol, several methods, one table."""

from diffusion_lab.evaluation.loop import evaluate as evaluate
from diffusion_lab.evaluation.methods import Fill as Fill
from diffusion_lab.evaluation.methods import Method as Method
from diffusion_lab.evaluation.methods import diffusion as diffusion
from diffusion_lab.evaluation.methods import mean_fill as mean_fill
from diffusion_lab.evaluation.methods import navier_stokes as navier_stokes
from diffusion_lab.evaluation.methods import telea as telea
from diffusion_lab.evaluation.report import Report as Report
