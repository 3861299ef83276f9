"""What is in caches and runs, for people to look at and to send on: one page, and nothing else.

`find_given` says what is there, `count_cache` and `read_run` gather numbers in bounded memory, and
`page` draws them. The room asks no model anything and changes nothing.
"""
