"""Interventions: one part of an attention map is set, and everything else stays.

A correlation over sixteen variants cannot say what makes CSA better than vanilla attention. Here a
part of a map is changed alone: how much of a row falls on other classes (`set_mass`), how sharp a
row is within each side (`entropy`), which patches of a side weigh more (`shuffled`), the row's sum
(`between`), or all four, each from a map of its own (`composed`). `oracle` and `blind` are the
ends: the best that attention can do, and what it does without looking.

Functions that need to know the classes read ground truth. Their cells are *oracles*: no method's
score.

For a row i, S are the patches of i's class, O the patches of other classes; a patch of void alone
is in neither. `set_mass`, `entropy` and `shuffled` change neither the class token's row and column
nor the sum of any row. All functions return (batch, heads, tokens, tokens).
"""
