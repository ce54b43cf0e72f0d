"""Holes to fill: pure functions of (size, generator), True = hole, with lengths as fractions of the picture's side."""

from diffusion_lab.data.masks.boxes import alternate_lines as alternate_lines
from diffusion_lab.data.masks.boxes import center as center
from diffusion_lab.data.masks.boxes import everything as everything
from diffusion_lab.data.masks.boxes import expand as expand
from diffusion_lab.data.masks.boxes import half as half
from diffusion_lab.data.masks.boxes import rectangle as rectangle
from diffusion_lab.data.masks.boxes import rectangles as rectangles
from diffusion_lab.data.masks.boxes import scattered as scattered
from diffusion_lab.data.masks.boxes import sides as sides
from diffusion_lab.data.masks.boxes import super_resolution as super_resolution
from diffusion_lab.data.masks.brush import free_form as free_form
from diffusion_lab.data.masks.drawing import MaskFn as MaskFn
from diffusion_lab.data.masks.drawing import drawn as drawn
from diffusion_lab.data.masks.evaluation import MASK_SET as MASK_SET
from diffusion_lab.data.masks.evaluation import evaluation_mask as evaluation_mask
from diffusion_lab.data.masks.files import FromFolder as FromFolder
from diffusion_lab.data.masks.lama import lama_medium as lama_medium
from diffusion_lab.data.masks.lama import lama_thick as lama_thick
from diffusion_lab.data.masks.lama import lama_thin as lama_thin
from diffusion_lab.data.masks.landmarks import Landmarks as Landmarks
from diffusion_lab.data.masks.mixture import Mixture as Mixture
from diffusion_lab.data.masks.mixture import palette as palette
