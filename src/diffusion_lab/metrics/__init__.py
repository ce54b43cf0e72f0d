"""What the quality of a completion is measured with: features, distances of sets, distances of pictures."""

from diffusion_lab.metrics.discrimination import inception_discriminative_score as inception_discriminative_score
from diffusion_lab.metrics.features import inception as inception
from diffusion_lab.metrics.fid import FrechetDistance as FrechetDistance
from diffusion_lab.metrics.frechet import frechet_distance as frechet_distance
from diffusion_lab.metrics.frechet import frechet_distance_from_moments as frechet_distance_from_moments
from diffusion_lab.metrics.frechet import frechet_distance_mixed as frechet_distance_mixed
from diffusion_lab.metrics.frechet import frechet_shares as frechet_shares
from diffusion_lab.metrics.frechet import frechet_shares_mixed as frechet_shares_mixed
from diffusion_lab.metrics.frechet import moments as moments
from diffusion_lab.metrics.inception import InceptionV3 as InceptionV3
from diffusion_lab.metrics.inpainting import Measure as Measure
from diffusion_lab.metrics.inpainting import PictureMean as PictureMean
from diffusion_lab.metrics.inpainting import colourfulness as colourfulness
from diffusion_lab.metrics.inpainting import hole_crop as hole_crop
from diffusion_lab.metrics.inpainting import l1_hole as l1_hole
from diffusion_lab.metrics.inpainting import psnr as psnr
from diffusion_lab.metrics.inpainting import seam as seam
from diffusion_lab.metrics.inpainting import ssim as ssim
from diffusion_lab.metrics.inpainting import true_colourfulness as true_colourfulness
from diffusion_lab.metrics.kernel import kernel_distance as kernel_distance
from diffusion_lab.metrics.kernel import kernel_shares as kernel_shares
from diffusion_lab.metrics.lpips import LPIPS as LPIPS
from diffusion_lab.metrics.lpips import diversity as diversity
from diffusion_lab.metrics.manifold import precision_recall as precision_recall
