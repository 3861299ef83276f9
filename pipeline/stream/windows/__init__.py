"""What of a cache is at hand? Several parts in memory, large fields mapped, the next ones coming."""
