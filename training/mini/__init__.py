"""How the shipped grounding model is made: screens, text, training and evaluation."""

import os

from belvedere.engines.cpu_instructions import instruction_limits
from training.mini.vision_runtime import define_missing_operators

os.environ.update(instruction_limits())  # must precede PyTorch's first product
define_missing_operators()  # must precede the first import of transformers' models
