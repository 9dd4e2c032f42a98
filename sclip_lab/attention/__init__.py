"""How chosen blocks compute attention: weights functions, block edits, and what they share.

Of this package it imports the network's blocks and what finds functions, nothing of data, protocols
or evaluation: a variant can be read, tested and reused without the rest of the laboratory.
"""
