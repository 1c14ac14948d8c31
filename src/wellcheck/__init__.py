"""wellcheck: was the training set poisoned, by what, which samples, and what is left when they are taken out?

The library knows nothing of DVC: `stages/` wires its functions to files, `dvc.yaml` wires the stages to each other.
"""

__version__ = "0.1.0"
