"""Scoring methods that fill holes and restore pictures: one protocol, several methods, one table."""

from diffusion_lab.evaluation import page as page
from diffusion_lab.evaluation.baselines import as_it_is as as_it_is
from diffusion_lab.evaluation.baselines import bilateral as bilateral
from diffusion_lab.evaluation.baselines import edge_repeat as edge_repeat
from diffusion_lab.evaluation.baselines import lanczos as lanczos
from diffusion_lab.evaluation.baselines import mean_fill as mean_fill
from diffusion_lab.evaluation.baselines import mirror as mirror
from diffusion_lab.evaluation.baselines import navier_stokes as navier_stokes
from diffusion_lab.evaluation.baselines import non_local_means as non_local_means
from diffusion_lab.evaluation.baselines import telea as telea
from diffusion_lab.evaluation.copying import nearest_face as nearest_face
from diffusion_lab.evaluation.foreign import command as command
from diffusion_lab.evaluation.foreign import export as export
from diffusion_lab.evaluation.foreign import folder as folder
from diffusion_lab.evaluation.loop import evaluate as evaluate
from diffusion_lab.evaluation.methods import Fill as Fill
from diffusion_lab.evaluation.methods import Method as Method
from diffusion_lab.evaluation.methods import diffusion as diffusion
from diffusion_lab.evaluation.problems import Problem as Problem
from diffusion_lab.evaluation.problems import problems as problems
from diffusion_lab.evaluation.report import Report as Report
from diffusion_lab.evaluation.sets import SetMeasure as SetMeasure
from diffusion_lab.evaluation.sets import kernel as kernel
from diffusion_lab.evaluation.unfinished import weights_sha256 as weights_sha256
