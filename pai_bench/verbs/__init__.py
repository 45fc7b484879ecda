"""What the verbs of the command line do: one function for each, which calls and prints.

Imports are inside the functions, so that `pai-bench --help` is quick.
"""
