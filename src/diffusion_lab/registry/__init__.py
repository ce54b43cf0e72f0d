"""Where trained models stand: numbered versions that never change, names that point at them, and the gate between."""

from diffusion_lab.registry.card import card as card
from diffusion_lab.registry.gate import Candidate as Candidate
from diffusion_lab.registry.gate import Decision as Decision
from diffusion_lab.registry.gate import judge as judge
from diffusion_lab.registry.inputs import inputs as inputs
from diffusion_lab.registry.versions import Moved as Moved
from diffusion_lab.registry.versions import Registry as Registry
from diffusion_lab.registry.versions import Version as Version
