# %% [markdown]
# # 3. Is the difference real?
#
# Two variants see the same photos, so their difference is surer than two separate intervals.
# Set `SCLIP_LAB_STORE` to ask it of a store of your own.

# %%
import os
import tempfile

import sclip_lab as lab

folder = tempfile.TemporaryDirectory()
store = os.environ.get("SCLIP_LAB_STORE", folder.name)

# %%
if store == folder.name:
    backbone = lab.load_backbone("patchwork_vit")
    data = lab.load_dataset("patchwork", limit=12)
    protocol = lab.load_protocol("sclip", "patchwork")
    names = ("vanilla", "csa", "csa_q", "maskclip")
    specs = [lab.Spec(lab.load_attention(name), backbone, protocol, data) for name in names]
    lab.evaluate(specs, store, progress=False)
df = lab.results.load(store)

# %% [markdown]
# By how much is one better than the other? `low` and `high` bound the difference (95 %), `p` goes
# with them. `p_permutation` asks it otherwise: if the two labels were swapped at random on every
# photo, how often would the difference be as large? 2000 swaps are drawn, so no p below 1 / 2001
# can come of them. Below ten photos there is neither an interval nor `p`: `p_permutation` tries
# all swaps, and is all that can be said.

# %%
a, b = "csa", "vanilla"  # two of df["attention"].unique()
one = lab.results.difference(df, a, b)
one[["a", "b", "difference", "low", "high", "p", "p_permutation", "images"]]

# %% [markdown]
# Several variants against one baseline are a family: the more you ask, the more often chance
# answers. `p_holm` and `p_max_t` keep the risk of a single false "yes" below their value.

# %%
lab.results.differences(df, b)[["a", "b", "difference", "low", "high", "p", "p_holm", "p_max_t"]]

# %% [markdown]
# All pairs: `p_bh` (Benjamini and Hochberg) bounds the share of false ones among those you call
# real.

# %%
pairs = lab.results.all_pairs(df)
pairs[["a", "b", "difference", "low", "high", "p", "p_bh"]]

# %%
from sclip_lab.report import figures

figures.bars(df)

# %% [markdown]
# On how many photos does a class rest? Below 50, its IoU is an anecdote.

# %%
lab.results.support(df).sort_values("photos")
