"""Models of Hugging Face transformers: opened, parted before their output layer, and saved.

Nothing of that library is imported before a recipe names it.
"""

from pipeline.models.huggingface.kind import load_transformers
from pipeline.models.huggingface.pretrained import save_pretrained

__all__ = ["load_transformers", "save_pretrained"]
