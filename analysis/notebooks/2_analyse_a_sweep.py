# %% [markdown]
# # 2. Analyse a sweep
#
# Set `SCLIP_LAB_STORE` to look at a store of your own, for instance that of `make demo`
# (`results/demo/store`). Otherwise this notebook evaluates a small sweep on twelve scenes.

# %%
import os
import tempfile

import sclip_lab as lab
from sclip_lab.config.registry import variant_label
from sclip_lab.evaluation.observers import Diagnostics
from sclip_lab.report import curves, figures
from sclip_lab.report.diagnostic_charts import diagnostics

folder = tempfile.TemporaryDirectory()
store = os.environ.get("SCLIP_LAB_STORE", folder.name)

# %%
if store == folder.name:
    backbone = lab.load_backbone("patchwork_vit")
    data = lab.load_dataset("patchwork", limit=12)
    protocol = lab.load_protocol("sclip", "patchwork")
    variants = [lab.load_attention(name) for name in ("vanilla", "maskclip", "csa")]
    variants += [lab.load_attention("csa", temperature=t) for t in (0.5, 2.0, 4.0)]
    specs = [lab.Spec(v, backbone, protocol, data, variant_label(v)) for v in variants]
    observer = Diagnostics(["spatial_invariance", "inter_class_mass"], images=12)
    lab.evaluate(specs, store, observers=[observer], progress=False)

# %% [markdown]
# A store is read as one table. Columns such as `attention.temperature` stand for what differs.

# %%
df = lab.results.load(store)
columns = ["spec", "attention", "miou", "low", "high", "pixel_accuracy", "images"]
lab.results.summary(df).sort_values("miou", ascending=False)[columns]

# %%
figures.bars(df, sort=True)

# %% [markdown]
# Which classes does a variant find? A cell is the IoU of one class, times 100.

# %%
figures.per_class(df)

# %% [markdown]
# `swept` names the parameters that were varied with all else equal; `curve` draws one of them.

# %%
parameters = curves.swept(df)
parameters

# %%
curves.curve(df, parameters[0]) if parameters else "this store varies no number"

# %% [markdown]
# Diagnostics say why: does attention depend on where it looks from, does it stay in its class?

# %%
measured = lab.results.diagnostics(store)
diagnostics(measured) if len(measured) else "this store holds no diagnostics"

# %% [markdown]
# Raw counts answer what no table shows, for instance the largest confusions of one variant.

# %%
names = df.attrs["class_names"][df["dataset"].iloc[0]]
one = df[(df["spec"] == df["spec"].iloc[0]) & (df["true"] != df["predicted"])]
pixels = one.groupby(["true", "predicted"])["pixels"].sum().nlargest(5)
pixels.rename(index=dict(enumerate(names)))
