"""The shape of the tail: a few numbers a position, on a basis that the whole cache shares.

A language model's logits are a linear map of a hidden state, so after subtracting the position's
mean they lie close to a bias plus a few directions. Which of them matter is found once, on sampled
positions; a position then keeps one step of a few bits along each. Knows logits, not their source.
"""
