"""How is a feature of a student compared with one of its teacher?

Each loss is a function of two tensors over the same entries, rows or positions, and knows neither
where they were read nor what was made of them. Averages are over entries, exactly: `count` replaces
their number where a batch is a share of a larger one.
"""
