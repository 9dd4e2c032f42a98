"""How chosen blocks compute attention: weights functions, block edits, and what they share.

Nothing here imports anything but torch and the package's error type, so that a variant can be
read, tested and reused without the rest of the laboratory.
"""
