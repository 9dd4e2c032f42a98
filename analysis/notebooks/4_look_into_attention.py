# %% [markdown]
# # 4. Look into attention
#
# Where does a patch look, and what is it then called? First as a page to move in, then as a figure
# for the paper.

# %%
import tempfile

import sclip_lab as lab
from sclip_lab.evaluation.observers import Pictures
from sclip_lab.report import pictures
from sclip_lab.results.store import picture_files

backbone = lab.load_backbone("patchwork_vit")
data = lab.load_dataset("patchwork", limit=1)
variants = [lab.load_attention(name) for name in ("vanilla", "csa", "naclip")]

# %% [markdown]
# The explorer: hover over a patch, click to hold it, move with the arrow keys. `explore` also
# takes a photo's file, and `.save("page.html")` keeps the page. It looks like this:
#
# ![The explorer](../../docs/images/explorer.png)

# %% tags=["page"]
scene = data[0]
lab.explore(scene.image, attention=variants, backbone=backbone, mask=scene.mask, title="scene 0")

# %% [markdown]
# The figure: three points of a scene, a row per variant. `Pictures` chooses the points in the
# middle of the largest regions.

# %%
folder = tempfile.TemporaryDirectory()
protocol = lab.load_protocol("sclip", "patchwork")
specs = [lab.Spec(variant, backbone, protocol, data) for variant in variants]
lab.evaluate(specs, folder.name, observers=[Pictures(images=1, points=3)], progress=False)
photos = picture_files.load(folder.name)
pictures.attention_maps(photos)

# %% [markdown]
# The numbers behind it: how much attention goes from each point to its best patch, mean of heads.

# %%
import pandas as pd

best = {p.label: [m.max() for m in p.attention] for p in photos[0].predictions}
pd.DataFrame(best).rename_axis(index="point")

# %% [markdown]
# And what it leads to: photo, truth, and each variant's labels.

# %%
pictures.panel(photos)
