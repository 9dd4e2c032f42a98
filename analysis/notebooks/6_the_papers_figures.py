# %% [markdown]
# # 6. The paper's figures
#
# `sclip-lab paper` evaluates every study and writes one page. The same studies one by one: a
# question, a sweep (`conf/experiment/<study>.yaml`), figures, and claims that are judged.
# Here the embedded world, 12 scenes; `KEYS` takes every key of `sclip-lab evaluate`, such as
# `dataset=voc21 backbone=ViT-B-16-quickgelu pretrained=openai`.

# %%
import os
import tempfile
from pathlib import Path

from IPython.display import display

from sclip_lab.paper import studies
from sclip_lab.run.studies import sections

folder = tempfile.TemporaryDirectory()
store = os.environ.get("SCLIP_LAB_STORE", folder.name)
KEYS = ["dataset.limit=12", f"paths.store={store}", "progress=false"]
{name: studies.load(name).question for name in studies.names()}

# %% [markdown]
# In which blocks should attention change, and what is better left out of them?

# %%
layers, attention = sections(["layers", "attention"], KEYS)
display(*layers.figures.values())

# %% [markdown]
# What the paper claims about it, and what became of that here:

# %%
layers.tables["verdicts_layers"][["claim", "verdict", "why"]].style.hide()

# %% [markdown]
# The paper's figure: where do chosen points look? `sections(..., image=..., points=...)` chooses
# others.

# %%
display(*attention.figures.values())

# %% [markdown]
# Keep a figure for a paper: it is an ordinary matplotlib figure.

# %%
file = Path(folder.name, "attention.pdf")
attention.figures["attention"].savefig(file)
f"{file.stat().st_size} bytes"
