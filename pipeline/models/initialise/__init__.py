"""How does a student begin as some layers of another model?

The layers are found in both models, chosen by a rule or one by one, and copied; so is everything
else that has the same name and shape. Where the models come from is not known here.
"""

from pipeline.models.initialise.copy import Copied, copy_layers

__all__ = ["Copied", "copy_layers"]
