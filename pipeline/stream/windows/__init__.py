"""What of a cache is at hand? Parts in memory, large fields mapped, the next ones on their way."""
