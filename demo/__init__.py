"""The product at work on one machine: `make demo` and `make run`.

Not part of the distribution: it drives the daemons from outside, as an operator,
an application host and a recovery host would.
"""
