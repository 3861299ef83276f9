"""What is different where classes are few, and a student small?

Its step takes some milliseconds, and drives all else out of a core's caches: each operation of a
loss is asked for anew, and to ask takes torch ten times as long as to do it. The same formulas, of
what most students of images learn from, take half as long in numpy. Each rule is told what to
compare with, and is then a function of the student's log-probabilities at T = 1; what it could not
compare as exactly as torch's rules is left to those.
"""
