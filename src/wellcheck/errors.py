"""The one exception that reaches a person: bad input, told in one sentence."""


class InputError(Exception):
    """Something from outside is wrong. The message names the file, row or parameter, what was found and what was expected."""
