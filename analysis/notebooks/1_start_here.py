# %% [markdown]
# # 1. Start here
#
# We load a small CLIP that comes with the package, label one scene, and compare two forms of
# attention. Nothing is downloaded. With CLIP's own weights the same lines hold:
# `lab.load_backbone("ViT-B-16-quickgelu", pretrained="openai")`.

# %%
import tempfile

import sclip_lab as lab
from sclip_lab.evaluation.observers import Pictures
from sclip_lab.report import pictures
from sclip_lab.results.store import picture_files

backbone = lab.load_backbone("patchwork_vit")
data = lab.load_dataset("patchwork", limit=12)

# %% [markdown]
# A data set is a sequence of samples. Each has a photo and a mask of class ids.

# %%
import matplotlib.pyplot as plt

scene = data[0]
_, (left, right) = plt.subplots(1, 2, figsize=(7, 3), layout="constrained")
left.imshow(scene.image)
right.imshow(scene.mask, cmap="tab20", interpolation="nearest")
left.set_title(scene.name)
right.set_title("its classes")
plt.show()
# %% [markdown]
# `segment` labels every pixel of one photo. Give it a file, an array or a PIL image, and the names
# to choose from; commas separate synonyms of one class. Here they are the data set's names.

# %%
protocol = lab.load_protocol("sclip", "patchwork")
csa = lab.load_attention("csa")
labels = lab.segment(backbone, scene.image, data.vocabulary, csa, protocol)
f"right: {(labels == scene.mask).mean():.0%} of {labels.size} pixels"

# %% [markdown]
# A *spec* is one cell of a table: attention, network, protocol and data set. `evaluate` computes
# the cells that the store does not hold yet, all in one pass. The observer keeps two pictures.

# %%
folder = tempfile.TemporaryDirectory()
specs = [
    lab.Spec(lab.load_attention(name), backbone, protocol, data) for name in ("vanilla", "csa")
]
df = lab.evaluate(specs, folder.name, observers=[Pictures(images=2)], progress=False)
df.iloc[:5, :9]

# %% [markdown]
# One row per spec, image, true class and predicted class, with the number of pixels. Every score
# is a sum over these rows. This is the first table, with 95 % intervals over photos:

# %%
lab.results.summary(df)[["attention", "miou", "low", "high", "pixel_accuracy", "images"]]

# %%
pictures.panel(picture_files.load(folder.name))
