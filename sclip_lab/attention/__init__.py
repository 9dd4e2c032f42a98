"""How chosen blocks compute attention: weights functions, block edits, and what they share.

Every function gets the block as the variant sees it, ``ctx``; a block edit also gets ``block`` and
``state``. The argument lists of this package's docstrings leave these out. This package imports the
network's blocks and nothing of data, protocols or evaluation.
"""
