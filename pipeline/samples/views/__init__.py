"""In which renditions is a sample seen, and how is one of them seen again?

A view is decided by the seed, the sample's id and the view's number alone, never by a batch, a
worker or an order, so whoever knows the settings replays it bit for bit. Models and caches are not
known here.
"""
