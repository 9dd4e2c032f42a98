"""Refinements change a photo's logits or labels after stitching, at the photo's size.

A refinement is a function of what it names among

========== ========================================================================================
mask       (queries, height, width) stitched logits; the result has that shape
prediction (height, width) class ids after all thresholds; the result has that shape
image      (3, height, width) the normalised photo
text       (queries, embed_dim) unit text embeddings
encoded    the photo's windows behind the network, `sclip_lab.segmentation.encoded.Encoded`
backbone   the network, `sclip_lab.network.backbone.Backbone`
========== ========================================================================================

and of its own parameters. One that takes ``mask`` changes logits, one that takes ``prediction``
labels. Its yaml is a file of ``conf/refinement``, and a protocol names it or several of them:
``protocol.refinement``. The argument lists of this package leave these six out.
"""
