"""Which class does a random number stand for?"""
