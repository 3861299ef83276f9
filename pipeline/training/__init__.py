"""How is a student optimised? Optimisers, schedules, one loop, checkpoints and evaluation.

It knows neither recipes nor the terminal; what it trains, on which stream and with which losses is
handed to it.
"""
