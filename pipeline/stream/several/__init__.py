"""Several at once: caches of the same rows, and datasets that share each batch."""
