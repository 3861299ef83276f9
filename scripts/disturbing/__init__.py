"""Does a cache end the same, whatever happens to those who make it? `scripts/chaos` asks."""
