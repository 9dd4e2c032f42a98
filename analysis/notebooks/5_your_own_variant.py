# %% [markdown]
# # 5. Your own variant in one cell
#
# A variant is a function from what the block knows to attention weights of shape (batch, heads,
# tokens, tokens). This one lets a patch look where its *value* is similar, and at itself a bit
# more.

# %%
import tempfile

import torch

import sclip_lab as lab
from sclip_lab.report import figures


def own(ctx, temperature=1.0, self_weight=0.5):
    weights = ctx.attention("value", "value", temperature)
    eye = torch.eye(weights.shape[-1], device=weights.device)
    return (1 - self_weight) * weights + self_weight * eye


variant = lab.variant(own, temperature=0.5)

# %% [markdown]
# `check_variant` raises an error that says what is wrong. No output means that all is well.

# %%
lab.testing.check_variant(variant, row_sum=1.0)

# %% [markdown]
# It takes part in a sweep like every other.

# %%
backbone, data = lab.load_backbone("patchwork_vit"), lab.load_dataset("patchwork", limit=12)
protocol = lab.load_protocol("sclip", "patchwork")
folder = tempfile.TemporaryDirectory()


def scores(**variants):
    specs = [lab.Spec(v, backbone, protocol, data, label) for label, v in variants.items()]
    return lab.evaluate(specs, folder.name, progress=False)


named = {name: lab.load_attention(name) for name in ("vanilla", "csa")}
figures.bars(scores(**named, own=variant))

# %% [markdown]
# **Edit it.** The code of the function is part of its key. After an edit the number is computed
# again; a number of the old code is never shown for the new one.


# %%
def own(ctx, temperature=1.0, self_weight=0.5):
    weights = ctx.attention("key", "key", temperature)
    eye = torch.eye(weights.shape[-1], device=weights.device)
    return (1 - self_weight) * weights + self_weight * eye


edited = lab.variant(own, temperature=0.5)
df = scores(own=variant, edited=edited)
lab.results.summary(df)[["attention", "spec", "miou", "low", "high"]]

# %% [markdown]
# **Reload it.** The same holds for a module of yours that you change on disk and reload.

# %%
import importlib
import sys
from pathlib import Path

source = "def mine(ctx, temperature=1.0):\n    return ctx.attention('key', 'key', temperature)\n"
module = Path(folder.name, "my_variants.py")
module.write_text(source)
sys.path.insert(0, folder.name)
import my_variants

before = lab.variant(my_variants.mine)

# %%
module.write_text(source.replace("'key', 'key'", "'query', 'query'"))
importlib.reload(my_variants)
after = lab.variant(my_variants.mine)
df = scores(before=before, after=after)
lab.results.difference(df, "after", "before")[["a", "b", "difference", "low", "high", "p"]]
